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

from scaling.leases import Leases, Lost
from scaling.plan import Segment
from scaling.state import State, initial
from scaling.worker import Stopped, Worker

# Waiting for others: the first and the longest pause between two looks at the store, in seconds.
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 2.0


class Gone(Exception):
    """The state that a segment starts from is not there, or cannot be read."""


@dataclass
class Sharing:
    """A worker's way through a plan that others train as well (`Worker.way`).

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
        worker.shares, worker.alive = True, self.alive
        self.complete = set(self.plan.segments) - worker.todo
        self.hand: tuple[str, State] | None = None
        wait = SHORTEST_WAIT
        while opened := [s for s in self.plan.segments.values() if self.opened(s)]:
            if worker.due_now()[1]:
                raise Stopped(f"stopped with {len(opened)} segments of the plan to go")
            if any(self.attempt(segment) for segment in self.ready({s.id for s in opened})):
                wait = SHORTEST_WAIT
                continue
            self.hand = None  # Nobody will start from it here: what was ready is taken.
            time.sleep(wait)
            wait = min(1.5 * wait, LONGEST_WAIT)
        for segment in self.plan.segments.values():  # What a worker left that was killed.
            self.tidy(segment)
            self.leases.clear(segment.id)

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
        if segment.id in self.complete:
            return False
        if self.worker.lacks(segment):
            return True
        self.complete.add(segment.id)
        if segment.id not in self.trained:
            self.worker.progress.finish(segment, self.store.done(segment.id)["loss"])
        return False

    def opened(self, segment: Segment) -> bool:
        """Says whether a segment must be trained: it has no record, or its end state is missed."""
        if self.lacks(segment):
            return True
        waiting = any(
            self.opened(child) and not self.begun(child) for child in self.children(segment)
        )
        return (
            waiting
            and not self.left_state(segment)
            and self.store.done(segment.id)["diverged_step"] is None
        )

    def ready(self, opened: set[str]) -> list[Segment]:
        """Lists what can be started now: what goes on from the state in memory, then the rest."""
        found = [
            segment
            for segment in self.plan.walk()
            if segment.id in opened and (segment.parent not in opened or self.begun(segment))
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
            if not self.lacks(segment):
                self.worker.todo.discard(segment.id)  # Only its end state is wanted.
            self.train(segment)
        except Gone:
            # Nothing of use is there: what cannot be read goes, so that it is made again.
            parent = self.plan.segments[segment.parent]
            remove(self.store.folder(parent.id) / "checkpoint" / str(parent.run.steps))
            remove(self.store.folder(segment.id) / "checkpoint")
        except (Lost, OSError, ValueError) as error:
            # The last two: of checkpoints that come and go where a second worker is at the segment.
            if self.leases.holds():
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
        worker, parent = self.worker, segment.parent
        before = self.store.done(parent) if parent else None
        if self.hand is not None and self.hand[0] != parent:
            self.hand = None
        if before and before["diverged_step"] is not None:
            worker.leave_out(segment, before["diverged_step"])
        else:
            state, _ = worker.train(segment, lambda: self.start(segment))
            self.hand = None if state is None else (segment.id, state)
        if segment.id in worker.todo:
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
            return initial(segment.run.recipe, segment.run.seed)
        parent = self.plan.segments[segment.parent]
        found = self.worker.restored(parent)
        if found is None or found[1]["step"] != parent.run.steps:
            raise Gone(f"the end state of {parent.id} cannot be read")
        return found[0]

    def children(self, segment: Segment) -> list[Segment]:
        """Lists the segments that follow one."""
        return [self.plan.segments[id] for id in self.plan.children.get(segment.id, ())]

    def begun(self, segment: Segment) -> bool:
        """Says whether a segment has a checkpoint of its own."""
        return (self.store.folder(segment.id) / "checkpoint").exists()

    def left_state(self, segment: Segment) -> bool:
        """Says whether a segment's end state is in the store."""
        folder = self.store.folder(segment.id) / "checkpoint" / str(segment.run.steps)
        return folder.exists()

    def tidy(self, segment: Segment) -> None:
        """Deletes a finished segment's checkpoints where no child needs them any more."""
        if self.worker.keep_params or self.lacks(segment):
            return
        if not any(self.opened(child) for child in self.children(segment)):
            remove(self.store.folder(segment.id) / "checkpoint")


def remove(folder) -> None:
    """Deletes a folder, if it is there; another worker may be doing the same."""
    for _ in range(3):
        try:
            if folder.exists():
                folder.rmtree()
            return
        except OSError:
            continue
