"""What a person sees while a plan trains: a bar for the plan and one for the segment."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from scaling.plan import Segment

LINE_SECONDS = 15.0  # Without a terminal: a line at most this often inside a segment.


class Silent:
    """Shows nothing."""

    def begin(self, segments: list[Segment], begins: Mapping[str, int] | None = None) -> None:
        """Takes what is going to be trained, and at which steps segments begin, by their ids."""

    def start(self, segment: Segment, step: int) -> None:
        """Takes the segment that training turns to, and the step it resumes at."""

    def update(self, segment: Segment, step: int, loss: float | None, speed: float) -> None:
        """Takes the last step read, its loss in nats, and tokens per second."""

    def finish(self, segment: Segment, losses: dict | None) -> None:
        """Takes the held-out losses of a finished segment."""

    def end(self) -> None:
        """Takes note that training is over."""


class Lines(Silent):
    """Prints a line per finished segment, and now and then inside a long one."""

    def __init__(self, file=None):
        self.file = file or sys.stderr

    def begin(self, segments, begins=None):
        """Notes the total."""
        self.count, self.total, self.begins = 0, len(segments), dict(begins or {})
        self.flops, self.goal = 0, sum(map(self.cost, segments))
        self.speed = None
        self.began = self.shown = time.monotonic()

    def start(self, segment, step):
        """Counts a segment from where it goes on, which of a fleet is known only now."""
        before, self.begins[segment.id] = self.cost(segment), step
        self.goal += self.cost(segment) - before

    def update(self, segment, step, loss, speed):
        """Prints a line if the last one is a while ago."""
        self.speed = speed
        if time.monotonic() - self.shown >= LINE_SECONDS:
            done = self.flops + self.cost(segment, step)
            self.show(segment, f"step {step}/{segment.run.steps}", loss, speed, done)

    def finish(self, segment, losses):
        """Prints the segment's result, and its last speed."""
        self.count += 1
        self.flops += self.cost(segment)
        mean = sum(losses.values()) / len(losses) if losses else None
        note = "done" if losses is not None else "left out: diverged"
        self.show(segment, note, mean, self.speed, self.flops)
        self.speed = None

    def cost(self, segment, step=None):
        """Returns the FLOPs from where training of a segment begins to a step, or to its end."""
        return cost(segment, self.begins.get(segment.id, segment.first_step), step)

    def show(self, segment, note, loss, speed, done):
        """Prints one line: position in the plan, segment, note, loss, speed, time left."""
        self.shown = time.monotonic()
        spent = self.shown - self.began
        left = spent * max(self.goal / done - 1, 0.0) if done else 0.0
        shown = [f"[{self.count}/{self.total}]", title(segment), note]
        shown += [f"loss {loss:.4f}"] if loss is not None else []
        shown += [f"{speed / 1e3:.1f}k tokens/s"] if speed is not None else []
        print("  ".join([*shown, f"{left:.0f} s left"]), file=self.file, flush=True)


class Bars(Silent):
    """Draws two bars on a terminal: the plan by FLOPs, the segment by tokens."""

    def begin(self, segments, begins=None):
        """Draws empty bars."""
        self.begins = dict(begins or {})
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.before, self.goal = 0.0, sum(map(self.cost, segments))
        note = f"plan ({len(segments)} segments)"
        self.whole = self.bars.add_task(note, total=self.goal, note="")
        self.part = self.bars.add_task("", total=1.0, note="")
        self.bars.start()

    def start(self, segment, step):
        """Turns the lower bar to a segment, and counts it from where it goes on."""
        before, self.begins[segment.id] = self.cost(segment), step
        self.goal += self.cost(segment) - before
        self.bars.update(self.whole, total=self.goal)
        self.bars.reset(self.part, total=segment.steps, description=escape(title(segment)), note="")

    def update(self, segment, step, loss, speed):
        """Moves both bars."""
        done = step - segment.first_step
        tokens = done * segment.phase.batch_tokens
        note = f"{tokens / 1e6:.2f}M tokens  {speed / 1e3:.1f}k tokens/s  loss {loss or 0:.4f}"
        self.bars.update(self.part, completed=done, note=note)
        self.bars.update(self.whole, completed=self.before + self.cost(segment, step))

    def finish(self, segment, losses):
        """Moves the plan's bar past the segment."""
        self.before += self.cost(segment)
        self.bars.update(self.whole, completed=self.before)

    def cost(self, segment, step=None):
        """Returns the FLOPs from where training of a segment begins to a step, or to its end."""
        return cost(segment, self.begins.get(segment.id, segment.first_step), step)

    def end(self):
        """Leaves the bars as they are."""
        self.bars.stop()


def cost(segment: Segment, first: int, step: int | None = None) -> float:
    """Returns a segment's training FLOPs between two steps of its run; of None, to its end."""
    last = segment.run.steps if step is None else step
    return segment.flops * (last - first) / segment.steps if segment.steps else 0.0


def title(segment: Segment) -> str:
    """Names a segment for a person: labels, seed, token span."""
    first, last = segment.first_token, segment.run.tokens
    return f"{segment.words}  {first / 1e6:.2f}–{last / 1e6:.2f}M tokens"


def progress() -> Silent:
    """Returns bars on a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()
