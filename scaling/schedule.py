"""The worker: trains what a plan lacks, in the order that a schedule gives.

A schedule is called with the worker and returns when nothing is left to train. Here are those that
go depth first, one segment at a time or in fleets; `sharing.Sharing` serves several workers.
"""

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from refused import Refused
from scaling import checkpoint, processes
from scaling.fleet import Row, Rows, fleet_folder, on_device
from scaling.grouping import Fleet, alone, fleets, planned, walk
from scaling.interchange.begin import first_state
from scaling.leases import Lost
from scaling.ledger import Ledger
from scaling.mesh import shards
from scaling.plan import Segment
from scaling.state import State
from scaling.trace import Trace
from scaling.train import Program
from scaling.trainer import Clock, End, Gone, Stopped, Trainer, retire

# Waiting for others: the first and the longest pause between two looks at the store, in seconds.
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 2.0


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
        count = len(self.todo)
        task = f"{sorted(self.todo)} {self.mesh.shape} {self.keep_params} {sorted(self.keep)}"
        processes.agree(self.store.path, task)
        shown = [s for id, s in self.plan.segments.items() if id in self.open_]
        self.progress.begin(shown, self.needed)
        try:
            (self.way or one_by_one)(self)
        finally:
            self.trace.close()
            self.progress.end()
        return count

    def end_of(self, id: str) -> State:
        """Returns a segment's end state from the store.

        Raises:
          Gone: it is not there; from then on nothing is hoped for from that segment.
        """
        segment = self.plan.segments[id]
        found = self.restore(segment)
        if found is None or found[1]["step"] != segment.run.steps:
            self.unusable.add(id)
            raise Gone(f"the end state of segment {id} cannot be read")
        return found[0]

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
    depth_first(worker, lambda segments: [alone(s, worker.mesh) for s in segments])


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
    """Trains what is needed depth first; end states pass to the children in memory.

    Where a state turns out to be missing, or another process took over a lease, what is lacking
    then is settled anew.
    """
    while True:
        try:
            once_through(worker, group)
            if worker.writes:
                worker.tidy_up({})
            return
        except (Gone, Lost) as error:
            logging.warning("%s; what is left to train is looked up again", error)
            release(worker)
            worker.begin()


def once_through(worker: Worker, group: Callable[[list[Segment]], list[Fleet]]) -> None:
    """Goes through the plan once, depth first."""
    plan = worker.plan
    needed, states = set(worker.needed), {}
    heirs = Counter(plan.segments[id].parent for id in needed)

    def start(segment: Segment) -> Callable[[], State]:
        parent = segment.parent
        if parent is None:
            return lambda: first_state(segment.run, worker.mesh)
        heirs[parent] -= 1
        if parent not in states:
            return lambda: worker.end_of(parent)
        if heirs[parent]:
            return lambda state=states[parent]: jax.tree.map(jnp.copy, state)
        return [states.pop(parent)].pop  # No reference stays, so that it can be donated.

    def leave_out(id: str, diverged: int) -> None:
        for segment in plan.walk(id):
            worker.leave_out(segment, diverged)
            needed.discard(segment.id)

    def take(ends: dict[str, End]) -> None:
        states.update({id: state for id, (state, _) in ends.items() if state is not None})
        for id, (_, diverged) in ends.items():
            if diverged is not None:
                leave_out(id, diverged)

    for segment in plan.segments.values():
        if segment.id not in worker.todo and (step := worker.diverged(segment)) is not None:
            leave_out(segment.id, step)
    for fleet, over in walk(plan, group):
        wanted = [s for s in fleet.segments if s.id in needed]
        if over:
            tidy(worker, fleet, wanted)
        elif wanted and (mine := claim(worker, wanted)):
            take(worker.train(fleet, {s.id: start(s) for s in mine}))
            release(worker)


def claim(worker: Worker, segments: list[Segment]) -> list[Segment]:
    """Waits until nobody else is at segments, and returns those that are still to be trained.

    What another has finished meanwhile is ticked off; it is trained here as well where its end
    state is needed and was not kept. Leases are taken in one order by all, so that nobody waits
    for one who waits for him.

    Raises:
      Stopped: the time allowed is over.
    """
    leases, wait, told = worker.leases, SHORTEST_WAIT, False
    if leases is None and jax.process_count() == 1:
        return segments
    mine = worker.writes  # The first of several processes has the leases of all.
    got = lambda segment: mine and (leases is None or leases.claim(segment.id))
    for segment in sorted(segments, key=lambda s: s.id):
        while not processes.any_of(got(segment))[0]:
            if processes.any_of(worker.clock.due()[1])[0]:
                raise Stopped(f"stopped while segment {segment.id} is trained by another")
            if not told and mine:
                logging.warning("segment %s is in training by another; waiting", segment.id)
            told = True
            time.sleep(wait)
            wait = min(1.5 * wait, LONGEST_WAIT)
    for segment in segments if told else ():
        lacks = processes.any_of(mine and worker.lacks(segment))[0]
        if segment.id in worker.todo and not lacks:
            worker.tick(segment, (worker.store.done(segment.id) or {}).get("loss"))
    left = lambda s: s.id in worker.todo or (worker.followed(s) and not worker.has_end(s))
    return [s for s in segments if left(s)] if told else segments


def release(worker: Worker) -> None:
    """Gives all leases back."""
    if worker.leases is not None and worker.writes:
        worker.leases.release()


def tidy(ledger: Ledger, fleet: Fleet, trained: list[Segment]) -> None:
    """Deletes checkpoints when all that follows a fleet is trained, but for states that are kept.

    Those of a segment that others have taken up are theirs.
    """
    if fleet.size > 1:
        checkpoint.remove(fleet_folder(ledger, fleet))
    for segment in trained if ledger.writes else ():
        if not ledger.taken(segment):
            checkpoint.discard(ledger.store.folder(segment.id), segment.run.steps)
