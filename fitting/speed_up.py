"""Effective speed-up of one arm over another: how much further the other has to train.

The baseline's curve is L = asymptote + b x^-alpha; a better loss at the same x is worth a factor
((L_worse - asymptote) / (L_better - asymptote))^(1 / alpha) of x. Each x of the variant gives one
such factor. Where the curves do not match, the factors drift and scatter with x, and the interval
is made of just that: their scatter around a line in log x, with what is not known of the curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from fitting.columns import finite
from fitting.expression import where as rows_where
from fitting.observations import Observations
from refused import Refused

_FEWEST = 4  # runs of the baseline, for a curve with a fitted asymptote; one fewer where pinned
_FLOORS = 120  # asymptotes that are tried
METHOD = (
    "lack of fit of the factors to a line in log {along} and of the line to a parabola, the "
    "baseline's curve by bootstrap, and the drift of its exponent between its halves"
)


@dataclass(frozen=True)
class SpeedUp:
    """How many times more of `along` the baseline needs for the variant's loss.

    value, low, high: the factor at `at` and its interval at `level`; NaN ends where `method` says
    why there are none. asymptote, exponent: of the baseline; pinned: whether the first was given.
    drift: change of the log factor per factor e of `along`, and drift_error its standard error.
    points: DataFrame(x, loss, baseline: loss there, factor) of the variant's runs.
    """

    value: float
    low: float
    high: float
    at: float
    along: str
    level: float
    asymptote: float
    pinned: bool
    exponent: float
    drift: float
    drift_error: float
    points: pd.DataFrame
    method: str

    @property
    def proven(self) -> bool:
        """Whether the whole interval says that the variant is faster."""
        return bool(self.low > 1)


def speed_up(
    baseline: pd.DataFrame,
    variant: pd.DataFrame,
    along: str = "tokens",
    at: float | None = None,
    asymptote: float | None = None,
    target: str = "loss",
    level: float = 0.9,
    draws: int = 400,
    seed: int = 0,
) -> SpeedUp:
    """The factor in `along` that a variant is worth, with an interval that knows lack of fit.

    Args:
      baseline: table of one arm.
      variant: table of the other, alike in all but what is compared.
      along: what is saved, `tokens` or `flops`.
      at: where, the variant's largest by default.
      asymptote: loss that the baseline never reaches; fitted if None.
      target: the loss.
      level: of the interval.
      draws: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      Refused: too few runs for a curve, an asymptote at or above a loss, a baseline that does not
        fall, values that are not positive.
    """
    first, second = (_points(_frame(arm), along, target) for arm in (baseline, variant))
    least = min(first[1].min(), second[1].min())
    _check(first, asymptote, least, along)
    at = float(second[0].max() if at is None else at)
    if not at > 0:
        raise Refused("at", at, f"positive {along}")
    curve = _curve(np.log(first[0]), first[1][None], asymptote, least)
    floor, exponent, _ = (float(part[0]) for part in curve)
    if not exponent > 0:
        raise Refused("baseline", f"losses that rise in {along}", "losses that fall")
    factors = _factors(first, second, floor, exponent)
    place = np.log(second[0]) - np.log(at)
    # Noise of the loss is the larger in the factor the closer the loss is to the asymptote.
    weight = ((second[1] - floor) / second[1]) ** 2
    value, drift, error, drift_error = _line(place, factors, weight)
    freedom = len(place) - 2
    low = high = float("nan")
    method = f"none ({len(place)} runs of the variant)"
    if freedom > 0:
        shaken = _shaken(first, second, (place, weight), asymptote, least, draws, seed)
        reach = np.log(at) + value / 2 - np.mean(np.log(first[0]))
        bent = value * reach * _bend(first, floor, exponent)
        curved = _curved(place, factors, weight) - value
        total = np.sqrt(error**2 + curved**2 + shaken + bent**2)
        wide = stdtrit(freedom, 0.5 + level / 2) * total
        low, high, method = np.exp(value - wide), np.exp(value + wide), METHOD.format(along=along)
    table = pd.DataFrame({"x": second[0], "loss": second[1]})
    table["baseline"] = _measured(first, floor, exponent, np.log(second[0]))
    table["factor"] = np.exp(factors)
    return SpeedUp(
        *(float(np.exp(value)), float(low), float(high), at, along, level),
        *(floor, asymptote is not None, exponent, float(drift), float(drift_error)),
        *(table, method),
    )


def speed_up_report(
    table: str | Path,
    baseline: str,
    variant: str,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> str:
    """The speed-up between two sets of rows of a table, as lines of Markdown.

    Args:
      table: path or `published:NAME`.
      baseline: condition on its rows, as in `expression.where`, for instance `optimizer == adamw`.
      variant: condition on its rows.
      columns: {name in the file: ours}.
      options: of `speed_up`.
    """
    needs = (options.get("along", "tokens"), options.get("target", "loss"))
    obs = Observations.read(table, columns, needs=needs)
    arms = [obs.only(rows_where(obs.frame, text)) for text in (baseline, variant)]
    return "\n".join(lines(speed_up(*arms, **options), baseline, variant)) + "\n"


def lines(found: SpeedUp, baseline: str, variant: str) -> list[str]:
    """What a promotion decision needs, one fact a line."""
    if np.isfinite(found.low):
        ends = f"{found.level:.0%} interval {found.low:.3g} to {found.high:.3g}; {found.method}"
    else:
        ends = f"interval: {found.method}"
    how = "pinned" if found.pinned else "fitted"
    told = [
        f"# {variant} against {baseline}",
        "",
        f"- speed-up in {found.along} at {found.at:.3g}: {found.value:.3g} ({ends})",
        f"- baseline: asymptote {found.asymptote:.4g} ({how}), exponent {found.exponent:.4g}",
    ]
    if np.isfinite(found.drift_error):
        told.append(
            f"- drift: the factor changes by {np.expm1(found.drift):+.1%} per factor e of "
            f"{found.along} (standard error {found.drift_error:.1%})"
        )
    return told


def _frame(arm) -> pd.DataFrame:
    return arm.frame if isinstance(arm, Observations) else pd.DataFrame(arm)


def _points(frame: pd.DataFrame, along: str, target: str):
    """(x, loss) of an arm, each (runs,), ascending in x; the mean loss of runs at the same x."""
    for name in (along, target):
        if name not in frame:
            raise Refused("column", name, f"one of {', '.join(map(str, frame))}")
    x, loss = finite(frame[along], along), finite(frame[target], target)
    for name, values in ((along, x), (target, loss)):
        if np.any(values <= 0):
            raise Refused(name, values.min(), "positive values")
    places, rows = np.unique(np.round(np.log(x), 9), return_inverse=True)
    return np.exp(places), np.bincount(rows, loss) / np.bincount(rows)


def _check(first, asymptote, least, along):
    needed = _FEWEST - (asymptote is not None)
    if len(first[0]) < needed:
        raise Refused("baseline", f"{len(first[0])} {along}", f"{needed} or more different ones")
    if asymptote is not None and not 0 <= asymptote < least:
        raise Refused("asymptote", asymptote, f"0 to below the least loss, {least:.4g}")


def _curve(x, loss, asymptote, least):
    """(asymptote, exponent, log b) of curves of log x (runs,), loss (draws, runs); each (draws,).

    Weighted least squares in log(loss - asymptote): relative noise of the loss weighs a run by its
    share above the asymptote. Asymptotes are tried up to the least loss of either arm: one above it
    would make the factor infinite.
    """
    tried = np.array([asymptote]) if asymptote is not None else least * _tried()
    above = loss[:, None] - tried[None, :, None]
    usable = np.all(above > 0, axis=2)
    above = np.where(above > 0, above, 1.0)
    weight = (above / loss[:, None]) ** 2
    weight = weight / weight.sum(axis=2, keepdims=True)
    logs = np.log(above)
    centre = (weight * x).sum(axis=2, keepdims=True)
    middle = (weight * logs).sum(axis=2, keepdims=True)
    spread = (weight * (x - centre) ** 2).sum(axis=2)
    slope = (weight * (x - centre) * (logs - middle)).sum(axis=2) / spread
    miss = logs - middle - slope[..., None] * (x - centre)
    cost = ((above / loss[:, None]) ** 2 * miss**2).sum(axis=2)
    best = np.argmin(np.where(usable, cost, np.inf), axis=1)[:, None]
    take = [np.take_along_axis(part, best, axis=1)[:, 0] for part in (slope, (middle[..., 0]))]
    base = take[1] - take[0] * np.take_along_axis(centre[..., 0], best, axis=1)[:, 0]
    return tried[best[:, 0]], -take[0], base


def _tried():
    """Asymptotes over the least loss: even below, finer close to it."""
    return np.concatenate([np.linspace(0, 0.9, _FLOORS // 2), 1 - np.geomspace(0.1, 1e-3, 60)[1:]])


def _measured(first, floor, exponent, x):
    """The baseline's loss at log x: between its runs, along its exponent outside."""
    known, logs = np.log(first[0]), np.log(first[1] - floor)
    outside = np.clip(x, known[0], known[-1])
    return floor + np.exp(np.interp(outside, known, logs) - exponent * (x - outside))


def _factors(first, second, floor, exponent):
    """Log factor at each of the variant's runs, (runs,)."""
    x = np.log(second[0])
    worse = _measured(first, floor, exponent, x) - floor
    return np.log(worse / (second[1] - floor)) / exponent


def _line(place, factors, weight):
    """(value at place 0, slope, their standard errors) of a weighted line; NaN errors below 3."""
    if len(place) == 1:
        return float(factors[0]), 0.0, float("nan"), float("nan")
    basis = np.stack([np.ones_like(place), place], axis=1)
    inverse = np.linalg.inv(basis.T @ (weight[:, None] * basis))
    found = inverse @ basis.T @ (weight * factors)
    freedom = len(place) - 2
    if freedom < 1:
        return float(found[0]), float(found[1]), float("nan"), float("nan")
    scatter = np.sum(weight * (factors - basis @ found) ** 2) / freedom
    error, slope_error = np.sqrt(scatter * np.diag(inverse))
    return float(found[0]), float(found[1]), float(error), float(slope_error)


def _curved(place, factors, weight) -> float:
    """Value at place 0 of a weighted parabola, or of the line where there are under 4 runs."""
    degree = 2 if len(place) > 3 else 1
    return float(np.polyfit(place, factors, degree, w=np.sqrt(weight))[-1])


def _shaken(first, second, line, asymptote, least, draws, seed) -> float:
    """Variance of the log factor from what is not known of the baseline's curve."""
    x = np.log(first[0])
    floor, exponent, base = (float(p[0]) for p in _curve(x, first[1][None], asymptote, least))
    mean = floor + np.exp(base - exponent * x)
    fitted = 2 if asymptote is not None else 3
    miss = np.log(first[1] / mean)
    noise = np.sqrt(np.sum(miss**2) / max(len(x) - fitted, 1))
    rng = np.random.default_rng(seed)
    again = mean * np.exp(noise * rng.normal(size=(draws, len(x))))
    floors, exponents, _ = _curve(x, again, asymptote, least)
    values = [
        _line(line[0], _factors(first, second, one, power), line[1])[0]
        for one, power in zip(floors, exponents, strict=True)
        if power > 0
    ]
    middle = _line(line[0], _factors(first, second, floor, exponent), line[1])[0]
    # Around the estimate and by quantiles: a floor near the losses has a long tail.
    low, high = np.quantile(values, [0.16, 0.84]) if values else (middle, middle)
    return float(max(high - middle, middle - low, 0.0) ** 2)


def _bend(first, floor, exponent) -> float:
    """Relative change of the baseline's exponent per factor e of x, from its two halves."""
    x, above = np.log(first[0]), first[1] - floor
    half = (len(x) + 1) // 2
    parts = [slice(half), slice(-half, None)]
    weight = above / first[1]
    slopes = [np.polyfit(x[part], np.log(above[part]), 1, w=weight[part])[0] for part in parts]
    apart = np.mean(x[parts[1]]) - np.mean(x[parts[0]])
    return float((slopes[1] - slopes[0]) / apart / -exponent)
