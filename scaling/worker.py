"""The worker: trains what a plan lacks, depth first, handing a trunk's state to its children."""

import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data import Corpus, HeldOut, Reader
from models import ModelConfig
from scaling import checkpoint, processes
from scaling.environment import differences, environment
from scaling.events import write_events
from scaling.mesh import of_one_run, place, state_shardings
from scaling.plan import Plan, Segment, order
from scaling.progress import Silent
from scaling.state import State, fresh, initial
from scaling.store import Store
from scaling.trace import Trace
from scaling.train import Program, advance, evaluate, on_mesh, warm

# A training loss above this multiple of ln V, the loss of a uniform guess, counts as diverged.
DIVERGED_ABOVE = 2.0


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: tokens per domain, and whether at the ends of runs or of all segments.

    `domains` limits the domains (default: all). An evaluation has an identity of its own.
    """

    tokens_per_domain: int
    everywhere: bool = False
    domains: tuple[str, ...] = ()

    def held_out(self, corpus: Corpus, context: int) -> HeldOut:
        """Returns the windows for a context length."""
        return HeldOut(corpus, context, self.tokens_per_domain, self.domains)


def enter(segment: Segment, state: State) -> State:
    """Applies what a phase does at its start, where the segment begins with the phase."""
    phase, recipe = segment.phase, segment.recipe
    if segment.offset == 0 and phase.change is not None:
        state = phase.change.state(state, recipe, segment.run.seed)
    if segment.offset == 0 and not phase.keep_optimizer:
        trained = {path: state.params[path] for path in state.moments}
        state = state.replace(moments=fresh(recipe, trained))
    return state


class Stopped(Exception):
    """The time allowed is over; everything done so far is in the store."""


@dataclass
class Worker:
    """Trains a plan into a store; what is there already is not trained again.

    `checkpoint_seconds` bounds the work a kill can undo; `stop_after` ends cleanly after so many
    seconds (`Stopped`), between dispatches. `keep_params` leaves a checkpoint at each run's end.
    `way` leads the worker through the plan otherwise than one segment after the other
    (`fleet.in_fleets`, `sharing.Sharing`). `shares` says that other workers go on from what this
    one trains: it checkpoints the end of every segment that others follow. `alive` is asked between
    dispatches; it says False for the worker to stop, and may raise to have it leave a segment.
    `trace` looks at some steps of the first segment.
    """

    plan: Plan
    store: Store
    corpus: Corpus
    evaluation: Evaluation
    mesh: Mesh
    checkpoint_seconds: float = 60.0
    stop_after: float | None = None
    keep_params: bool = False
    progress: object = field(default_factory=Silent)
    way: Callable[["Worker"], None] | None = None
    shares: bool = False
    alive: Callable[[], bool] = lambda: True
    trace: Trace = field(default_factory=Trace)

    def missing(self) -> set[str]:
        """Lists the segments that have no record, or none of this evaluation where one is due."""
        return {segment.id for segment in self.plan.segments.values() if self.lacks(segment)}

    def lacks(self, segment: Segment) -> bool:
        """Says whether a segment has no record, or none of this evaluation where one is due."""
        record = self.store.done(segment.id)
        if record is None:
            return True
        wanted = self.evaluated(segment)
        if not wanted or record["diverged_step"] is not None:
            return False
        return wanted not in {r["evaluation"] for r in self.store.read(segment.id, "eval")}

    def evaluated(self, segment: Segment) -> str | None:
        """Returns the identity of the evaluation due at a segment's end, None without one."""
        if not self.evaluation.everywhere and segment.id not in self.plan.leaves:
            return None
        return self.evaluation.held_out(self.corpus, segment.config.context).identity

    def run(self) -> int:
        """Trains all that is missing and returns how many segments that were.

        Raises:
          Stopped: the time allowed is over.
        """
        self.began = self.saved = time.monotonic()
        todo = self.missing()
        processes.agree(self.store.path, f"{sorted(todo)} {self.mesh.shape} {self.keep_params}")
        self.needed = {id for missing in todo for id in (s.id for s in self.plan.path(missing))}
        self.todo = todo
        self.progress.begin([s for s in self.plan.segments.values() if s.id in todo])
        try:
            if self.way is None:
                self.descend(None, None)
            else:
                self.way(self)
        finally:
            self.trace.close()
            self.progress.end()
        return len(todo)

    def descend(self, parent: Segment | None, end: State | None) -> None:
        """Trains the needed children of a segment, whose end state goes to the last of them."""
        children = [
            self.plan.segments[id]
            for id in self.plan.children.get(parent.id if parent else None, ())
            if id in self.needed
        ]
        for child in children:
            last = child is children[-1]
            if parent is None:
                start = lambda child=child: initial(child.run.recipe, child.run.seed)
            elif last:
                # Handed over, not copied; the reference here is dropped so that it can be donated.
                handed, end = [end], None
                start = handed.pop
            else:
                start = lambda end=end: jax.tree.map(jnp.copy, end)
            state, diverged = self.train(child, start)
            if diverged is None:
                self.descend(child, state)
            else:
                self.abandon(child, diverged)
            state = None
            if self.writes and not self.keep_params:
                checkpoint.discard(self.store.folder(child.id))

    def abandon(self, parent: Segment, diverged: int) -> None:
        """Records that what would have followed a diverged segment was not trained."""
        for segment in self.plan.walk(parent.id):
            self.leave_out(segment, diverged)

    def leave_out(self, segment: Segment, diverged: int) -> None:
        """Records that a segment was not trained."""
        if segment.id in self.todo and self.writes:
            self.store.begin(segment)
            self.store.finish(segment.id, self.record(segment, diverged, {}))
        self.progress.finish(segment, None)

    def restored(self, segment: Segment) -> tuple[State, dict] | None:
        """Returns the state and the meta data of a segment's newest checkpoint, or None.

        Warns where it was written under an environment that takes sums in another order.
        """
        found = checkpoint.restore(self.store.folder(segment.id), segment.recipe, self.mesh)
        for difference in differences(found[1]["environment"]) if found and self.writes else ():
            logging.warning(
                "segment %s resumes under another environment (%s): it will not be "
                "bit-equal to an uninterrupted one",
                segment.id,
                difference,
            )
        return found

    def train(
        self, segment: Segment, start: Callable[[], State]
    ) -> tuple[State | None, int | None]:
        """Trains one segment from its newest checkpoint or from `start()`.

        Returns the end state, or None and the step at which the loss diverged.
        """
        phase = segment.phase
        program = Program(recipe=segment.recipe, batch_tokens=phase.batch_tokens, mesh=self.mesh)
        found = self.restored(segment)
        if found is not None:
            state, meta = found
            step, seconds = meta["step"], meta["seconds"]
        else:
            state, step, seconds = enter(segment, start()), segment.first_step, 0.0
            state = on_mesh(program, state)
        if segment.id in self.todo and self.writes:
            self.store.begin(segment)
        log = self.log(segment, step)
        self.progress.start(segment, step)
        if segment.steps:
            state = warm(program, state)
        reader = Reader(
            self.corpus,
            order(self.corpus, segment.run),
            segment.index,
            program.sequences,
            start_step=segment.offset + step - segment.first_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        meter = Meter(segment, seconds, log, self.progress)
        if found is not None:  # Where no step is left to take, this is the last loss.
            meter.loss = self.loss_at(segment, step)
        peak, decay = segment.run.optimizer.learning_rate, segment.run.optimizer.weight_decay
        while step < segment.run.steps:
            count = self.trace.cut(min(program.dispatch_steps, segment.run.steps - step))
            inside = segment.offset + step - segment.first_step
            rates = peak * phase.rates(inside, inside + count)
            windows = reader.read(count)
            take = functools.partial(advance, program, state, windows, rates, decay)
            state, metrics = self.trace.dispatch(step, take)
            # The dispatch before this one has ended or is about to: reading it costs no waiting.
            meter.read()
            meter.hold(step, rates, metrics)
            step += count
            if jax.process_count() > 1:  # Two programs that exchange data at a time can deadlock.
                jax.block_until_ready((state, metrics))
            save, stop = self.due(segment, step)
            if step == segment.run.steps or save or stop:
                meter.read()
            if meter.diverged is not None:
                break
            if save or stop:
                meter.flush()
                self.save(segment, step, state, meter.seconds)
                if self.writes:
                    self.tensorboard(segment)
            if stop:
                raise Stopped(f"stopped at step {step} of {segment.run.steps} of {segment.id}")
        self.trace.close()
        meter.flush()
        if not segment.steps and found is None and self.due(segment, step)[0]:
            self.save(segment, step, state, meter.seconds)
        losses = {}
        if meter.diverged is None and self.evaluated(segment):
            losses = self.evaluate(segment, state)
            if not all(map(math.isfinite, losses.values())):
                losses, meter.diverged = {}, segment.run.steps
        if self.writes and segment.id in self.todo:
            self.store.finish(segment.id, self.record(segment, meter.diverged, losses, meter))
        self.progress.finish(segment, losses)
        return (None, meter.diverged) if meter.diverged is not None else (state, None)

    def save(self, segment: Segment, step: int, state: State, seconds: float) -> None:
        """Writes a checkpoint."""
        meta = {"step": step, "seconds": seconds, "environment": environment()}
        checkpoint.save(self.store.folder(segment.id), step, state, meta)
        self.saved = time.monotonic()

    @property
    def writes(self) -> bool:
        """Says whether this process writes records: only the first of a run's processes does."""
        return jax.process_index() == 0

    def log(self, segment: Segment, step: int):
        """Opens the segment's metrics; None where another process or an earlier run wrote them."""
        if not self.writes or segment.id not in self.todo:
            return None
        return self.store.records(segment.id, "metrics", step)

    def loss_at(self, segment: Segment, step: int) -> float | None:
        """Returns the training loss that the store has of a step, or None."""
        found = [r["loss"] for r in self.store.read(segment.id, "metrics") if r["step"] == step]
        return found[-1] if found else None

    def due(self, segment: Segment, step: int) -> tuple[bool, bool]:
        """Says whether to write a checkpoint and whether to stop; all processes agree.

        At a segment's end a checkpoint is due only where children will need the state.
        """
        save, stop = self.due_now()
        if step == segment.run.steps:
            needs = any(id in self.needed for id in self.plan.children.get(segment.id, ()))
            keeps = self.keep_params and segment.id in self.plan.leaves
            save = ((save or self.shares) and needs) or keeps
        save, stop = processes.any_of(save, stop)
        return save, stop

    def due_now(self) -> tuple[bool, bool]:
        """Says whether the time has come for a checkpoint, and to stop."""
        now = time.monotonic()
        over = self.stop_after is not None and now - self.began >= self.stop_after
        stop = not self.alive() or over
        return now - self.saved >= self.checkpoint_seconds, stop

    def evaluate(self, segment: Segment, state: State) -> dict[str, float]:
        """Evaluates on every domain's held-out windows and appends the result to `eval.jsonl`.

        A quantised model is evaluated once more with its weights as they are kept, and a run that
        averages its weights with the averages; only the losses of the model itself are returned.
        """
        config = segment.config
        held_out = self.evaluation.held_out(self.corpus, config.context)
        losses, bits = self.losses(held_out, config, state)
        others = {}
        if config.quantization is not None:
            others["unquantised"] = (replace(config, quantization=None), state)
        if state.averages:
            others["averaged"] = (config, state.averaged)
        extra = {}
        for name, (other, values) in others.items():
            pair = zip(("loss", "bits_per_byte"), self.losses(held_out, other, values), strict=True)
            extra |= {
                f"{kind}_{name}": {domain: finite(x) for domain, x in found.items()}
                for kind, found in pair
            }
        if self.writes and all(map(math.isfinite, losses.values())):
            records = self.store.records(segment.id, "eval", before_step=segment.run.steps)
            records.append(
                {
                    "step": segment.run.steps,
                    "tokens": segment.run.tokens,
                    "evaluation": held_out.identity,
                    "context": held_out.context,
                    "loss": losses,
                    "bits_per_byte": bits,
                    **extra,
                }
            )
            records.flush()
        return losses

    def losses(self, held_out: HeldOut, config: ModelConfig, state: State) -> tuple[dict, dict]:
        """Returns nats per token and bits per byte by domain."""
        windows = {name: held_out.windows(name) for name in held_out.names}
        mesh = of_one_run(self.mesh)
        if mesh is not self.mesh:
            state = place(state, state_shardings(mesh, config, state))
        sums = evaluate(config, mesh, state, np.concatenate(list(windows.values())))
        losses, begin = {}, 0
        for name, some in windows.items():
            losses[name] = float(
                sums[begin : begin + len(some)].sum() / (len(some) * (some.shape[1] - 1))
            )
            begin += len(some)
        bits = {
            name: loss / math.log(2) / held_out.bytes_per_token(name)
            for name, loss in losses.items()
        }
        return losses, bits

    def record(self, segment: Segment, diverged: int | None, losses: dict, meter=None) -> dict:
        """Returns what `done.json` says."""
        seconds = meter.seconds if meter else 0.0
        return {
            "id": segment.id,
            "parent": segment.parent,
            "trunk": segment.run.trunk,
            "first_step": segment.first_step,
            "last_step": segment.run.steps,
            "tokens": segment.tokens,
            "flops_train": segment.flops,
            "diverged_step": diverged,
            "train_loss": meter.loss if meter else None,
            "loss": losses,
            "seconds": seconds,
            "tokens_per_second": segment.tokens / seconds if seconds else None,
            "mesh": {name: size for name, size in self.mesh.shape.items() if size > 1},
            "environment": environment(),
        }

    def tensorboard(self, segment: Segment) -> None:
        """Brings the segment's TensorBoard file up to date, for who watches a long one."""
        folder = self.store.folder(segment.id) / "tensorboard"
        write_events(folder, self.store.read(segment.id, "metrics"), replace=True)


@dataclass
class Meter:
    """Reads metrics one dispatch late, watches for divergence, and writes them down."""

    segment: Segment
    seconds: float
    log: object
    progress: object
    loss: float | None = None
    diverged: int | None = None
    held: tuple | None = None
    at: float = field(default_factory=time.monotonic)

    def hold(self, step: int, rates: np.ndarray, metrics: dict) -> None:
        """Keeps a dispatch's metrics, still on the device, for the next `read`."""
        self.held = (step, rates, metrics)

    def read(self, share: float = 1.0) -> None:
        """Reads the metrics held, waiting for the device if need be.

        `share` is the part of the time since the last reading that this segment is charged.
        """
        if self.held is None:
            return
        (step, rates, metrics), self.held = self.held, None
        values = {k: np.asarray(v)[: len(rates)] for k, v in metrics.items()}
        now = time.monotonic()
        elapsed, self.at = share * (now - self.at), now
        self.seconds += elapsed
        batch = self.segment.phase.batch_tokens
        speed = len(rates) * batch / elapsed
        bound = DIVERGED_ABOVE * math.log(self.segment.config.vocabulary)
        for i, rate in enumerate(rates):
            loss = float(values["nll"][i])
            bad = not (loss <= bound) or not np.isfinite(values["grad_norm"][i])
            if bad and self.diverged is None:
                self.diverged = step + i + 1
            if self.log is not None:
                after = step + i + 1
                extra = {k: float(v[i]) for k, v in values.items() if k not in ("nll", "grad_norm")}
                self.log.append(
                    {
                        "step": after,
                        "tokens": self.segment.first_token
                        + (after - self.segment.first_step) * batch,
                        "learning_rate": float(np.float32(rate)),
                        "batch_tokens": batch,
                        "loss": loss if math.isfinite(loss) else None,
                        "grad_norm": finite(values["grad_norm"][i]),
                        "tokens_per_second": round(speed, 1),
                        "seconds": round(self.seconds, 4),
                        **{k: finite(v) for k, v in extra.items()},
                    }
                )
            if self.diverged is not None:
                break
            self.loss = loss
        self.progress.update(self.segment, step + len(rates), self.loss, speed)

    def flush(self) -> None:
        """Writes the lines read so far to the store."""
        if self.log is not None:
            self.log.flush()


def finite(x) -> float | None:
    """Returns a float that JSON can hold: None for NaN and infinities."""
    return float(x) if np.isfinite(x) else None
