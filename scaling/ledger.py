"""The ledger: what the store lacks of a plan, and what each trained segment leaves there."""

import logging
import math
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

import models
from data import Corpus, HeldOut
from scaling import checkpoint
from scaling.devices import of_kind
from scaling.environment import differences, environment
from scaling.evaluation import Evaluation, evaluate, finite
from scaling.grouping import program_of
from scaling.plan import Plan, Segment
from scaling.progress import Silent
from scaling.state import State, evaluated
from scaling.store import Records, Store
from scaling.train import Program

# A training loss above this multiple of ln V, the loss of a uniform guess, counts as diverged.
DIVERGED_ABOVE = 2.0


def peak_of(mesh: Mesh) -> float | None:
    """Returns the FLOP/s of all devices of a mesh, None where the table of devices lacks them."""
    known = of_kind(mesh.devices.flat[0].device_kind)
    return None if known is None else known.peak * mesh.size


@dataclass
class Meter:
    """Takes a segment's metrics: adds up its seconds, watches for divergence, writes lines.

    Where the devices' peak is known, lines say the share of it that training reaches (`mfu`).
    """

    segment: Segment
    progress: Silent
    log: Records | None = None
    seconds: float = 0.0
    loss: float | None = None
    diverged: int | None = None
    peak: float | None = None  # FLOP/s of all devices, where the table of devices has them.

    def take(self, step: int, rates: np.ndarray, values: dict, seconds: float) -> None:
        """Takes the metrics of `len(rates)` steps after a step, and how long they took."""
        segment, batch = self.segment, self.segment.phase.batch_tokens
        self.seconds += seconds
        speed = len(rates) * batch / seconds
        bound = DIVERGED_ABOVE * math.log(segment.config.vocabulary)
        for after, rate in enumerate(rates, start=step + 1):
            now = {name: float(some[after - step - 1]) for name, some in values.items()}
            loss, norm = now.pop("nll"), now.pop("grad_norm")
            if self.log is not None:
                line = {
                    "step": after,
                    "tokens": segment.first_token + (after - segment.first_step) * batch,
                    "learning_rate": float(np.float32(rate)),
                    "batch_tokens": batch,
                    "loss": finite(loss),
                    "grad_norm": finite(norm),
                    "tokens_per_second": round(speed, 1),
                    "seconds": round(self.seconds, 4),
                }
                if self.peak is not None:
                    flops = speed * models.count(segment.config).flops_train
                    line["mfu"] = round(flops / self.peak, 4)
                self.log.append(line | {name: finite(x) for name, x in now.items()})
            if not loss <= bound or not math.isfinite(norm):
                self.diverged = after
                break
            self.loss = loss
        self.progress.update(segment, step + len(rates), self.loss, speed)

    def flush(self) -> None:
        """Writes the lines taken so far to the store."""
        if self.log is not None:
            self.log.flush()


@dataclass
class Ledger:
    """A plan and its store: what is lacking, and the way in for what is trained.

    `todo` are the segments that are still to be recorded, `waiting` the programs of all that are
    still to be trained, and `needed` all segments on the way to those that were lacking at first.
    Only the first of a run's processes writes, but for checkpoints.
    """

    plan: Plan
    store: Store
    corpus: Corpus
    evaluation: Evaluation
    mesh: Mesh
    keep_params: bool = False
    progress: Silent = field(default_factory=Silent)

    def begin(self) -> None:
        """Settles what there is to do."""
        self.todo, self.writes = self.missing(), jax.process_index() == 0
        self.needed = {segment.id for id in self.todo for segment in self.plan.path(id)}
        some = (self.plan.segments[id] for id in self.needed)
        self.waiting: dict[str, Program] = {s.id: program_of(s, self.mesh) for s in some}

    def missing(self) -> set[str]:
        """Lists the segments that have no record, or none of this evaluation where one is due."""
        return {segment.id for segment in self.plan.segments.values() if self.lacks(segment)}

    def lacks(self, segment: Segment) -> bool:
        """Says whether a segment has no record, or none of this evaluation where one is due."""
        record = self.store.done(segment.id)
        if record is None:
            return True
        due = self.held_out(segment)
        if due is None or record["diverged_step"] is not None:
            return False
        return due.identity not in {r["evaluation"] for r in self.store.read(segment.id, "eval")}

    def held_out(self, segment: Segment) -> HeldOut | None:
        """Returns what is to be evaluated at a segment's end, None where nothing is."""
        if not self.evaluation.everywhere and segment.id not in self.plan.leaves:
            return None
        return self.evaluation.held_out(self.corpus, segment.config.context)

    def followed(self, segment: Segment) -> bool:
        """Says whether the segment's end state is needed by others."""
        return any(id in self.needed for id in self.plan.children.get(segment.id, ()))

    def open(self, segment: Segment, step: int, seconds: float) -> Meter:
        """Takes up a segment at a step, after so many seconds; later lines are dropped."""
        meter = Meter(segment, self.progress, seconds=seconds, peak=peak_of(self.mesh))
        if self.writes and segment.id in self.todo:
            self.store.begin(segment)
            meter.log = self.store.records(segment.id, "metrics", step)
        if step > segment.first_step:  # Where no step is left to take, this is the last loss.
            lines = self.store.read(segment.id, "metrics")
            meter.loss = next((r["loss"] for r in lines if r["step"] == step), None)
        self.progress.start(segment, step)
        return meter

    def evaluate(self, segment: Segment, state: State) -> dict[str, float]:
        """Evaluates a segment's end where that is due, and appends the result to `eval.jsonl`."""
        held_out = self.held_out(segment)
        if held_out is None:
            return {}
        found = evaluate(held_out, segment.config, self.mesh, evaluated(segment.recipe, state))
        if self.writes and all(map(math.isfinite, found["loss"].values())):
            records = self.store.records(segment.id, "eval", before_step=segment.run.steps)
            line = {"step": segment.run.steps, "tokens": segment.run.tokens}
            line |= {"evaluation": held_out.identity, "context": held_out.context}
            records.append(line | found)
            records.flush()
        return found["loss"]

    def finish(self, meter: Meter, losses: dict[str, float] | None) -> None:
        """Records a segment that has ended; without losses, one that was left out."""
        segment = meter.segment
        meter.flush()
        if segment.id in self.todo and self.writes:
            self.store.finish(segment.id, self.record(meter, losses or {}))
        self.tick(segment, losses)

    def tick(self, segment: Segment, losses: dict[str, float] | None) -> None:
        """Takes a segment off the lists, once it is finished, here or by another worker."""
        self.waiting.pop(segment.id, None)
        if segment.id in self.todo:
            self.todo.discard(segment.id)
            self.progress.finish(segment, losses)

    def leave_out(self, segment: Segment, diverged: int) -> None:
        """Records that a segment was not trained, since one before it diverged."""
        if segment.id in self.todo and self.writes:
            self.store.begin(segment)
        self.finish(Meter(segment, self.progress, diverged=diverged), None)

    def record(self, meter: Meter, losses: dict[str, float]) -> dict:
        """Returns what `done.json` says."""
        segment, seconds = meter.segment, meter.seconds
        return {
            "id": segment.id,
            "parent": segment.parent,
            "trunk": segment.run.trunk,
            "first_step": segment.first_step,
            "last_step": segment.run.steps,
            "tokens": segment.tokens,
            "flops_train": segment.flops,
            "diverged_step": meter.diverged,
            "train_loss": meter.loss,
            "loss": losses,
            "seconds": seconds,
            "tokens_per_second": segment.tokens / seconds if seconds else None,
            "mesh": {name: size for name, size in self.mesh.shape.items() if size > 1},
            "environment": environment(),
        }

    def save(self, segment: Segment, step: int, state: State, seconds: float) -> None:
        """Writes a segment's checkpoint."""
        meta = {"step": step, "seconds": seconds, "environment": environment()}
        checkpoint.save(self.store.folder(segment.id), step, state, meta)

    def restore(self, segment: Segment) -> tuple[State, dict] | None:
        """Returns the state and the meta data of a segment's newest checkpoint, or None."""
        found = checkpoint.restore(self.store.folder(segment.id), segment.recipe, self.mesh)
        return found and (found[0], self.compared(f"segment {segment.id}", found[1]))

    def compared(self, name: str, meta: dict) -> dict:
        """Warns where a checkpoint is of an environment that takes sums in another order."""
        for difference in differences(meta["environment"]) if self.writes else ():
            text = "%s resumes under another environment (%s): it will not be bit-equal to an "
            logging.warning(text + "uninterrupted one", name, difference)
        return meta
