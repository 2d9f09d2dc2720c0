"""The worker: trains what a plan lacks, in the order that a schedule gives.

A schedule is called with the worker and returns when nothing is left to train. Here are those that
go depth first, one segment at a time or in fleets; `sharing.Sharing` serves several workers.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from refused import Refused
from scaling import checkpoint, processes
from scaling.fleet import Row, Rows, fleet_folder, on_device
from scaling.grouping import Fleet, alone, fleets, planned, walk
from scaling.ledger import Ledger
from scaling.mesh import shards
from scaling.plan import Segment
from scaling.state import State, initial
from scaling.trace import Trace
from scaling.train import Program
from scaling.trainer import Clock, End, Trainer, retire


@dataclass
class Worker(Ledger):
    """Trains a plan into a store; what is there already is not trained again.

    `checkpoint_seconds` bounds the work a kill can undo; `stop_after` ends cleanly after so many
    seconds (`Stopped`), between dispatches. `way` is the schedule: `one_by_one` where none is
    given, `in_fleets`, or `sharing.Sharing`. `alive` is asked between dispatches; it says False for
    the worker to stop. `trace` looks at some steps of the first segment.
    """

    checkpoint_seconds: float = 60.0
    stop_after: float | None = None
    way: Callable[["Worker"], None] | None = None
    alive: Callable[[], bool] = lambda: True
    trace: Trace = field(default_factory=Trace)

    @functools.cached_property
    def stream(self) -> tuple[jax.Array, jax.Array]:
        """The corpus on the device, for fleets."""
        return on_device(self.corpus, self.mesh)

    def run(self) -> int:
        """Trains all that is missing and returns how many segments that were.

        Raises:
          Stopped: the time allowed is over.
        """
        self.clock = Clock(self.checkpoint_seconds, self.stop_after, self.alive)
        self.begin()
        todo = [segment for id, segment in self.plan.segments.items() if id in self.todo]
        task = f"{sorted(self.todo)} {self.mesh.shape} {self.keep_params}"
        processes.agree(self.store.path, task)
        self.progress.begin(todo)
        try:
            (self.way or one_by_one)(self)
        finally:
            self.trace.close()
            self.progress.end()
        return len(todo)

    def train(
        self, fleet: Fleet, starts: Mapping[str, Callable[[], State]], leaves_ends: bool = False
    ) -> dict[str, End]:
        """Trains a fleet, or a segment alone, as `Trainer` says; returns what came of each."""
        rows = Rows(fleet, self, self.stream) if fleet.size > 1 else Row(fleet, self)
        ends = Trainer(rows, starts, self.clock, self.trace, leaves_ends).run()
        if fleet.program not in self.waiting.values():
            retire(fleet.program)
        return ends


def one_by_one(worker: Worker) -> None:
    """Trains what is needed one segment after the other, in the plan's order."""
    needed, mesh = worker.needed, worker.mesh
    depth_first(worker, lambda segments: [alone(s, mesh) for s in segments if s.id in needed])


def in_fleets(most: Callable[[Program], int]) -> Callable[[Worker], None]:
    """Returns the schedule of fleets of at most `most(program)` members.

    Where no fleet has two members, it is `one_by_one`, bit for bit. All members of a fleet count,
    so that the same fleets form whatever is there already.
    """

    def schedule(worker: Worker) -> None:
        plan, mesh = worker.plan, worker.mesh
        if shards(mesh) > 1 or jax.process_count() > 1:
            accepted = "a mesh of run alone in one process, as in run:8, or fleet=loop"
            raise Refused("fleet", "a mesh with data or fsdp, or several processes", accepted)
        if all(fleet.size == 1 for fleet in planned(plan, mesh, most)):
            one_by_one(worker)
        else:
            depth_first(worker, lambda segments: fleets(segments, mesh, most))

    return schedule


def depth_first(worker: Worker, group: Callable[[list[Segment]], list[Fleet]]) -> None:
    """Trains what is needed depth first; end states pass to the children in memory."""
    plan = worker.plan
    needed, states = set(worker.needed), {}
    heirs = Counter(plan.segments[id].parent for id in needed)

    def start(segment: Segment) -> Callable[[], State]:
        parent = segment.parent
        if parent is None:
            return lambda: initial(segment.run.recipe, segment.run.seed)
        heirs[parent] -= 1
        if heirs[parent]:
            return lambda state=states[parent]: jax.tree.map(jnp.copy, state)
        return [states.pop(parent)].pop  # No reference stays, so that it can be donated.

    def take(ends: dict[str, End]) -> None:
        states.update({id: state for id, (state, _) in ends.items() if state is not None})
        for id, (_, diverged) in ends.items():
            for segment in plan.walk(id) if diverged is not None else ():
                worker.leave_out(segment, diverged)
                needed.discard(segment.id)

    for fleet, over in walk(plan, group):
        wanted = [s for s in fleet.segments if s.id in needed]
        if over:
            tidy(worker, fleet, wanted)
        elif wanted:
            take(worker.train(fleet, {s.id: start(s) for s in wanted}))


def tidy(ledger: Ledger, fleet: Fleet, trained: list[Segment]) -> None:
    """Deletes checkpoints when all that follows a fleet is trained."""
    if fleet.size > 1:
        checkpoint.remove(fleet_folder(ledger, fleet))
    if ledger.writes and not ledger.keep_params:
        for segment in trained:
            checkpoint.discard(ledger.store.folder(segment.id))
