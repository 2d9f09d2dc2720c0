"""The isoFLOP approach: a smoothed minimum for each compute budget, and a power law through them.

The curve of a budget is log loss in log size, smoothed by a spline whose third derivative is
penalised: strong smoothing leaves a parabola, none passes through every run. One smoothing serves
all budgets of a table and is chosen with the noise by restricted maximum likelihood.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting.held_out import compute
from fitting.intervals import quantiles
from fitting.law import Law
from fitting.observations import Observations
from refused import Refused

_SMOOTHINGS = np.geomspace(1e-6, 1e8, 57)  # variance of the bends over variance of the noise
_POINTS = 801  # sizes at which a curve is looked at, evenly in log between the first and the last
_FEWEST = 3  # sizes of a budget


@dataclass(frozen=True)
class Curve:
    """One budget's runs: log sizes and log losses (runs,), log tokens or None, and FLOP."""

    flops: float
    size: np.ndarray
    loss: np.ndarray
    tokens: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Log sizes at which the smooth curve is looked at, (points,)."""
        return np.linspace(self.size.min(), self.size.max(), _POINTS)


@dataclass(frozen=True)
class IsoFlop:
    """Minima of the budgets and the power laws through them.

    budgets: DataFrame(flops, runs, params, params_low, params_high, tokens, loss).
    left_out: budgets that have no minimum inside their sizes or too few sizes, one line each.
    exponent, coefficient: params = coefficient x flops^exponent at the minima.
    tokens_exponent: of the tokens at the minima, by the table's own tokens.
    interval, tokens_interval: (low, high) of the exponents at `level`, NaN without noise to see.
    noise: standard deviation of log loss between runs; smoothing: of the curves, 0 is a parabola.
    """

    budgets: pd.DataFrame
    left_out: tuple[str, ...]
    exponent: float
    coefficient: float
    tokens_exponent: float
    interval: tuple[float, float]
    tokens_interval: tuple[float, float]
    level: float
    noise: float
    smoothing: float
    params: str
    curves: tuple[Curve, ...]

    def smooth(self, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
        """(params, loss) of a budget's smooth curve, each (points,)."""
        weights = _smoother(curve.size, curve.points, self.smoothing)
        return np.exp(curve.points), np.exp(weights @ curve.loss)


def isoflop(
    obs: Observations,
    params: str | None = None,
    decimals: int = 2,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> IsoFlop:
    """The compute-optimal size of every budget, and its exponent in compute.

    Tokens are the table's own, between the runs of a budget; compute / (6 params) without them.
    Minima are weighted by their variance in the bootstrap and by how far they scatter beyond that
    (random effects). Intervals resample the noise of every budget's runs around its smooth curve.

    Args:
      obs: runs in groups of equal compute.
      params: the count meant.
      decimals: log10 compute is rounded to this to group.
      draws: of the bootstrap, which also weighs the minima.
      seed: of the bootstrap.
      level: of the intervals.

    Raises:
      Refused: fewer than two budgets with three sizes and a minimum inside them.
    """
    column = obs.params_column(params)
    curves, left_out = _curves(obs, column, decimals)
    smoothing, noise = _smoothing(curves)
    rng = np.random.default_rng(seed)
    rows, clouds, kept = [], [], []
    for curve in curves:
        weights = _smoother(curve.size, curve.points, smoothing)
        place, lowest = _minimum(curve.points, weights @ curve.loss)
        if not np.isfinite(place):
            at = "smallest" if lowest == 0 else "largest"
            left_out.append(f"{curve.flops:.3g} FLOP: the loss is least at the {at} size")
            continue
        mean = _smoother(curve.size, curve.size, smoothing) @ curve.loss
        again = mean[:, None] + noise * rng.normal(size=(len(mean), draws))
        clouds.append(_minimum(curve.points, weights @ again)[0])
        kept.append(curve)
        rows.append((curve.flops, len(curve.size), place, _tokens_at(curve, place), lowest))
    if len(kept) < 2:
        accepted = f"two or more budgets with {_FEWEST} sizes and a minimum inside them"
        raise Refused("isoflop", f"{len(kept)} budgets", accepted)
    return _result(rows, np.array(clouds), kept, left_out, level, noise, smoothing, column)


def bias(found: IsoFlop, law: Law, parameters: Mapping) -> pd.DataFrame:
    """What the approach makes of a law without noise, at the sizes and tokens of the table.

    Args:
      found: the approach on the runs.
      law: in params and tokens.
      parameters: of the law, fitted to the same runs.

    Returns:
      DataFrame(flops, params_error, tokens_error, exact): relative to the law's own minimum `exact`
      along each budget; NaN where the law has none inside the budget's sizes.
    """
    rows = []
    for curve in found.curves:
        points = curve.points
        tokens = np.interp(points, curve.size, curve.tokens)
        columns = {law.size: np.exp(points), "tokens": np.exp(tokens)}
        exact, _ = _minimum(points, np.log(law.predict(columns, parameters)))
        runs = {law.size: np.exp(curve.size), "tokens": np.exp(curve.tokens)}
        loss = np.log(law.predict(runs, parameters))
        weights = _smoother(curve.size, points, found.smoothing)
        place, _ = _minimum(points, weights @ loss)
        moved = _tokens_at(curve, place) - _tokens_at(curve, exact)
        rows.append((curve.flops, np.expm1(place - exact), np.expm1(moved), np.exp(exact)))
    return pd.DataFrame(rows, columns=["flops", "params_error", "tokens_error", "exact"])


def _curves(obs: Observations, column: str, decimals: int) -> tuple[list[Curve], list[str]]:
    flops, size, loss = compute(obs, column), obs.column(column), obs.column("loss")
    tokens = obs.column("tokens") if "tokens" in obs.frame else flops / 6 / size
    labels = np.round(np.log10(flops), decimals)
    curves, left_out = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(size[rows], kind="stable")]
        budget = float(np.exp(np.mean(np.log(flops[rows]))))
        if len(np.unique(size[rows])) < _FEWEST:
            left_out.append(f"{budget:.3g} FLOP: {len(rows)} runs, fewer than {_FEWEST} sizes")
            continue
        logs = (np.log(values[rows]) for values in (size, loss, tokens))
        curves.append(Curve(budget, *logs))
    return curves, left_out


def _kernel(first, second):
    """Covariance of a twice integrated random walk from the smaller end, (first, second)."""
    low = np.minimum(first[:, None], second[None])
    gap = np.abs(first[:, None] - second[None])
    return low**3 * (low**2 / 20 + low * gap / 8 + gap**2 / 12)


def _basis(size, origin):
    x = size - origin
    return np.stack([np.ones_like(x), x, x**2], axis=1)


def _smoother(size, points, smoothing: float) -> np.ndarray:
    """Matrix (points, runs) from log losses to the smooth curve."""
    origin = size.min()
    spread = smoothing * _kernel(size - origin, size - origin) + np.eye(len(size))
    basis = _basis(size, origin)
    solved = np.linalg.solve(spread, np.concatenate([basis, np.eye(len(size))], axis=1))
    parabola = np.linalg.solve(basis.T @ solved[:, :3], basis.T @ solved[:, 3:])
    rest = solved[:, 3:] - solved[:, :3] @ parabola
    bends = smoothing * _kernel(points - origin, size - origin)
    return _basis(points, origin) @ parabola + bends @ rest


def _smoothing(curves: list[Curve]) -> tuple[float, float]:
    """Smoothing and noise of all budgets together, by restricted maximum likelihood."""
    free = sum(len(curve.size) - 3 for curve in curves)
    if free < 1:
        return 0.0, 0.0
    scores, noises = [], []
    for smoothing in _SMOOTHINGS:
        squares = logs = 0.0
        for curve in curves:
            square, log = _restricted(curve, smoothing)
            squares, logs = squares + square, logs + log
        scores.append(free * np.log(max(squares, 1e-300)) + logs)
        noises.append(np.sqrt(squares / free))
    best = int(np.argmin(scores))
    return float(_SMOOTHINGS[best]), float(noises[best])


def _restricted(curve: Curve, smoothing: float) -> tuple[float, float]:
    """(weighted squares, log determinants) of a budget's restricted likelihood."""
    x = curve.size - curve.size.min()
    spread = smoothing * _kernel(x, x) + np.eye(len(x))
    basis = _basis(x, 0.0)
    solved = np.linalg.solve(spread, np.column_stack([basis, curve.loss]))
    gram = basis.T @ solved[:, :3]
    miss = curve.loss - basis @ np.linalg.solve(gram, basis.T @ solved[:, 3])
    square = float(miss @ np.linalg.solve(spread, miss))
    return square, np.linalg.slogdet(spread)[1] + np.linalg.slogdet(gram)[1]


def _minimum(points, curve):
    """Log size of the least value of curves (points,) or (points, draws), and that value.

    NaN where it is at the first (then the value is 0) or the last point.
    """
    curve = curve[:, None] if curve.ndim == 1 else curve
    place = np.argmin(curve, axis=0)
    inner = np.clip(place, 1, len(points) - 2)
    draws = np.arange(curve.shape[1])
    left, middle, right = (curve[inner + step, draws] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    with np.errstate(all="ignore"):
        move = np.where(bend > 0, (left - right) / (2 * bend), 0.0)
    lowest = middle - move**2 * bend / 2
    found = points[inner] + move * (points[1] - points[0])
    edge = (place == 0) | (place == len(points) - 1)
    found, lowest = np.where(edge, np.nan, found), np.where(edge, place > 0, lowest)
    return (found[0], lowest[0]) if len(draws) == 1 else (found, lowest)


def _tokens_at(curve: Curve, place):
    """Log tokens at a log size, between the budget's runs."""
    return np.interp(place, curve.size, curve.tokens)


def _line(flops, places, variances):
    """(slope, intercept, weights): a weighted line in logs, with random effects.

    The scatter beyond the variances is that of DerSimonian and Laird 1986, eq. 8.
    """
    weight = 1 / np.maximum(variances, 1e-300)
    weight = weight / weight.max()
    _, _, miss = _weighted(flops, places, weight)
    basis = np.stack([np.ones_like(flops), flops - flops.mean()], axis=1)
    gram = np.linalg.pinv(basis.T @ (weight[:, None] * basis))
    trace = weight.sum() - np.trace(gram @ (basis.T @ (weight[:, None] ** 2 * basis)))
    floor = np.min(variances)
    extra = (np.sum(weight * miss**2) - (len(flops) - 2) * floor) / max(trace, 1e-300)
    total = variances + max(extra, 0.0)
    weight = 1 / np.maximum(total, 1e-12 * max(total.max(), 1e-300))
    weight = weight / weight.max()
    return *_weighted(flops, places, weight)[:2], weight


def _weighted(flops, places, weight):
    """Slope, intercept and misses of weighted least squares; places (budgets,)."""
    slope, base = np.polyfit(flops, places, 1, w=np.sqrt(weight))
    return slope, base, places - base - slope * flops


def _result(rows, clouds, kept, left_out, level, noise, smoothing, column) -> IsoFlop:
    flops, runs, places, tokens, lowest = map(np.array, zip(*rows, strict=True))
    logs = np.log(flops)
    variances = np.nanvar(clouds, axis=1) if noise > 0 else np.ones(len(rows))
    variances = np.where(np.isfinite(variances), variances, np.nanmax(variances))
    slope, base, weight = _line(logs, places, variances)
    token_places = np.array([_tokens_at(c, cloud) for c, cloud in zip(kept, clouds, strict=True)])
    token_slope = _weighted(logs, tokens, weight)[0]
    ends = quantiles(clouds.T, level) if noise > 0 else np.full((2, len(rows)), np.nan)
    budgets = pd.DataFrame(
        {
            "flops": flops,
            "runs": runs.astype(int),
            "params": np.exp(places),
            "params_low": np.exp(ends[0]),
            "params_high": np.exp(ends[1]),
            "tokens": np.exp(tokens),
            "loss": np.exp(lowest),
        }
    )
    interval = _interval(logs, places, clouds, weight, level, noise)
    return IsoFlop(
        budgets=budgets,
        left_out=tuple(left_out),
        exponent=float(slope),
        coefficient=float(np.exp(base)),
        tokens_exponent=float(token_slope),
        interval=interval,
        tokens_interval=_interval(logs, tokens, token_places, weight, level, noise),
        level=level,
        noise=noise,
        smoothing=smoothing,
        params=column,
        curves=tuple(kept),
    )


def _interval(flops, places, clouds, weight, level, noise) -> tuple[float, float]:
    """Of the slope: the noise of every draw, and the scatter of the minima around their line."""
    if not noise > 0:
        return float("nan"), float("nan")
    slope, base, miss = _weighted(flops, places, weight)
    moved = np.where(np.isfinite(clouds), clouds, places[:, None])
    drawn = np.var(moved, axis=1)
    freedom = max(len(flops) - 2, 1)
    extra = max(np.sum(weight * miss**2) / np.sum(weight) * len(flops) / freedom, 0.0)
    scale = np.sqrt(max(1.0, extra / max(np.sum(weight * drawn) / np.sum(weight), 1e-300)))
    slopes = [_weighted(flops, column, weight)[0] for column in moved.T]
    low, high = quantiles(slope + scale * (np.array(slopes) - np.median(slopes)), level)
    return float(low), float(high)
