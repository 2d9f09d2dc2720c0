"""Trackers: services that are told what `metrics.jsonl` gets, beside TensorBoard's files.

A tracker has `take(id, lines)`, lines of a segment in training, and `close()`.
"""

import importlib.util
from collections.abc import Iterable

from etils import epath

from refused import Refused
from scaling.events import curves, folder_name, records, through
from scaling.plan import Plan
from scaling.store import Store


class Several:
    """Tells several what one is told."""

    def __init__(self, *told):
        self.told = told

    def take(self, id: str, lines: list[dict]) -> None:
        """Hands the lines of a segment on."""
        for one in self.told:
            one.take(id, lines)


class WandB:
    """Runs of a plan as runs of Weights & Biases, by their identity, with steps as steps.

    Whether it is online follows from wandb's own settings (`WANDB_MODE=offline` writes files in
    `folder` and opens no connection). What the store has of a run already is told first, so that a
    run that goes on after a kill is whole; steps that the service has are not told again.
    """

    def __init__(self, folder: epath.Path, plan: Plan, store: Store, project: str):
        self.folder, self.plan, self.store, self.project = folder, plan, store, project
        self.through = through(plan)
        self.runs: dict[int, object] = {}
        self.last: dict[int, int] = {}

    def take(self, id: str, lines: list[dict]) -> None:
        """Tells every run through a segment its lines."""
        for index in self.through[id] if lines else ():
            if index not in self.runs:
                self.open(index)
                known = records(self.store, self.plan, index)
                first = lines[0]["step"]
                self.tell(index, [r for r in known if "evaluation" not in r and r["step"] < first])
            self.tell(index, lines)

    def open(self, index: int) -> None:
        """Begins a run, or takes it up again where the service knows it."""
        import wandb

        run = self.plan.runs[index]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.runs[index] = wandb.init(
            project=self.project,
            id=run.identity,
            name=folder_name(self.plan, index),
            dir=str(self.folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self.last[index] = self.runs[index].starting_step

    def tell(self, index: int, lines: Iterable[dict]) -> None:
        """Logs lines of steps that were not logged yet."""
        for line in lines:
            if line["step"] > self.last[index]:
                told = {tag: value for tag, value in curves(line) if value is not None}
                self.runs[index].log(told | {"tokens": line["tokens"]}, step=line["step"])
                self.last[index] = line["step"]

    def close(self) -> None:
        """Adds the evaluations of the runs' ends to their summaries and ends the runs."""
        for index, run in self.runs.items():
            for line in self.store.evals(self.plan.runs[index].identity):
                found = {tag: x for tag, x in curves(line) if x is not None}
                run.summary.update({f"end/{tag}": x for tag, x in found.items()})
            run.finish()
        self.runs.clear()


def project_of(text: str) -> str:
    """Returns the project that `wandb:PROJECT` names.

    Raises:
      Refused: another text, or no wandb here.
    """
    kind, _, project = text.partition(":")
    if kind != "wandb" or not project:
        raise Refused("--track", text, "wandb:PROJECT")
    if importlib.util.find_spec("wandb") is None:
        raise Refused("--track", "wandb, which is missing", "pip install 'espalier[wandb]'")
    return project


def tracker(text: str, folder: epath.Path, plan: Plan, store: Store) -> WandB:
    """Returns the tracker that `wandb:PROJECT` names (`project_of`)."""
    return WandB(folder, plan, store, project_of(text))
