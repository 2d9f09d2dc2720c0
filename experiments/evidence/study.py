"""What a study is."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
from ml_collections import ConfigDict

from data import Corpus
from refused import Refused, listed
from scaling import Evaluation, Labelled, Run
from scaling.plan import Plan, order

# Repetition: reading text up to about four times is nearly as good as new text (Muennighoff et
# al. 2023, arXiv:2305.16264, section 6); beyond that a study must say that it means to.
MOST_EPOCHS = 4.0

# What most presets for two CPU cores, and for one accelerator, have in common.
CPU = dict(
    batch_tokens=1024,
    context=64,
    warmup_tokens=25 * 1024,
    evaluation_tokens=32_768,
    corpus="wheels",
    dtype="float32",
    repeat=False,
)
GPU = dict(
    batch_tokens=32_768,
    context=256,
    warmup_tokens=50 * 32_768,
    evaluation_tokens=262_144,
    corpus="wheels",
    dtype="bfloat16",
    repeat=True,
)


@dataclass(frozen=True)
class Results:
    """What a study's report is written from: its tables, plan and configuration."""

    config: ConfigDict
    plan: Plan
    corpus: Corpus
    runs: pd.DataFrame
    evals: pd.DataFrame

    @property
    def losses(self) -> dict[str, float]:
        """Returns the losses at the ends of runs, by identity, infinite of what diverged."""
        found = self.runs["loss"].where(self.runs["diverged_step"].isna(), math.inf)
        by_run = dict(zip(self.runs["run"], found.astype(float), strict=True))
        return {run: loss for run, loss in by_run.items() if not math.isnan(loss)}


@dataclass(frozen=True)
class Study:
    """A question: the runs that answer it, how they are evaluated, and how the answer is written.

    Every run carries labels, by which its rows in the tables are told apart (`scaling.labels`); one
    that serves in several arms is listed under each, and trained once.

    `report` turns `Results` into blocks (`experiments.evidence.report`). `repeat` allows more than
    four epochs of a domain.

    Where further runs depend on the losses of these, `then` gives them from the `Results` of these;
    they are trained and reported as if they had stood in `runs`, and `then` is asked again, until
    it gives none that are not there. `awaited` are runs of the same cost, for the plan before.

    `laws` says what the report fits: from a table of the runs without losses to (law, parameter
    count, mask of the rows that are fitted) each, so that what cannot be fitted is said before
    anything is trained (`experiments.evidence.law.foreseen`).
    """

    name: str
    corpus: Corpus
    runs: tuple[Labelled, ...]
    evaluation: Evaluation
    report: Callable[[Results], list]
    repeat: bool = False
    then: Callable[[Results], tuple[Labelled, ...]] | None = None
    awaited: tuple[Labelled, ...] = ()
    laws: Callable[[pd.DataFrame], Iterable[tuple]] | None = None

    def __post_init__(self):
        if not self.runs:
            raise Refused("study", "no runs", "values of its configuration that give at least one")
        if not all(isinstance(item, Labelled) for item in (*self.runs, *self.awaited)):
            accepted = "scaling.labelled(run, arm=..., rate=...) for each, so that rows have names"
            raise Refused("study", "runs without labels", accepted)

    def check(self) -> dict[str, float]:
        """Checks every run against the corpus and returns the epochs of each domain at most.

        Warns above one epoch.

        Raises:
          Refused: what a run asks of the corpus cannot be, a rate that its phase is too short to
            reach, evaluation windows that are not there, or more than four epochs.
        """
        epochs: dict[str, float] = {}
        for item in self.runs:
            for domain, count in order(self.corpus, item.run).epochs().items():
                epochs[domain] = max(epochs.get(domain, 0.0), count)
            check_rates(item.run)
        for context in {item.run.model_at(-1).context for item in self.runs}:
            self.evaluation.held_out(self.corpus, context)
        for domain, count in epochs.items():
            if count > MOST_EPOCHS and not self.repeat:
                accepted = f"at most {MOST_EPOCHS:g}, or config.repeat=True"
                raise Refused(f"epochs of domain {domain}", f"{count:.2f}", accepted)
            if count > 1:
                message = f"domain {domain} is read {count:.2f} times: losses are of repeated data"
                warnings.warn(message, stacklevel=2)
        return epochs


def check_rates(run: Run) -> None:
    """Refuses a phase that ends before its rate is where it moves to, as in a long warm-up.

    The last phase of a run may: a look at how far it has come.
    """
    for phase in run.phases[:-1]:
        rate = phase.rate
        if rate.over is not None and rate.over > phase.tokens > 0 and rate.start != rate.stop:
            accepted = (
                f"at most the {phase.tokens:,} tokens of its phase, or more tokens: the rate would "
                f"not reach {rate.stop:g} times its peak"
            )
            raise Refused("warmup_tokens", rate.over, accepted)


def configured(presets: Mapping[str, Mapping]) -> Callable[..., ConfigDict]:
    """Returns a study's `get_config`: from a preset's name to its values, as a flat ConfigDict.

    It refuses a preset that the study lacks.
    """

    def get_config(name: str = "cpu") -> ConfigDict:
        if name not in presets:
            raise Refused("preset", name, listed(presets, name))
        return ConfigDict(dict(presets[name]) | {"preset": name})

    return get_config
