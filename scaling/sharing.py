"""Several workers on one store: each trains what is ready and nobody else is at.

What is claimed is a segment. It is ready when its parent is finished and left its end state, or
when it has a checkpoint of its own. So that any worker can go on, the end of every segment that
others follow is checkpointed before the segment is finished. The worker that trained it goes on
from the state in its memory, with the longest branch first; then come the open branches of the
same tree, in the plan's order, so that few end states lie about at any time. An end state is
deleted once every branch has been trained, or has left an end state itself. Whatever is missing
although something needs it (the trunk of a study that grew, a damaged checkpoint) is trained again.
"""

import logging
import time
from dataclasses import dataclass, field

from scaling import checkpoint
from scaling.files import remove
from scaling.grouping import alone
from scaling.interchange.begin import first_state
from scaling.leases import Leases, Lost
from scaling.plan import Segment
from scaling.schedule import LONGEST_WAIT, SHORTEST_WAIT, Worker
from scaling.state import State
from scaling.trainer import Gone, Stopped


@dataclass
class Sharing:
    """The schedule of a worker on a plan that others train as well.

    `trained` lists the segments that this worker finished.
    """

    leases: Leases
    trained: list[str] = field(default_factory=list)
    stopping: bool = False

    def __call__(self, worker: Worker) -> None:
        """Trains ready segments and waits for those that others are at, until the plan is done.

        Raises:
          Stopped: the time allowed is over, or the worker was told to end.
        """
        self.worker, self.plan, self.store = worker, worker.plan, worker.store
        worker.clock.alive, worker.leases = self.alive, self.leases
        self.hand: tuple[str, State] | None = None
        wait = SHORTEST_WAIT
        while opened := [s for s in self.plan.segments.values() if self.opened(s)]:
            if worker.clock.due()[1]:
                raise Stopped(f"stopped with {len(opened)} segments of the plan to go")
            if any(self.attempt(segment) for segment in self.ready({s.id for s in opened})):
                wait = SHORTEST_WAIT
                continue
            self.hand = None  # Nobody will start from it here: what was ready is taken.
            time.sleep(wait)
            wait = min(1.5 * wait, LONGEST_WAIT)
        for segment in self.plan.segments.values():  # What a worker left that was killed.
            self.leases.clear(segment.id)
            self.tidy(segment)

    def stop(self, *_) -> None:
        """Has the worker end like one whose time is over; can be a handler of SIGTERM."""
        self.stopping = True

    def alive(self) -> bool:
        """Says, between dispatches, whether to go on.

        Raises:
          Lost: the segment's lease is another's.
        """
        self.leases.check()
        return not self.stopping

    def lacks(self, segment: Segment) -> bool:
        """Says whether a segment is still to be finished by anybody; once it is not, for good."""
        if segment.id not in self.worker.todo:
            return False
        if self.worker.lacks(segment):
            return True
        self.worker.tick(segment, self.store.done(segment.id)["loss"])
        return False

    def opened(self, segment: Segment) -> bool:
        """Says whether a segment must be trained: it has no record, or its end state is missed."""
        if self.lacks(segment):
            return True
        waiting = any(self.opened(s) and not self.left(s) for s in self.children(segment))
        if not waiting or self.left(segment, segment.run.steps):
            return False
        return self.worker.diverged(segment) is None

    def ready(self, opened: set[str]) -> list[Segment]:
        """Lists what can be started now: what goes on from the state in memory, then the rest."""
        found = [
            segment
            for segment in self.plan.walk()
            if segment.id in opened and (segment.parent not in opened or self.left(segment))
        ]
        mine = [s for s in found if self.hand is not None and s.parent == self.hand[0]]
        return [*mine[::-1], *(s for s in found if s not in mine)]

    def attempt(self, segment: Segment) -> bool:
        """Trains a segment if its lease can be had; says whether anything came of it."""
        if not self.leases.claim(segment.id):
            return False
        try:
            if not self.opened(segment):  # Finished by another since the last look.
                return True
            self.train(segment)
        except Gone:
            # Nothing of use is there: what cannot be read goes, so that it is made again.
            parent = self.plan.segments[segment.parent]
            remove(self.checkpoints(parent) / str(parent.run.steps))
            remove(self.checkpoints(segment))
        except (Lost, OSError, ValueError) as error:
            # The last two: of checkpoints that come and go where a second worker is at the segment.
            if not isinstance(error, Lost) and self.leases.holds(segment.id):
                raise
            logging.warning("segment %s is left to another worker: %s", segment.id, error)
            self.hand = None
        finally:
            self.leases.release()
        for id in filter(None, (segment.id, segment.parent)):
            self.tidy(self.plan.segments[id])
        return True

    def train(self, segment: Segment) -> None:
        """Trains a segment; after a diverged parent it is recorded as not trained."""
        parent, lacked = segment.parent, segment.id in self.worker.todo
        before = self.store.done(parent) if parent else None
        if self.hand is not None and self.hand[0] != parent:
            self.hand = None
        if before and before["diverged_step"] is not None:
            self.worker.leave_out(segment, before["diverged_step"])
        else:
            starts = {segment.id: lambda: self.start(segment)}
            ends = self.worker.train(alone(segment, self.worker.mesh), starts, leaves_ends=True)
            state, _ = ends[segment.id]
            self.hand = None if state is None else (segment.id, state)
        if lacked:  # Otherwise only its end state was wanted.
            self.trained.append(segment.id)

    def start(self, segment: Segment) -> State:
        """Returns the state at which a segment starts.

        Raises:
          Gone: the parent's end state is not there.
        """
        if self.hand is not None:
            (_, state), self.hand = self.hand, None  # Handed over, so that it can be donated.
            return state
        if segment.parent is None:
            return first_state(segment.run, self.worker.mesh)
        parent = self.plan.segments[segment.parent]
        found = self.worker.restore(parent)
        if found is None or found[1]["step"] != parent.run.steps:
            raise Gone(f"the end state of {parent.id} cannot be read")
        return found[0]

    def children(self, segment: Segment) -> list[Segment]:
        """Lists the segments that follow one."""
        return [self.plan.segments[id] for id in self.plan.children.get(segment.id, ())]

    def checkpoints(self, segment: Segment):
        """Returns where a segment's checkpoints are."""
        return self.store.folder(segment.id) / "checkpoint"

    def left(self, segment: Segment, step: int | str = "") -> bool:
        """Says whether a segment has a checkpoint, of any step or of the one given."""
        return (self.checkpoints(segment) / str(step)).exists()

    def tidy(self, segment: Segment) -> None:
        """Deletes a finished segment's checkpoints where no child needs them any more."""
        if self.lacks(segment) or any(self.opened(child) for child in self.children(segment)):
            return
        if not self.worker.taken(segment):
            checkpoint.discard(self.store.folder(segment.id), segment.run.steps)
