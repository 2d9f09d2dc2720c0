"""Rows: the segments in training on the device, one alone or several in one program.

Members of a fleet share a program (`train.Program`) and differ in seed, rates, decay, mixture,
order and length. Their states are stacked on a leading axis R, which `vmap` maps over and the
mesh's `run` axis splits; every member reads the corpus in its own order, by the order's own integer
code on the device. A member that has ended, or diverged, goes on as dead weight until half of its
fleet has ended; then the fleet goes on at half its size. A segment alone keeps a program without
that axis, and reads its batches on the host.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt32

from data import Corpus, Reader
from data.order import Tables, locate
from refused import Refused
from scaling import checkpoint
from scaling.environment import environment
from scaling.grouping import Fleet
from scaling.ledger import Ledger, Meter
from scaling.mesh import of_one_run, state_shardings
from scaling.mesh import place as put
from scaling.plan import Segment, order
from scaling.stacks import by_path, stacked
from scaling.state import State, abstract
from scaling.train import Program, advance, on_mesh, steps_of, warm

# What a checkpoint gives back: its step, seconds so far, and end states that it holds, by member.
Restored = tuple[int, dict[str, float], dict[str, State]]


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
    """Returns the jitted `advance(state, source, rates [R, K], settings [R, …], steps)` of a fleet.

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

    each = Source(Tables(*[0] * len(Tables._fields)), 0, None, None)
    over = functools.partial(jax.vmap, in_axes=(0, each, 0, 0, None), spmd_axis_name="run")
    many = steps_of(program, read, over)
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


class Row:
    """A segment alone. Steps are counted from the segment's begin, here and in `Rows`."""

    def __init__(self, fleet: Fleet, ledger: Ledger):
        self.program, self.fleet, self.ledger = fleet.program, fleet, ledger
        self.segment, self.members, self.ready = fleet.segments[0], [0], False

    def start(self, states: dict[str, State]) -> None:
        """Takes the state at the segment's start."""
        self.state = on_mesh(self.program, states[self.segment.id])

    def restore(self, wanted: set[str]) -> Restored | None:
        """Goes on from the segment's checkpoint, if there is one."""
        found = self.ledger.restore(self.segment)
        if found is None:
            return None
        state, meta = found
        self.state = stacked(self.program.config, state)
        return meta["step"] - self.segment.first_step, {self.segment.id: meta["seconds"]}, {}

    def save(self, step: int, meters: dict[str, Meter], ends: dict[str, State]) -> None:
        """Writes the segment's checkpoint."""
        id = self.segment.id
        state = ends[id] if id in ends else by_path(self.state, keep=True)
        self.ledger.save(self.segment, step + self.segment.first_step, state, meters[id])

    def prepare(self, step: int) -> None:
        """Compiles, and opens what the segment reads from a step on."""
        self.state = warm(self.program, self.state)
        self.reader = Reader(
            self.ledger.corpus,
            order(self.ledger.corpus, self.segment.run),
            self.segment.index,
            self.program.sequences,
            start_step=self.segment.offset + step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.ready = True

    def dispatch(self, step: int, count: int) -> tuple[np.ndarray, dict]:
        """Trains some steps; returns the rates [1, count] and the metrics [K]."""
        rates, settings = rates_of(self.segment, step, count)
        windows = self.reader.read(count)
        self.state, metrics = advance(self.program, self.state, windows, rates, settings)
        # Accelerators run programs in their order. CPUs' exchanges of two at a time can deadlock.
        if jax.process_count() > 1 and self.program.mesh.devices.flat[0].platform == "cpu":
            jax.block_until_ready((self.state, metrics))
        return rates[None], metrics

    def end(self, place: int) -> State:
        """Returns the state, by path."""
        self.state = by_path(self.state)
        return self.state

    def shrink(self, step: int) -> None:
        """Leaves the one row there is."""


class Rows:
    """A fleet's members in stacked rows; a row may be dead weight.

    `stream` is the corpus on the device (`on_device`).
    """

    def __init__(self, fleet: Fleet, ledger: Ledger, stream: tuple[jax.Array, jax.Array]):
        self.program, self.fleet, self.ledger, self.stream = fleet.program, fleet, ledger, stream
        self.folder, self.ready = fleet_folder(ledger, fleet), False
        self.split = by_run(self.program.mesh)

    def start(self, states: dict[str, State]) -> None:
        """Stacks the members' starts; other rows repeat the first."""
        spare = next(iter(states.values()))
        self.members = self.fleet.rows(0)
        ids = [self.fleet.segments[m].id if m >= 0 else None for m in self.members]
        rows = jax.device_put(in_rows([states.get(id, spare) for id in ids]), self.split)
        self.state = self.layered(rows)

    def restore(self, wanted: set[str]) -> Restored | None:
        """Goes on from the fleet's checkpoint, if it holds what each wanted member needs."""
        found = checkpoint.restore_tree(self.folder, self.like)
        if found is None:
            return None
        tree, meta = found
        if steps_of_members(self.fleet, self.ledger, meta, wanted) is None:
            return None
        self.ledger.compared(f"fleet {self.fleet.id}", meta)
        self.members = self.fleet.rows(meta["step"])
        like = abstract(self.program.recipe)
        self.state = self.layered(checkpoint.from_tree(tree["rows"], like))
        ends = {
            id: take(checkpoint.from_tree(tree["ends"], like), place)
            for place, id in enumerate(meta["ends"])
            if id in wanted
        }
        return meta["step"], meta["seconds"], ends

    def like(self, meta: dict) -> dict:
        """Says what a checkpoint holds: the rows at its step, and end states that were kept."""
        one = checkpoint.to_tree(abstract(self.program.recipe))
        whole = NamedSharding(self.program.mesh, PartitionSpec())

        def lead(count, sharding):
            add = lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding)
            return jax.tree.map(add, one)

        tree = {"rows": lead(len(self.fleet.rows(meta["step"])), self.split)}
        return tree | ({"ends": lead(len(meta["ends"]), whole)} if meta["ends"] else {})

    def save(self, step: int, meters: dict[str, Meter], ends: dict[str, State]) -> None:
        """Writes the fleet's one checkpoint: its rows, and the end states given."""
        tree = {"rows": checkpoint.to_tree(by_path(self.state, axis=1, keep=True))}
        if ends:
            tree["ends"] = checkpoint.to_tree(in_rows(list(ends.values())))
        meta = {"step": step, "ends": list(ends), "environment": environment()}
        meta["seconds"] = {id: meter.seconds for id, meter in meters.items()}
        meta["metrics"] = {id: m.log.head for id, m in meters.items() if m.log is not None}
        checkpoint.save_tree(self.folder, step, tree, meta)

    def prepare(self, step: int) -> None:
        """Prepares what the rows read from a step on, and compiles for their number."""
        segments = [self.fleet.segments[max(member, 0)] for member in self.members]
        tables = [order(self.ledger.corpus, s.run).tables(s.index) for s in segments]
        self.tables = jax.device_put(Tables(*map(np.stack, zip(*tables, strict=True))), self.split)
        self.offsets = np.array([s.offset for s in segments], np.uint32)
        jax.block_until_ready(self.dispatch(step, 0)[1])
        self.ready = True

    def dispatch(self, step: int, count: int) -> tuple[np.ndarray, dict]:
        """Trains every row for some steps; returns the rates [R, count] and the metrics [R, K]."""
        rates = np.zeros((len(self.members), self.program.dispatch_steps), np.float32)
        none = np.zeros_like(self.program.recipe.optimizer.settings)
        settings = np.stack([none] * len(self.members))
        for place, member in enumerate(self.members):
            segment = self.fleet.segments[member]
            if member >= 0 and segment.steps >= step + count:
                rates[place, :count], settings[place] = rates_of(segment, step, count)
        send = lambda x: jax.device_put(x, self.split)
        source = Source(self.tables, send(self.offsets + np.uint32(step)), *self.stream)
        with jax.set_mesh(self.program.mesh):
            self.state, metrics = compiled(self.program)(
                self.state, source, send(rates), send(settings), np.int32(count)
            )
        return rates[:, :count], metrics

    def end(self, place: int) -> State:
        """Returns a member's state, of a run alone again, on its own devices."""
        mesh, config = of_one_run(self.program.mesh), self.program.config
        row = take(self.state, place)
        return by_path(put(row, state_shardings(mesh, config, row)))

    def layered(self, state: State) -> State:
        """Returns rows whose layers are by path as the program has them."""
        return jax.device_put(stacked(self.program.config, state, axis=1), self.split)

    def shrink(self, step: int) -> None:
        """Drops the rows that the fleet is without from a step on."""
        members = self.fleet.rows(step)
        if len(members) == len(self.members):
            return
        places = np.array([self.members.index(member) for member in members])
        some = jax.tree.map(lambda x: np.asarray(x)[places], self.state)
        self.state, self.members, self.ready = jax.device_put(some, self.split), members, False


def rates_of(segment: Segment, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the learning rates of some steps of a segment, and its optimizer's settings."""
    inside, optimizer = segment.offset + step, segment.run.optimizer
    rates = optimizer.learning_rate * segment.phase.rates(inside, inside + count)
    return rates, optimizer.settings


def steps_of_members(
    fleet: Fleet, ledger: Ledger, meta: dict, wanted: set[str]
) -> dict[str, int] | None:
    """Returns the step of each wanted member in a checkpoint; None where all have to begin again.

    So it is where an end that is wanted was not kept, and where lines of a member are damaged.
    """
    passed = {s.id for s in fleet.segments if s.steps <= meta["step"]}
    if passed & wanted - set(meta["ends"]):
        return None
    members = [s for s in fleet.segments if s.id in wanted]
    found = {s.id: s.first_step + min(meta["step"], s.steps) for s in members}
    return found if all(ledger.fits(s, meta, found[s.id]) for s in members) else None


def resumed(ledger: Ledger, fleets: list[Fleet], begins: dict[str, int]) -> dict[str, int]:
    """Returns where segments begin when fleets that were stopped go on from their checkpoints."""
    found = dict(begins)
    for fleet in fleets:
        folder, wanted = fleet_folder(ledger, fleet), {s.id for s in fleet.segments} & begins.keys()
        step = checkpoint.newest(folder) if fleet.size > 1 and wanted else None
        if step is not None and (meta := checkpoint.said(folder, step)):
            found |= steps_of_members(fleet, ledger, meta, wanted) or {}
    return found


def fleet_folder(ledger: Ledger, fleet: Fleet):
    """Returns where a fleet of several rows keeps its checkpoint."""
    return ledger.store.path / "fleets" / fleet.id


def in_rows(states: list[State]) -> State:
    """Stacks states on a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *states)


def take(rows: State, row: int) -> State:
    """Returns one row's state, from the device that holds it.

    Indexing a split array would be a program of all devices, with an exchange between them.
    """

    def one(x):
        for shard in x.addressable_shards:
            first = shard.index[0].start or 0
            if first <= row < first + shard.data.shape[0]:
                return shard.data[row - first]
        raise IndexError(row)

    return jax.tree.map(one, rows)
