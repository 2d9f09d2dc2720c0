"""The trainer: takes one segment, or several as a fleet, from where they start to their ends.

Steps are counted from the begin of the segments in training.
"""

import functools
import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from scaling import background, processes
from scaling.fleet import Row, Rows, compiled
from scaling.ledger import Meter
from scaling.plan import Segment
from scaling.state import State, fresh
from scaling.trace import Trace
from scaling.train import WARM, Program, let_go

# What came of a segment: its end state, where others follow it, and the step at which it diverged.
End = tuple[State | None, int | None]

# Compiled programs: those that segments wait for; the others, the oldest first; and how many of
# the others are kept (about 50 MB each, measured at widths 8 to 96).
USED: set[Program] = set()
IDLE: dict[Program, None] = {}
MOST_IDLE = 4


class Stopped(Exception):
    """The time allowed is over; everything done so far is in the store."""


class Gone(Exception):
    """The state that a segment starts from is not there, or cannot be read."""


@dataclass
class Clock:
    """Says when to write a checkpoint and when to stop (the fields: see `schedule.Worker`)."""

    checkpoint_seconds: float
    stop_after: float | None
    alive: Callable[[], bool]

    def __post_init__(self):
        self.began = self.saved = time.monotonic()

    def due(self) -> tuple[bool, bool]:
        """Says whether the time has come for a checkpoint, and to stop; `alive` may raise."""
        now = time.monotonic()
        over = self.stop_after is not None and now - self.began >= self.stop_after
        return now - self.saved >= self.checkpoint_seconds, not self.alive() or over


@dataclass
class Trainer:
    """Trains the members of a fleet for which `starts` gives the states where they begin.

    Other members are dead weight in the rows that they would have, so that a fleet taken up again
    has the sizes it would have had. `leaves_ends` is for other workers that go on from here: the
    end states that are followed are left in the store.
    """

    rows: Row | Rows
    starts: Mapping[str, Callable[[], State]]
    clock: Clock
    trace: Trace
    leaves_ends: bool = False

    def __post_init__(self):
        self.fleet, self.ledger = self.rows.fleet, self.rows.ledger
        self.meters: dict[str, Meter] = {}
        self.ended: dict[str, State] = {}  # Not evaluated and recorded yet.
        self.ends: dict[str, End] = {}
        self.held: tuple | None = None

    def run(self) -> dict[str, End]:
        """Trains to the end of the last member.

        Raises:
          Stopped: the time allowed is over.
        """
        IDLE.pop(self.fleet.program, None)
        USED.add(self.fleet.program)
        try:
            step = self.begin()
            self.finish()
            while self.live():
                step = self.advance(step)
                self.finish()
        finally:
            self.written(background.wait)
        self.trace.close()
        return self.ends

    def begin(self) -> int:
        """Goes on from the checkpoint, or starts; returns the step."""
        members = [s for s in self.fleet.segments if s.id in self.starts]
        found = self.rows.restore(set(self.starts))
        step, seconds, self.ended = found or (0, {}, {})
        if found is None:
            self.rows.start({s.id: enter(s, self.starts[s.id]()) for s in members})
        for s in members:
            at = s.first_step + min(step, s.steps)
            self.meters[s.id] = self.ledger.open(s, at, seconds.get(s.id, 0.0))
        self.collect(step)
        return step

    def live(self) -> list[tuple[int, Segment]]:
        """Lists the members still in training, with their places."""
        placed = ((p, self.fleet.segments[m]) for p, m in enumerate(self.rows.members) if m >= 0)
        over = self.ended.keys() | self.ends.keys()
        return [(place, s) for place, s in placed if s.id in self.starts and s.id not in over]

    def advance(self, step: int) -> int:
        """Trains one dispatch, reads the one before, saves where due; returns the step reached.

        A checkpoint is not begun while the one before is being written.
        """
        self.written(background.check)
        if not self.rows.ready:
            self.rows.prepare(step)
            self.at = time.monotonic()  # No second of compiling counts.
        first, end = self.fleet.segments[0].first_step, min(s.steps for _, s in self.live())
        count = self.trace.cut(min(self.fleet.program.dispatch_steps, end - step))
        take = functools.partial(self.rows.dispatch, step, count)
        dispatched = self.trace.dispatch(first + step, take)
        self.settle()  # It has ended or is about to: reading it costs no waiting.
        self.held = (step, *dispatched)
        step += count
        save, stop, busy = processes.any_of(*self.clock.due(), background.busy())
        save &= not busy
        if step == end or save or stop:
            self.settle()
        self.collect(step)
        self.rows.shrink(step)
        if save or stop:
            self.save(step)
        if stop:
            what = self.fleet.segments[0].id if self.fleet.size == 1 else "a fleet"
            last = first + max(self.fleet.lengths)
            raise Stopped(f"stopped at step {first + step} of {last} of {what}")
        return step

    def settle(self) -> None:
        """Reads the metrics held, waiting for the device if need be; members may diverge."""
        live = self.live()
        if self.held is None or not live:
            return
        (step, rates, metrics), self.held = self.held, None
        values = {k: np.asarray(v).reshape(len(rates), -1) for k, v in metrics.items()}
        now = time.monotonic()
        seconds, self.at = (now - self.at) / len(live), now
        for place, segment in live:
            meter, own = self.meters[segment.id], {k: v[place] for k, v in values.items()}
            meter.take(segment.first_step + step, rates[place], own, seconds)
            if meter.diverged is not None:
                self.conclude(segment, None, {})

    def collect(self, step: int) -> None:
        """Takes the members that end at a step out of the rows."""
        for place, segment in self.live():
            if segment.steps == step:
                self.ended[segment.id] = self.rows.end(place)

    def written(self, look: Callable[[], None]) -> None:
        """Waits for the checkpoint that is being written, or only looks, and raises its error.

        Raises:
          Lost: another has taken over what is trained here, and may have spoilt it.
        """
        try:
            look()
        except OSError:
            self.ledger.hold()
            raise

    def save(self, step: int) -> None:
        """Writes a checkpoint, with end states that are to be evaluated or that others need."""
        kept = {id: state for id, (state, _) in self.ends.items() if state is not None}
        kept |= self.ended
        self.written(background.wait)
        self.ledger.hold()
        for meter in self.meters.values():
            meter.flush()
        if kept or self.live():
            self.rows.save(step, self.meters, kept)
        self.clock.saved = time.monotonic()

    def finish(self) -> None:
        """Evaluates and records the members that have ended, and leaves their ends if asked to."""
        if self.ended:
            self.trace.close()  # What follows is evaluation, and perhaps another program.
        for segment in [s for s in self.fleet.segments if s.id in self.ended]:
            state, meter, losses = self.ended.pop(segment.id), self.meters[segment.id], {}
            ledger, known = self.ledger, self.ledger.store.done(segment.id)
            ledger.hold()
            if ledger.keeps(segment) or (self.leaves_ends and ledger.followed(segment)):
                meter.flush()
                ledger.save(segment, segment.run.steps, state, meter)  # While it is evaluated.
            if known is None or ledger.unevaluated(segment):
                losses = ledger.evaluate(segment, state)
                if not all(map(math.isfinite, losses.values())):
                    meter.diverged, losses = segment.run.steps, {}
            if known is not None and meter.diverged is None:  # Only its end was wanted.
                meter.diverged = known["diverged_step"]
            self.written(background.wait)  # What a record says is kept is there.
            self.conclude(segment, state, losses)

    def conclude(self, segment: Segment, state: State | None, losses: dict) -> None:
        """Records what came of a member, and keeps its end state if others need it."""
        meter = self.meters[segment.id]
        self.ledger.finish(meter, losses)
        needed = meter.diverged is None and self.ledger.followed(segment)
        self.ends[segment.id] = (state if needed else None, meter.diverged)


def enter(segment: Segment, state: State) -> State:
    """Applies what a phase does at its start, where the segment begins with the phase."""
    phase, recipe = segment.phase, segment.recipe
    if segment.offset == 0 and phase.change is not None:
        state = phase.change.state(state, recipe, segment.run.seed)
    if segment.offset == 0 and not phase.keep_optimizer:
        trained = {path: state.params[path] for path in state.moments}
        state = state.replace(moments=fresh(recipe, trained))
    return state


def retire(program: Program) -> None:
    """Notes that no segment waits for a program, and lets go of what is compiled where idle.

    JAX keeps half as much beside a program (traces, small operations); that goes only where all
    goes, which is when no program in use would have to be compiled again for it.
    """
    USED.discard(program)
    IDLE[program] = None
    if len(IDLE) > MOST_IDLE and not USED:
        IDLE.clear()
        WARM.clear()
        jax.clear_caches()
        gc.collect()
    while len(IDLE) > MOST_IDLE:
        oldest = next(iter(IDLE))
        del IDLE[oldest]
        compiled(oldest).clear_cache()
        let_go(oldest)
