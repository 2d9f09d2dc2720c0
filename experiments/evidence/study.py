"""What a study is, and how its file becomes one."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pandas as pd
from ml_collections import ConfigDict

from data import Corpus
from refused import Refused
from scaling import Evaluation, Labelled
from scaling.plan import Plan, order

HERE = Path(__file__).parents[1]

# Repetition: reading text up to about four times is nearly as good as new text (Muennighoff et
# al. 2023, arXiv:2305.16264, section 6); beyond that a study must say that it means to.
MOST_EPOCHS = 4.0


@dataclass(frozen=True)
class Results:
    """What a study's report is written from: its tables, plan and configuration."""

    config: ConfigDict
    plan: Plan
    corpus: Corpus
    runs: pd.DataFrame
    evals: pd.DataFrame


@dataclass(frozen=True)
class Study:
    """A question: the runs that answer it, how they are evaluated, and how the answer is written.

    Every run carries labels, by which its rows in the tables are told apart (`scaling.labels`); one
    that serves in several arms is listed under each, and trained once.

    `report` turns `Results` into blocks (`experiments.evidence.report`). `repeat` allows more than
    four epochs of a domain. `published` names the numbers that the answer is compared with, with
    their sources.

    Where further runs depend on the losses of these, `then` gives them from the `Results` of these;
    they are trained and reported as if they had stood in `runs`. `awaited` are runs of the same
    cost, for the plan before those losses are there.
    """

    name: str
    corpus: Corpus
    runs: tuple[Labelled, ...]
    evaluation: Evaluation
    report: Callable[[Results], list]
    repeat: bool = False
    published: Mapping[str, str] = field(default_factory=dict)
    then: Callable[[Results], tuple[Labelled, ...]] | None = None
    awaited: tuple[Labelled, ...] = ()

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
          Refused: what a run asks of the corpus cannot be, or more than four epochs.
        """
        epochs: dict[str, float] = {}
        for item in self.runs:
            for domain, count in order(self.corpus, item.run).epochs().items():
                epochs[domain] = max(epochs.get(domain, 0.0), count)
        for domain, count in epochs.items():
            if count > MOST_EPOCHS and not self.repeat:
                accepted = f"at most {MOST_EPOCHS:g}, or config.repeat=True"
                raise Refused(f"epochs of domain {domain}", f"{count:.2f}", accepted)
            if count > 1:
                message = f"domain {domain} is read {count:.2f} times: losses are of repeated data"
                warnings.warn(message, stacklevel=2)
        return epochs


def studies() -> list[str]:
    """Lists the study files that come with the project."""
    files = sorted(HERE.glob("*.py"))
    return [f"experiments/{f.name}" for f in files if "\ndef get_config(" in f.read_text()]


def load_module(path: str) -> ModuleType:
    """Imports a study file.

    Raises:
      Refused: no such file, or a file without `get_config` and `study`.
    """
    file = Path(path)
    if not file.is_file():
        raise Refused("config", path, f"a study file, such as {', '.join(studies())}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise Refused("config", path, "a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise Refused("config", path, f"a Python file without syntax errors ({error})") from None
    for name in ("get_config", "study"):
        if not hasattr(module, name):
            raise Refused("config", path, f"a file that defines {name}")
    return module


def preset(name: str, presets: Mapping[str, Mapping]) -> ConfigDict:
    """Returns a preset's values as a flat ConfigDict.

    Raises:
      Refused: a preset that the study lacks.
    """
    if name not in presets:
        raise Refused("preset", name, ", ".join(presets))
    config = ConfigDict(dict(presets[name]))
    config.preset = name
    return config
