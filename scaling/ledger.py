"""The ledger: what the store lacks of a plan, and what each trained segment leaves there."""

import logging
import math
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

import models
from data import Corpus, HeldOut
from refused import Refused
from scaling import checkpoint, processes, seals
from scaling.chips.devices import of_kind
from scaling.environment import differences, environment
from scaling.evaluation import Evaluation, evaluate, finite
from scaling.events import Curves
from scaling.files import remove
from scaling.grouping import program_of
from scaling.leases import Leases
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
    curves: Curves | None = None
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
        lines = []
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
                lines.append(line | {name: finite(x) for name, x in now.items()})
                self.log.append(lines[-1])
            if not loss <= bound or not math.isfinite(norm):
                self.diverged = after
                break
            self.loss = loss
        if self.curves is not None:
            self.curves.take(segment.id, lines)
        self.progress.update(segment, step + len(rates), self.loss, speed)

    def flush(self) -> None:
        """Writes the lines taken so far to the store."""
        if self.log is not None:
            self.log.flush()


@dataclass
class Ledger:
    """A plan and its store: what is lacking, and the way in for what is trained.

    `todo` are the segments that are still to be recorded, `waiting` the programs of all that are
    still to be trained, and `needed` all segments to be trained, those on the way to what was
    lacking at first included, with the steps at which they begin. `keep` are the segments whose end
    states stay in the store; with `keep_params` so do those of runs. Only the first of a run's
    processes writes, but for checkpoints. `leases`, where given, say that nobody else is at what is
    trained here; checkpoints of `unusable` segments are not counted on. `curves` are drawn while
    it trains.
    """

    plan: Plan
    store: Store
    corpus: Corpus
    evaluation: Evaluation
    mesh: Mesh
    keep_params: bool = False
    progress: Silent = field(default_factory=Silent)
    keep: frozenset[str] = frozenset()
    leases: Leases | None = None
    unusable: set[str] = field(default_factory=set)
    curves: Curves | None = None

    def begin(self) -> None:
        """Settles what there is to do, and clears away what is damaged or of no use any more.

        Raises:
          Refused: tasks for several processes, none of which has all of a state.
        """
        if self.evaluation.tasks and jax.process_count() > 1:
            accepted = "one process, or espalier evaluate afterwards"
            raise Refused("tasks", f"{jax.process_count()} processes", accepted)
        self.writes = jax.process_index() == 0
        self.todo = self.missing()
        self.needed = begins = self.begins(self.todo)
        processes.barrier("the store was looked at")
        if self.writes:
            self.mend(begins)
            self.tidy_up(begins)
        self.open_ = self.todo.union(begins)
        some = (self.plan.segments[id] for id in self.needed)
        self.waiting: dict[str, Program] = {s.id: program_of(s, self.mesh) for s in some}

    def missing(self) -> set[str]:
        """Lists the segments that have no record, or none of this evaluation where one is due.

        With `keep_params` also the runs whose parameters are not there.
        """
        return {segment.id for segment in self.plan.segments.values() if self.lacks(segment)}

    def lacks(self, segment: Segment) -> bool:
        """Says whether a segment has no record, or something that is due at its end is missing."""
        record = self.store.done(segment.id)
        if record is None:
            return True
        if record["diverged_step"] is not None:
            return False
        params = self.keep_params and segment.id in self.plan.leaves
        return self.unevaluated(segment) or (params and not self.has_end(segment))

    def unevaluated(self, segment: Segment) -> bool:
        """Says whether an evaluation is due at a segment's end that is not there."""
        if self.held_out(segment) is None:
            return False
        due = self.evaluation.identity(self.corpus, segment.config)
        found = self.store.evals(segment.id)
        if not found and (self.store.done(segment.id) or {}).get("loss"):
            file = self.store.folder(segment.id) / "eval.jsonl"
            seals.tell(f"{seals.Damaged(file, 'no evaluation is in it')}: it is made again")
        tasks = self.evaluation.tasks if segment.id in self.plan.leaves else ()
        asked = {task.identity(segment.config) for task in tasks}
        return not asked | {due} <= {line["evaluation"] for line in found}

    def begins(self, todo: set[str]) -> dict[str, int]:
        """Returns the step at which every segment begins that is to be trained for some others.

        A segment goes on from its own checkpoint, or from the end of the one before; where that
        was not kept, that one is trained as well. What follows a diverged segment is not trained.
        """
        found: dict[str, int] = {}
        for id in todo:
            path = self.plan.path(id)
            if any(self.diverged(segment) is not None for segment in path[:-1]):
                continue
            for segment in reversed(path):
                if segment.id in found or (segment.id != id and self.has_end(segment)):
                    break
                found[segment.id] = self.resumes(segment)
                if found[segment.id] > segment.first_step:
                    break
        return found

    def diverged(self, segment: Segment) -> int | None:
        """Returns the step at which a finished segment diverged, or None."""
        return (self.store.done(segment.id) or {}).get("diverged_step")

    def resumes(self, segment: Segment, mend: bool = False) -> int:
        """Returns the step at which a segment goes on: of its checkpoint, or its first."""
        if segment.id in self.unusable:
            return segment.first_step
        fits = lambda meta: self.fits(segment, meta)
        found = checkpoint.newest(self.store.folder(segment.id), fits, mend)
        return segment.first_step if found is None else found

    def has_end(self, segment: Segment) -> bool:
        """Says whether the store has a segment's end state, sound."""
        return self.resumes(segment) == segment.run.steps > segment.first_step

    def left(self, begins: dict[str, int]) -> tuple[int, float]:
        """Returns the tokens and the training FLOPs from where segments begin to their ends."""
        tokens, flops = 0, 0.0
        for id, step in begins.items():
            segment = self.plan.segments[id]
            share = (segment.run.steps - step) * segment.phase.batch_tokens
            tokens += share
            flops += segment.flops * share / segment.tokens if segment.tokens else 0.0
        return tokens, flops

    def mend(self, begins: dict[str, int]) -> None:
        """Deletes damaged checkpoints of what is to be trained; writes damaged specs again."""
        for segment in self.plan.segments.values():
            if segment.id in begins:
                self.resumes(segment, mend=True)
            try:
                lost = self.store.spec(segment.id) is None
            except seals.Damaged as damaged:
                seals.tell(f"{damaged}: it is written again from the plan")
                lost = True
            if lost and self.store.done(segment.id) is not None:
                self.store.begin(segment)

    def tidy_up(self, begins: dict[str, int]) -> None:
        """Deletes checkpoints that a kill left of finished segments from which nothing goes on."""
        for segment in self.plan.segments.values():
            waiting = {segment.id, *self.plan.children.get(segment.id, ())} & begins.keys()
            if not waiting and segment.id not in self.todo and not self.taken(segment):
                checkpoint.discard(self.store.folder(segment.id), segment.run.steps)
        fleets = self.store.path / "fleets"
        for folder in fleets.iterdir() if fleets.exists() else ():
            said = [checkpoint.said(folder, step) for step in checkpoint.steps(folder)]
            members = {id for meta in said for id in meta.get("seconds", ())}
            if members and not members & begins.keys() and members <= self.plan.segments.keys():
                remove(folder)

    def taken(self, segment: Segment) -> bool:
        """Says whether somebody is at a segment."""
        return (self.store.path / "leases" / segment.id).exists()

    def keeps(self, segment: Segment) -> bool:
        """Says whether a segment's end state stays in the store."""
        return segment.id in self.keep or (self.keep_params and segment.id in self.plan.leaves)

    def held_out(self, segment: Segment) -> HeldOut | None:
        """Returns what is to be evaluated at a segment's end, None where nothing is."""
        if not self.evaluation.everywhere and segment.id not in self.plan.leaves:
            return None
        return self.evaluation.held_out(self.corpus, segment.config.context)

    def followed(self, segment: Segment) -> bool:
        """Says whether the segment's end state is needed by others."""
        return any(id in self.needed for id in self.plan.children.get(segment.id, ()))

    def open(self, segment: Segment, step: int, seconds: float) -> Meter:
        """Takes up a segment at a step, after so many seconds; later lines are dropped.

        A segment that is recorded already is trained for its end state and leaves no lines.
        """
        meter = Meter(segment, self.progress, seconds=seconds, peak=peak_of(self.mesh))
        if step > segment.first_step:  # Where no step is left to take, this is the last loss.
            lines = self.store.metrics(segment.id)
            meter.loss = next((r["loss"] for r in lines if r["step"] == step), None)
        if self.writes and segment.id in self.todo and self.store.done(segment.id) is None:
            self.store.begin(segment)
            meter.log, meter.curves = self.store.records(segment.id, step), self.curves
        self.progress.start(segment, step)
        return meter

    def evaluate(self, segment: Segment, state: State) -> dict[str, float]:
        """Evaluates a segment's end where that is due, and records the result."""
        held_out = self.held_out(segment)
        if held_out is None:
            return {}
        found = evaluate(held_out, segment.config, self.mesh, evaluated(segment.recipe, state))
        if self.writes and all(map(math.isfinite, found["loss"].values())):
            line = {"step": segment.run.steps, "tokens": segment.run.tokens}
            identity = self.evaluation.identity(self.corpus, segment.config)
            line |= {"evaluation": identity, "context": held_out.context}
            self.hold()
            self.store.add_eval(segment.id, line | found)
            self.ask(segment, state)
        return found["loss"]

    def ask(self, segment: Segment, state: State) -> None:
        """Asks the end of a run the evaluation's tasks and records the answers."""
        if not self.evaluation.tasks or segment.id not in self.plan.leaves:
            return
        there = {line["evaluation"] for line in self.store.evals(segment.id)}
        state = evaluated(segment.recipe, state)
        for line in self.evaluation.asked(self.corpus, segment.config, state, there):
            head = {"step": segment.run.steps, "tokens": segment.run.tokens}
            self.store.add_eval(segment.id, head | line)

    def hold(self) -> None:
        """Looks whether what is trained here is still ours to write.

        Raises:
          Lost: another has taken it over.
        """
        if self.leases is not None and jax.process_count() == 1:
            self.leases.check(now=True)

    def finish(self, meter: Meter, losses: dict[str, float] | None) -> None:
        """Records a segment that has ended; without losses, one that was left out."""
        segment = meter.segment
        self.hold()
        meter.flush()
        if segment.id in self.todo and self.writes:
            known = self.store.done(segment.id)
            if known is None:
                self.store.finish(segment.id, self.record(meter, losses or {}), meter.log)
            elif meter.diverged is not None:  # By a later evaluation.
                self.store.finish(segment.id, known | {"diverged_step": meter.diverged})
        self.tick(segment, losses)

    def tick(self, segment: Segment, losses: dict[str, float] | None) -> None:
        """Takes a segment off the lists, once it is finished, here or by another worker."""
        self.waiting.pop(segment.id, None)
        self.todo.discard(segment.id)
        if segment.id in self.open_:
            self.open_.discard(segment.id)
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

    def save(self, segment: Segment, step: int, state: State, meter: Meter) -> None:
        """Writes a segment's checkpoint."""
        self.hold()
        meta = {"step": step, "seconds": meter.seconds, "environment": environment()}
        meta["metrics"] = meter.log.head if meter.log is not None else None
        kept = step == segment.run.steps and self.keeps(segment)
        checkpoint.save(self.store.folder(segment.id), step, state, meta, kept)

    def restore(self, segment: Segment) -> tuple[State, dict] | None:
        """Returns the state and the meta data of a segment's newest checkpoint, or None."""
        folder, wanted = self.store.folder(segment.id), lambda meta: self.fits(segment, meta)
        found = checkpoint.restore(folder, segment.recipe, self.mesh, wanted)
        return found and (found[0], self.compared(f"segment {segment.id}", found[1]))

    def fits(self, segment: Segment, meta: dict, step: int | None = None) -> bool:
        """Says whether a checkpoint is within a segment and the lines up to it are sound.

        A study that cuts its runs elsewhere may have left one from before the segment.
        """
        step, check = meta["step"] if step is None else step, meta.get("metrics")
        if isinstance(check, dict):
            check = check.get(segment.id)
        if not segment.first_step <= step <= segment.run.steps:
            return False
        if check is None or self.store.done(segment.id) is not None:
            return True
        lines = self.store.lines(segment.id)
        heads = {r["step"]: c for r, c in zip(lines.records, lines.checks, strict=True)}
        if heads.get(step, "") == check:
            return True
        file = self.store.folder(segment.id) / "metrics.jsonl"
        why = lines.why or f"no sound line of step {step}"
        seals.tell(f"{seals.Damaged(file, why)}: segment {segment.id} is trained again")
        return False

    def compared(self, name: str, meta: dict) -> dict:
        """Warns where a checkpoint is of an environment that takes sums in another order."""
        for difference in differences(meta["environment"]) if self.writes else ():
            text = "%s resumes under another environment (%s): it will not be bit-equal to an "
            logging.warning(text + "uninterrupted one", name, difference)
        return meta
