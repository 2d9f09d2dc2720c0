"""Fleets: several segments of one compiled shape, trained in one program.

Members share a program (`train.Program`) and differ in seed, rates, decay, mixture, order and
length. Their states are stacked on a leading axis R, which `vmap` maps over and the mesh's `run`
axis splits; every member reads the corpus in its own order, by the order's own integer code on the
device. A member that has ended, or diverged, goes on as dead weight until half of its fleet has
ended; then the fleet goes on at half its size.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt32

from data import Corpus
from data.order import Tables, locate
from refused import Refused
from scaling import checkpoint
from scaling.environment import environment
from scaling.grouping import Fleet, fleets, planned
from scaling.mesh import of_one_run, shards
from scaling.plan import Segment, order
from scaling.state import State, abstract, initial
from scaling.train import Program, on_mesh, steps_of
from scaling.worker import Meter, Stopped, Worker, enter


class Source(NamedTuple):
    """What members read, on the device; only `tables` and `first` have a leading axis R.

    `first` is the number of a member's next batch in its piece of the order, `tokens` all training
    streams of the corpus one after the other, and `starts` where each begins.
    """

    tables: Tables
    first: UInt32[Array, " R"]
    tokens: Int[Array, " T"]
    starts: Int[Array, " domains"]


@functools.cache
def compiled(program: Program):
    """Returns the jitted `advance(state, source, rates [R, K], decays [R], steps)` of a fleet.

    Metrics are [R, K]. The state is donated. Nothing passes between members, so nothing passes
    between the devices of the mesh's `run` axis.
    """
    sequences, context = program.sequences, program.config.context

    def read(source, index):
        batch = source.first + index.astype(jnp.uint32)
        slots = batch * np.uint32(sequences) + jnp.arange(sequences, dtype=jnp.uint32)
        domain, window = locate(source.tables, slots, jnp)
        begin = source.starts[domain] + window.astype(jnp.int32) * context
        return source.tokens[begin[:, None] + jnp.arange(context + 1)[None]].astype(jnp.int32)

    one = steps_of(program, read)
    each = Source(Tables(*[0] * len(Tables._fields)), 0, None, None)
    many = jax.vmap(one, in_axes=(0, each, 0, 0, None), spmd_axis_name="run")
    split = by_run(program.mesh)
    return jax.jit(many, donate_argnums=0, out_shardings=(split, split))


def by_run(mesh) -> NamedSharding:
    """Splits the leading axis over the mesh's `run` axis."""
    return NamedSharding(mesh, PartitionSpec("run"))


def on_device(corpus: Corpus, mesh) -> tuple[jax.Array, jax.Array]:
    """Puts a corpus's training streams on every device, and where each domain begins.

    Raises:
      Refused: more tokens than 32-bit indices reach.
    """
    streams = [domain.train for domain in corpus.domains.values()]
    ends = np.cumsum([len(stream) for stream in streams])
    if ends[-1] >= 2**31:
        raise Refused("fleet", f"a corpus of {ends[-1]} tokens", "below 2147483648, or fleet=loop")
    whole = NamedSharding(mesh, PartitionSpec())
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    return jax.device_put(np.concatenate(streams), whole), jax.device_put(starts, whole)


def in_fleets(most: Callable[[Program], int]) -> Callable[[Worker], None]:
    """Returns a worker's way through its plan in fleets of at most `most(program)` members.

    Where no fleet has two members, it is the worker's own way, bit for bit.
    """

    def descend(worker: Worker) -> None:
        if shards(worker.mesh) > 1 or jax.process_count() > 1:
            accepted = "a mesh of run alone in one process, as in run:8, or fleet=loop"
            raise Refused("fleet", "a mesh with data or fsdp, or several processes", accepted)
        if all(fleet.size == 1 for fleet in planned(worker.plan, worker.mesh, most)):
            worker.descend(None, None)
        else:
            Descent(worker, most).descend({None: None})

    return descend


class Descent:
    """The way through a plan in fleets: children of a fleet follow before the next fleet."""

    def __init__(self, worker: Worker, most: Callable[[Program], int]):
        self.worker, self.most = worker, most
        self.corpus = on_device(worker.corpus, worker.mesh)

    def descend(self, parents: Mapping[str | None, State | None]) -> None:
        """Trains all that follows some finished segments, given their end states."""
        plan, worker = self.worker.plan, self.worker
        children = [plan.segments[c] for p in parents for c in plan.children.get(p, ())]
        for fleet in fleets(children, worker.mesh, self.most):
            wanted = [s for s in fleet.segments if s.id in worker.needed]
            if not wanted:
                forget(worker, fleet)
                continue
            starts = {s.id: functools.partial(begun, s, parents[s.parent]) for s in wanted}
            if fleet.size == 1:
                ends = {wanted[0].id: worker.train(wanted[0], starts[wanted[0].id])}
            else:
                ends = Training(worker, fleet, starts, self.corpus).run()
            for id, (_, diverged) in ends.items():
                if diverged is not None:
                    worker.abandon(plan.segments[id], diverged)
                    worker.needed -= {s.id for s in plan.walk(id)}
            # All members, so that their children form the same fleets whatever is there already.
            self.descend({s.id: ends.get(s.id, (None, None))[0] for s in fleet.segments})
            forget(worker, fleet)
            if not worker.keep_params:
                for segment in fleet.segments:
                    checkpoint.discard(worker.store.folder(segment.id))


def begun(segment: Segment, end: State | None) -> State:
    """Returns the state in which a segment starts, its own copy of where its parent ended."""
    if segment.parent is None:
        return initial(segment.run.recipe, segment.run.seed)
    return jax.tree.map(jnp.copy, end)


def folder(worker: Worker, fleet: Fleet):
    """Returns where a fleet keeps its checkpoint."""
    return worker.store.path / "fleets" / fleet.id


def forget(worker: Worker, fleet: Fleet) -> None:
    """Deletes a fleet's checkpoint."""
    if folder(worker, fleet).exists():
        folder(worker, fleet).rmtree()


class Training:
    """The training of one fleet: the rows' states, what each row reads, and members' records.

    `starts` gives the start of every member that is to be trained; the others are dead weight in
    the rows that they would have, so that a fleet taken up again has the sizes it would have had.
    """

    def __init__(self, worker: Worker, fleet: Fleet, starts: dict[str, Callable], corpus):
        self.worker, self.fleet, self.starts, self.corpus = worker, fleet, starts, corpus
        self.program, self.folder = fleet.program, folder(worker, fleet)
        self.split = by_run(self.program.mesh)
        # A member that has ended is a run alone again, on its own devices.
        self.alone = replace(self.program, mesh=of_one_run(self.program.mesh))
        self.ends: dict[str, tuple[State | None, int | None]] = {}
        self.meters: dict[str, Meter] = {}
        self.held: tuple | None = None

    def run(self) -> dict[str, tuple[State | None, int | None]]:
        """Trains to the end; returns each member's end state, and the step if it diverged."""
        step, seconds = self.resume() or (0, {})
        if step == 0:
            self.start()
        trace = self.worker.trace
        left = [s for s in self.fleet.segments if s.id in self.starts and s.id not in self.ends]
        for segment in left:
            if segment.id in self.worker.todo:
                self.worker.store.begin(segment)
            log = self.worker.log(segment, segment.first_step + step)
            spent = seconds.get(segment.id, 0.0)
            self.meters[segment.id] = Meter(segment, spent, log, self.worker.progress)
            self.worker.progress.start(segment, segment.first_step + step)
        self.arrange(step)
        while left:
            stop = min(s.steps for s in left)
            count = trace.cut(min(self.program.dispatch_steps, stop - step))
            take = functools.partial(self.dispatch, step, count)
            self.hold(step, *trace.dispatch(step, take))
            step += count
            save, halt = self.worker.due_now()
            if step == stop or save or halt:
                self.settle()
            if step == stop:
                trace.close()  # What follows is evaluation, and another program where rows end.
                self.finish(step)
            left = [s for s in left if s.id not in self.ends]
            shrinks = len(self.fleet.rows(step)) < len(self.rows)
            if shrinks:
                self.compact(step)
            if save or halt:
                self.save(step)
            if halt:
                raise Stopped(f"stopped at step {step} of {max(self.fleet.lengths)} of a fleet")
            if shrinks and left:
                self.arrange(step)
        return self.ends

    def start(self) -> None:
        """Stacks the members' starts; other rows repeat the first."""
        plan = self.worker.plan
        states = {id: enter(plan.segments[id], start()) for id, start in self.starts.items()}
        spare = next(iter(states.values()))
        self.rows = self.fleet.rows(0)
        ids = [self.fleet.segments[r].id if r >= 0 else None for r in self.rows]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(states.get(id, spare) for id in ids))
        self.state = jax.device_put(stacked, self.split)

    def resume(self) -> tuple[int, dict[str, float]] | None:
        """Restores the fleet's checkpoint; returns its step and the members' seconds so far."""
        recipe = self.program.recipe
        found = checkpoint.restore_tree(self.folder, self.like)
        if found is None:
            return None
        tree, meta = found
        passed = {s.id for s in self.fleet.segments if s.steps <= meta["step"]}
        if passed & self.starts.keys() - set(meta["ends"]):
            return None  # A member is wanted whose end was not kept: all begin again.
        self.rows = self.fleet.rows(meta["step"])
        self.state = checkpoint.from_tree(tree["rows"], abstract(recipe))
        for row, id in enumerate(meta["ends"]):
            if id in self.starts:
                kept = checkpoint.from_tree(tree["ends"], abstract(recipe))
                self.ends[id] = (take(kept, row), None)
        return meta["step"], meta["seconds"]

    def like(self, meta: dict) -> dict:
        """Says what a checkpoint holds: the rows at its step, and end states that were kept."""
        one = checkpoint.to_tree(abstract(self.program.recipe))
        whole = NamedSharding(self.program.mesh, PartitionSpec())

        def stacked(count, sharding):
            lead = lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding)
            return jax.tree.map(lead, one)

        tree = {"rows": stacked(len(self.fleet.rows(meta["step"])), self.split)}
        return tree | ({"ends": stacked(len(meta["ends"]), whole)} if meta["ends"] else {})

    def save(self, step: int) -> None:
        """Writes the fleet's one checkpoint: its rows, and end states that children need."""
        for meter in self.meters.values():
            meter.flush()
        kept = {id: state for id, (state, _) in self.ends.items() if state is not None}
        tree = {"rows": checkpoint.to_tree(self.state)}
        if kept:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *kept.values())
            tree["ends"] = checkpoint.to_tree(stacked)
        seconds = {id: meter.seconds for id, meter in self.meters.items()}
        meta = {"step": step, "seconds": seconds, "ends": list(kept), "environment": environment()}
        checkpoint.save_tree(self.folder, step, tree, meta)
        self.worker.saved = time.monotonic()

    def arrange(self, step: int) -> None:
        """Prepares what the rows read from a step on, and compiles for their number."""
        members = [self.fleet.segments[max(row, 0)] for row in self.rows]
        tables = [order(self.worker.corpus, s.run).tables(s.index) for s in members]
        stacked = Tables(*(np.stack(arrays) for arrays in zip(*tables, strict=True)))
        self.tables = jax.device_put(stacked, self.split)
        self.offsets = np.array([s.offset for s in members], np.uint32)
        jax.block_until_ready(self.dispatch(step, 0)[1])
        for meter in self.meters.values():
            meter.at = time.monotonic()

    def compact(self, step: int) -> None:
        """Drops dead rows."""
        rows = self.fleet.rows(step)
        places = np.array([self.rows.index(row) for row in rows])
        some = jax.tree.map(lambda x: np.asarray(x)[places], self.state)
        self.state = jax.device_put(some, self.split)
        self.rows = rows

    def dispatch(self, step: int, count: int) -> tuple[np.ndarray, dict]:
        """Trains every row for some steps; returns the rates [R, count] and the metrics [R, K]."""
        rates = np.zeros((len(self.rows), self.program.dispatch_steps), np.float32)
        decays = np.zeros(len(self.rows), np.float32)
        for place, row in enumerate(self.rows):
            segment = self.fleet.segments[row]
            if row >= 0 and segment.steps >= step + count:
                inside, optimizer = segment.offset + step, segment.run.optimizer
                some = segment.phase.rates(inside, inside + count)
                rates[place, :count] = optimizer.learning_rate * some
                decays[place] = optimizer.weight_decay
        send = lambda x: jax.device_put(x, self.split)
        source = Source(self.tables, send(self.offsets + np.uint32(step)), *self.corpus)
        with jax.set_mesh(self.program.mesh):
            self.state, metrics = compiled(self.program)(
                self.state, source, send(rates), send(decays), np.int32(count)
            )
        return rates[:, :count], metrics

    def hold(self, step: int, rates: np.ndarray, metrics: dict) -> None:
        """Keeps a dispatch's metrics, still on the device, and reads those of the one before."""
        self.settle()
        self.held = (step, rates, metrics)

    def settle(self) -> None:
        """Reads the metrics held, waiting for the device if need be; members may diverge."""
        if self.held is None:
            return
        (step, rates, metrics), self.held = self.held, None
        values = {k: np.asarray(v) for k, v in metrics.items()}
        live = [(place, s) for place, s in self.members() if s.steps > step]
        for place, segment in live:
            meter = self.meters[segment.id]
            own = {k: v[place] for k, v in values.items()}
            meter.hold(segment.first_step + step, rates[place], own)
            meter.read(share=1 / len(live))
            if meter.diverged is not None:
                self.conclude(segment, {}, None)

    def members(self) -> list[tuple[int, Segment]]:
        """Lists the members in training, with their places."""
        members = [
            (place, self.fleet.segments[row]) for place, row in enumerate(self.rows) if row >= 0
        ]
        return [(p, s) for p, s in members if s.id in self.meters and s.id not in self.ends]

    def finish(self, step: int) -> None:
        """Evaluates and records the members that end at a step."""
        for place, segment in self.members():
            if segment.steps != step:
                continue
            state, losses = on_mesh(self.alone, take(self.state, place)), {}
            if self.worker.evaluated(segment):
                losses = self.worker.evaluate(segment, state)
                if not all(map(math.isfinite, losses.values())):
                    losses, self.meters[segment.id].diverged = {}, segment.run.steps
            self.conclude(segment, losses, state)

    def conclude(self, segment: Segment, losses: dict, state: State | None) -> None:
        """Writes a member's record, in the form of a run alone, and keeps what children need."""
        worker, meter = self.worker, self.meters[segment.id]
        meter.flush()
        if worker.keep_params and segment.id in worker.plan.leaves and state is not None:
            meta = {"step": segment.run.steps, "seconds": meter.seconds}
            meta |= {"environment": environment()}
            checkpoint.save(worker.store.folder(segment.id), segment.run.steps, state, meta)
        if segment.id in worker.todo:
            record = worker.record(segment, meter.diverged, losses, meter)
            worker.store.finish(segment.id, record)
        worker.progress.finish(segment, losses)
        needed = any(c in worker.needed for c in worker.plan.children.get(segment.id, ()))
        keep = state if needed and meter.diverged is None else None
        self.ends[segment.id] = (keep, meter.diverged)


def take(stacked: State, row: int) -> State:
    """Returns one row's state, from the device that holds it.

    Indexing a split array would be a program of all devices, with an exchange between them.
    """

    def one(x):
        for shard in x.addressable_shards:
            first = shard.index[0].start or 0
            if first <= row < first + shard.data.shape[0]:
                return shard.data[row - first]
        raise IndexError(row)

    return jax.tree.map(one, stacked)
