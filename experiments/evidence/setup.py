"""What the runs of a study have in common, read from its configuration in one place."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from ml_collections import ConfigDict

from data import Corpus, Mixture, load
from experiments.evidence.study import Study
from models import ModelConfig, count, ladder
from models.ladder import Rung
from scaling import AdamW, Data, Evaluation, Labelled, Optimizer, Phase, Run, wsd
from scaling.tasks import task_of


@dataclass(frozen=True, eq=False)
class Setup:
    """A configuration with its corpus, and what the two say for every run.

    The configuration has `corpus`, `context`, `batch_tokens`, `warmup_tokens`, `evaluation_tokens`
    and `repeat`. It may have `dtype`, `tokens`, `tasks` (names of `scaling.tasks` and files, with
    commas) and `mixture`; where that is absent or empty, runs read the corpus's main domains in
    equal shares.
    """

    config: ConfigDict
    corpus: Corpus

    @classmethod
    def of(cls, config: ConfigDict) -> Self:
        """Opens the corpus of a configuration."""
        return cls(config, load(config.corpus))

    @cached_property
    def data(self) -> Data:
        """What runs read."""
        text = self.config.get("mixture")
        mixture = Mixture.parse(text) if text else Mixture.uniform(self.corpus.main)
        return Data.of(self.corpus, mixture)

    @property
    def evaluation(self) -> Evaluation:
        """How runs are evaluated: on the domains that they read, and by `tasks`, where it says."""
        domains, asked = self.data.mixture.names, self.config.get("tasks")
        tasks = [one for one in (asked or "").split(",") if one]
        found = tuple(task_of(one, self.corpus, domains[0]) for one in tasks)
        return Evaluation(self.config.evaluation_tokens, domains=domains, tasks=found)

    @property
    def shape(self) -> dict:
        """The fields that all models share: vocabulary, context and, where it is set, dtype."""
        kept = {name: self.config[name] for name in ("context", "dtype") if name in self.config}
        return {"vocabulary": self.corpus.vocabulary} | kept

    def rung(self, width: int, tokens: int | None = None, **model) -> Rung:
        """Returns the ladder's rung of a width, for the configuration's tokens unless told."""
        tokens = self.config.tokens if tokens is None else tokens
        return ladder(width, tokens, **self.shape | model)

    def phases(self, tokens: int | None = None, decay_fraction: float = 0.2) -> tuple[Phase, ...]:
        """Returns a warmup–stable–decay schedule, of the configuration's tokens unless told."""
        config, tokens = self.config, self.config.tokens if tokens is None else tokens
        return wsd(tokens, config.batch_tokens, config.warmup_tokens, decay_fraction)

    def run(
        self,
        model: ModelConfig,
        rate: float,
        seed: int,
        phases: tuple[Phase, ...],
        optimizer: type[Optimizer] = AdamW,
    ) -> Run:
        """Returns a run at a peak rate, with the weight decay that the ladder gives that rate."""
        fields = dict(model=model, optimizer=optimizer.at(rate), seed=seed, phases=tuple(phases))
        return Run(data=self.data, **fields)

    def on_ladder(self, width: int, seed: int, phases: tuple[Phase, ...]) -> Run:
        """Returns the run of the ladder's rung of a width, at its own rate."""
        return Run.of(self.rung(width), self.data, seed, phases)

    def arm(
        self, model: ModelConfig, peak: float, phases: tuple[Phase, ...] | None = None
    ) -> Callable[[float, int], Run]:
        """Returns an arm of a sweep: (multiple of `peak`, seed) → run.

        Rates are rounded to three digits, as the ladder's are.
        """
        phases = self.phases() if phases is None else phases
        return lambda rate, seed: self.run(model, float(f"{rate * peak:.3g}"), seed, phases)

    def study(self, report: Callable, runs: Iterable[Labelled], **more) -> Study:
        """Returns the study of the file that `report` stands in; `more` are fields of `Study`."""
        fields = dict(
            name=report.__module__.rpartition(".")[2],
            corpus=self.corpus,
            evaluation=self.evaluation,
            repeat=self.config.repeat,
        )
        return Study(report=report, runs=tuple(runs), **fields | more)


def matched(model: ModelConfig, column: str, target: int) -> ModelConfig:
    """Sets the feed-forward's width to bring a count, which is linear in it, to a target.

    `column` is a field of `models.count`, such as `params_active`.
    """
    one, two = (getattr(count(replace(model, ff_width=width)), column) for width in (1, 2))
    return replace(model, ff_width=max(1, 1 + round((target - one) / (two - one))))
