"""Learning-rate schedules as data: what a law of the schedule reads from each run's rate."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting.columns import finite
from refused import Refused

_WARMUP_KNOTS = 48  # a rise from zero is cut where its rate doubles, and finer
_RATIO = 1.15  # of the rates at the ends of one cut
LONGEST = 128  # steps over which a change of the rate counts as one


@dataclass(frozen=True)
class Schedule:
    """A learning rate that is linear between knots; two knots at one step are a jump.

    steps: (knots,) not falling, from 0; rates: (knots,) learning rates.

    Raises:
      Refused: fewer than two knots, steps that fall or do not start at 0, negative rates.
    """

    steps: np.ndarray
    rates: np.ndarray

    def __post_init__(self):
        steps, rates = np.asarray(self.steps, float), np.asarray(self.rates, float)
        if len(steps) < 2 or len(steps) != len(rates):
            raise Refused("schedule", f"{len(steps)} steps, {len(rates)} rates", "two or more each")
        if steps[0] != 0 or np.any(np.diff(steps) < 0) or steps[-1] <= 0:
            raise Refused("schedule", f"steps from {steps[0]:g}", "steps that rise from 0")
        if not np.all(np.isfinite(rates) & (rates >= 0)):
            raise Refused("schedule", rates.min(), "rates of 0 or more")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "rates", rates)

    @classmethod
    def read(cls, text: str) -> "Schedule":
        """From text: `0:0 2160:3e-4 20000:3e-4 24000:3e-5`, STEP:RATE with spaces between."""
        try:
            pairs = [tuple(map(float, item.split(":"))) for item in text.split()]
            steps, rates = zip(*pairs, strict=True)
        except ValueError:
            raise Refused("schedule", text[:60], "STEP:RATE STEP:RATE ...") from None
        return cls(np.array(steps), np.array(rates))

    @classmethod
    def trace(cls, steps, rates, warmup: float = 0.0) -> "Schedule":
        """From a run's own metrics, (rows,) each; a warm-up that is not in them rises from zero.

        A change between two flat stretches is a jump at its second row.

        Args:
          warmup: steps of a linear rise before the first row; 0 for a rate that starts as it is.
        """
        order = np.argsort(steps, kind="stable")
        steps, rates = np.asarray(steps, float)[order], np.asarray(rates, float)[order]
        if warmup > steps[0]:
            raise Refused("warmup", warmup, f"at most the first step of the trace, {steps[0]:g}")
        first = [(0.0, 0.0), (warmup, rates[0])] if warmup else [(0.0, rates[0])]
        before = np.array(first)
        later = steps > before[-1, 0]
        steps = np.concatenate([before[:, 0], steps[later]])
        rates = np.concatenate([before[:, 1], rates[later]])
        flat = np.diff(rates) == 0
        jumps = 2 + np.flatnonzero(flat[:-2] & ~flat[1:-1] & flat[2:])
        return cls(np.insert(steps, jumps, steps[jumps]), np.insert(rates, jumps, rates[jumps - 1]))

    def text(self) -> str:
        """The schedule as `read` reads it, exactly."""
        pairs = zip(self.steps, self.rates, strict=True)
        return " ".join(f"{float(step)!r}:{float(rate)!r}" for step, rate in pairs)

    def rate(self, steps) -> np.ndarray:
        """Learning rate at steps, (steps,); the last one beyond the end."""
        return np.interp(steps, self.steps, self.rates)

    def area(self, steps) -> np.ndarray:
        """Sum of the learning rate up to steps, (steps,): the integral of the piecewise line."""
        steps = np.asarray(steps, float)
        widths = np.diff(self.steps)
        whole = np.concatenate([[0.0], np.cumsum(widths * (self.rates[1:] + self.rates[:-1]) / 2)])
        place = np.clip(np.searchsorted(self.steps, steps, "right") - 1, 0, len(widths) - 1)
        rest = steps - self.steps[place]
        return whole[place] + rest * (self.rates[place] + self.rate(steps)) / 2

    def simpler(self, tolerance: float = 0.005) -> "Schedule":
        """With as few knots as keep every rate within `tolerance` of the highest one.

        Source: Douglas and Peucker 1973, by the vertical distance.
        """
        kept, allowed = {0, len(self.steps) - 1}, tolerance * self.rates.max()
        spans = [(0, len(self.steps) - 1)]
        while spans:
            first, last = spans.pop()
            if last - first < 2:
                continue
            inner = np.arange(first + 1, last)
            ends = (self.steps[[first, last]], self.rates[[first, last]])
            apart = np.abs(self.rates[inner] - np.interp(self.steps[inner], *ends))
            if apart.max() > allowed:
                place = int(inner[np.argmax(apart)])
                kept.add(place)
                spans += [(first, place), (place, last)]
        places = sorted(kept)
        return Schedule(self.steps[places], self.rates[places])

    def pieces(self) -> list[tuple[int, float, float]]:
        """(steps, first rate, last rate) of each straight piece, whole steps, jumps left out."""
        ends = np.round(self.steps).astype(int)
        rows = zip(np.diff(ends), self.rates[:-1], self.rates[1:], strict=True)
        return [(int(steps), float(a), float(b)) for steps, a, b in rows if steps > 0]

    def changes(self) -> "Changes":
        """Every change of the rate, cut finely enough for a sum over steps."""
        knots, rates = [], []
        for left, right in zip(range(len(self.steps) - 1), range(1, len(self.steps)), strict=True):
            first, last = self.steps[left], self.steps[right]
            low, high = self.rates[left], self.rates[right]
            if low == high:
                continue
            inner = _cuts(first, last, low, high)
            knots.append(inner)
            ends = inner if last > first else np.array([0.0, 1.0])
            start, width = (first, last - first) if last > first else (0.0, 1.0)
            rates.append(low + (high - low) * (ends - start) / width)
        if not knots:
            return Changes(*(np.zeros(0) for _ in range(3)))
        middle = np.concatenate([(k[1:] + k[:-1]) / 2 for k in knots])
        drop = np.concatenate([r[:-1] - r[1:] for r in rates])
        jump = np.concatenate([k[1:] == k[:-1] for k in knots])
        # A jump acts as the rate it jumps to; in a cut of a straight change the middle stands for
        # every step of it.
        to = np.concatenate([(r[1:] + r[:-1]) / 2 for r in rates])
        to = np.where(jump, np.concatenate([r[1:] for r in rates]), to)
        return Changes(middle, drop, np.maximum(to, 1e-300))


@dataclass(frozen=True)
class Changes:
    """step: the middle of each change, drop: rate before - after, to: the rate that it acts as."""

    step: np.ndarray
    drop: np.ndarray
    to: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A run's losses under a schedule: name, schedule, steps (rows,), loss (rows,) nats/token."""

    name: str
    schedule: Schedule
    steps: np.ndarray
    loss: np.ndarray


def curves(frame: pd.DataFrame, by: str = "trunk", warmup: float = 0.0) -> list[Curve]:
    """One curve for each value of a column.

    Args:
      frame: table with `step`, `loss`, and either `schedule` (text as `Schedule.read` reads it, one
        for each run) or `learning_rate`, the trace of the run's own metrics; by: what tells runs
        apart; warmup: steps of a rise from zero that the trace leaves out.

    Raises:
      Refused: a missing column, several schedules for one run.
    """
    for name in (by, "step", "loss"):
        if name not in frame:
            raise Refused("column", name, f"one of {', '.join(map(str, frame))}")
    if "schedule" not in frame and "learning_rate" not in frame:
        raise Refused("column", "schedule", "schedule or learning_rate in the table")
    out = []
    for name, rows in frame.groupby(by, sort=False):
        steps = finite(rows["step"], "step")
        if "learning_rate" in rows:
            schedule = Schedule.trace(steps, finite(rows["learning_rate"], "learning_rate"), warmup)
        else:
            texts = rows["schedule"].unique()
            if len(texts) > 1:
                raise Refused("schedule", f"{len(texts)} for {name}", "one for each run")
            schedule = Schedule.read(str(texts[0]))
        out.append(Curve(str(name), schedule, steps, finite(rows["loss"], "loss")))
    return out


def _cuts(first, last, low, high) -> np.ndarray:
    """Knots of a straight change, finer where the rate is near zero; twice the step for a jump."""
    if last == first:
        return np.array([first, last])
    count = int(np.ceil((last - first) / LONGEST))
    if low > 0 and high > 0:
        finer = int(np.ceil(abs(np.log(high / low)) / np.log(_RATIO)))
        count = max(count, min(finer, int(np.ceil(last - first))))
    even = np.linspace(0, 1, max(count, 1) + 1)
    if low == 0:
        even = np.union1d(even, np.geomspace(1 / max(last - first, 2), 1, _WARMUP_KNOTS))
    elif high == 0:
        even = np.union1d(even, 1 - np.geomspace(1 / max(last - first, 2), 1, _WARMUP_KNOTS))
    return first + (last - first) * even


def cosine(steps: float, peak: float, end: float, warmup: float = 0.0, knots: int = 200):
    """Linear warm-up, then half a cosine from the peak to the end rate."""
    x = np.linspace(0, 1, knots)
    return _after_warmup(steps, peak, warmup, x, end + (peak - end) * (1 + np.cos(np.pi * x)) / 2)


def warmup_stable_decay(
    *, steps: float, peak: float, end: float, share: float, warmup: float = 0.0, shape="linear"
):
    """Linear warm-up, the peak, and a decay over a share of the steps: linear, sqrt or exponential.

    sqrt is 1 - sqrt(x) (Haegele et al. 2024, arXiv:2405.18392), exponential is (end / peak)^x.
    """
    known = {
        "linear": lambda x: 1 - x,
        "sqrt": lambda x: 1 - np.sqrt(x),
        "exponential": lambda x: ((end / peak) ** x - end / peak) / (1 - end / peak),
    }
    if shape not in known:
        raise Refused("shape", shape, ", ".join(known))
    x = np.linspace(0, 1, 60)
    begin = (1 - share) * (steps - warmup) / max(steps - warmup, 1e-300)
    places = np.concatenate([[0.0], begin + share * x])
    rates = np.concatenate([[peak], end + (peak - end) * known[shape](x)])
    return _after_warmup(steps, peak, warmup, places, rates)


def _after_warmup(steps, peak, warmup, places, rates) -> Schedule:
    if not 0 <= warmup < steps:
        raise Refused("warmup", warmup, f"0 to below {steps:g} steps")
    before: Iterable = [(0.0, 0.0)] if warmup else []
    body = zip(warmup + (steps - warmup) * np.asarray(places), rates, strict=True)
    pairs = np.array([*before, *body])
    return Schedule(pairs[:, 0], pairs[:, 1])
