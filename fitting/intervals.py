"""Bootstrap draws of a law's parameters that keep the runs of one trunk together."""

from dataclasses import dataclass, replace

import numpy as np

from fitting.bfgs import minimise
from fitting.objective import Problem, residuals

FEWEST_TRUNKS = 8  # below this a resample of trunks has too few distinct outcomes to be believed
# Of a drawn residual in log loss. Where one degree of freedom is left its scale has no bound, and a
# loss e^20 times above or below the law says already that nothing is known.
WILDEST = 20.0
NORMAL_90 = 1.6448536269514722  # half the normal distribution's central 90 %, in its deviations


@dataclass(frozen=True)
class Draws:
    """Parameter draws and the scatter of runs about the law.

    points: (draws, parameters) search coordinates; method: how they were made, one line;
    between, within: standard deviations of a trunk's shared and a run's own residual, in log loss
    (loss units for `least_squares`); degrees: residual degrees of freedom behind them; pool:
    residuals a new run's scatter is drawn from; factor: how much wider than the draws an interval
    is, sqrt(trunks / (trunks - parameters)), because fitted residuals are too small by it.
    """

    points: np.ndarray
    method: str
    between: float
    within: float
    degrees: int
    pool: np.ndarray
    factor: float = 1.0


def variances(
    miss: np.ndarray, trunks: np.ndarray, settings: np.ndarray, parameters: int
) -> tuple[float, float, str]:
    """Between-trunk and within-trunk standard deviations of residuals.

    Replicates (runs with equal settings on different trunks) give them free of misfit; the
    residuals, corrected for fitted parameters, give a total that is never undercut.

    Args:
      miss: residuals (rows,).
      trunks: labels (rows,).
      settings: labels (rows,).
      parameters: number fitted.

    Returns:
      (between, within, which data they came from).
    """
    rows = len(miss)
    total = float(np.sum(miss**2) / max(rows - parameters, 1))
    replicated = replicates(trunks, settings)
    source = "residuals"
    deviations, used = miss, np.ones(rows, bool)
    correction = rows / max(rows - parameters, 1)
    if replicated.sum() >= 4:
        means = _group_means(miss, settings)
        deviations, used = (miss - means)[replicated], replicated
        groups = len(np.unique(np.asarray(settings)[replicated]))
        correction = replicated.sum() / max(replicated.sum() - groups, 1)
        source = "replicate seeds"
    shared, own = _split(deviations, np.asarray(trunks)[used], correction)
    pure = shared + own
    if pure <= 0:
        return 0.0, float(np.sqrt(total)), "residuals"
    if total > pure:
        shared, own = shared * total / pure, own * total / pure
        source += ", scaled up to the residuals" if source == "replicate seeds" else ""
    return float(np.sqrt(shared)), float(np.sqrt(own)), source


def replicates(trunks, settings) -> np.ndarray:
    """Bool (rows,): runs whose settings occur on at least two trunks."""
    trunks, settings = np.asarray(trunks), np.asarray(settings)
    out = np.zeros(len(trunks), bool)
    for value in np.unique(settings):
        rows = settings == value
        out[rows] = len(np.unique(trunks[rows])) > 1
    return out


def _group_means(miss, groups):
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return (np.bincount(index, miss) / np.bincount(index))[index]


def _split(deviations, trunks, correction):
    """One-way analysis of variance by the method of moments: (between, within) variances."""
    _, index, counts = np.unique(trunks, return_inverse=True, return_counts=True)
    rows, groups = len(deviations), len(counts)
    total = float(np.mean(deviations**2)) * correction
    if rows == groups or groups < 2:
        return 0.0, total
    means = np.bincount(index, deviations) / counts
    inside = float(np.sum((deviations - means[index]) ** 2) / (rows - groups)) * correction
    inside = min(inside, total)
    return total - inside, inside


def draw(
    problem: Problem,
    point: np.ndarray,
    trunks: np.ndarray,
    settings: np.ndarray,
    draws: int,
    seed: int = 0,
) -> Draws:
    """Refit resampled data from the optimum.

    From `FEWEST_TRUNKS` trunks on, whole trunks are drawn with replacement; below, new losses are
    drawn around the law with the estimated between- and within-trunk variance, its own uncertainty
    included by a chi-square scale. Along a curve residuals follow one another: the noise of a trunk
    is then autoregressive of first order, and counts as fewer runs (`independent`).

    Args:
      problem: one target (rows,), as solved.
      point: its optimum (parameters,).
      trunks: labels (rows,).
      settings: labels (rows,).
      draws: how many refits.
      seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    trunks = np.asarray(trunks)
    names = np.unique(trunks)
    miss = -residuals(problem, point[None])[0]
    fitted = int(problem.free.sum())
    rows = len(miss)
    degrees, follows, spread = max(rows - fitted, 1), 0.0, 1.0
    between, within, source = variances(miss, trunks, settings, fitted)
    if len(names) >= FEWEST_TRUNKS:
        weights = trunk_weights(problem, trunks, draws, rng)
        targets = None
        # At most 2: with hardly more trunks than parameters the ratio stops meaning anything.
        factor = np.sqrt(len(names) / max(len(names) - fitted, len(names) / 4))
        method = f"trunk bootstrap, {len(names)} trunks, {draws} draws"
    else:
        factor = 1.0
        order = along_trunks(problem.columns, trunks)
        follows = autocorrelation(miss, trunks, order)
        alone = independent(rows, follows)
        degrees = max(int(alone) - fitted, 1)
        # Residuals are too small by the fitted parameters, the more the fewer runs they amount to.
        spread = np.sqrt(min(alone / degrees, 4.0) / (rows / max(rows - fitted, 1)))
        spread = max(float(spread), 1.0)
        between, within = between * spread, within * spread
        scale = np.sqrt(degrees / rng.chisquare(degrees, (draws, 1)))
        index = np.searchsorted(names, trunks)
        shared = between * rng.normal(size=(draws, len(names)))[:, index]
        own = rng.normal(size=(draws, rows))
        noise = scale * (shared + within * _autoregressive(own, trunks, order, follows))
        fit = -miss + (problem.target if problem.objective == "least_squares" else 0)
        if problem.objective == "least_squares":
            targets = np.maximum(fit + noise, 1e-6 * np.min(problem.target))
        else:
            noise = np.clip(noise, -WILDEST, WILDEST)
            targets = np.exp(np.log(problem.target) - miss + noise)
        weights = None
        method = (
            f"parametric bootstrap, {len(names)} trunks, standard deviation between trunks "
            f"{between:.2g} and within {within:.2g} from {source}, {draws} draws"
        )
        if follows:
            method += f", neighbours on a trunk correlated by {follows:.2f}"
    smooth = replace(problem, delta=1e-4) if problem.absolute else problem
    drawn = problem.target if targets is None else targets
    resampled, start = replace(smooth, target=drawn, weights=weights), np.tile(point, (draws, 1))
    points, _, _ = minimise(resampled, start, iterations=120, tolerance=1e-7)
    pool = miss * spread * np.sqrt(rows / max(rows - fitted, 1))
    return Draws(points, method, between, within, degrees, pool, float(factor))


def along_trunks(columns, trunks) -> np.ndarray:
    """Order of the runs in which those of a trunk follow one another, by the product of their
    predictors, (rows,).
    """
    place = sum(np.log(np.maximum(values, 1e-12)) for values in columns.values())
    return np.lexsort((place, trunks))


def autocorrelation(miss, trunks, order) -> float:
    """Correlation of residuals that follow one another on a trunk, at most .98; 0 where it is
    within two standard errors of none.
    """
    trunks, miss = np.asarray(trunks)[order], np.asarray(miss)[order]
    same = trunks[1:] == trunks[:-1]
    here, following = miss[:-1][same], miss[1:][same]
    size = np.sum(here**2 / 2 + following**2 / 2)
    if len(here) < 3 or not size > 0:
        return 0.0
    found = float(np.sum(here * following) / size)
    return min(found, 0.98) if found > 2 / np.sqrt(len(here)) else 0.0


def independent(rows: int, follows: float) -> float:
    """How many independent runs as many correlated neighbours are worth (Bartlett 1946)."""
    return rows * (1 - follows) / (1 + follows)


def _autoregressive(noise, trunks, order, follows: float) -> np.ndarray:
    """Standard normal noise (draws, rows) whose neighbours on a trunk correlate by `follows`."""
    if not follows:
        return noise
    trunks, out = np.asarray(trunks)[order], noise[:, order]
    for row in range(1, out.shape[1]):
        if trunks[row] == trunks[row - 1]:
            out[:, row] = follows * out[:, row - 1] + np.sqrt(1 - follows**2) * out[:, row]
    noise[:, order] = out
    return noise


def trunk_weights(problem: Problem, trunks, draws: int, rng) -> np.ndarray:
    """How often each run is drawn when whole trunks are drawn with replacement, (draws, rows).

    A resample with fewer than 3 levels of a predictor that has 3 in the table cannot be fitted and
    is drawn again.
    """
    names, index = np.unique(np.asarray(trunks), return_inverse=True)
    levels = []
    for values in problem.columns.values():
        _, level = np.unique(np.round(np.log(np.maximum(values, 1e-300)), 6), return_inverse=True)
        if level.max() + 1 >= 3:
            levels.append(np.eye(level.max() + 1)[level])
    out = np.zeros((0, len(index)))
    for _ in range(100):
        picks = rng.integers(len(names), size=(draws, len(names)))
        cells = (np.arange(draws)[:, None] * len(names) + picks).ravel()
        counts = np.bincount(cells, minlength=draws * len(names)).reshape(draws, len(names))
        weights = counts[:, index].astype(float)
        good = np.ones(draws, bool)
        for member in levels:
            good &= ((weights @ member) > 0).sum(axis=1) >= 3
        out = np.concatenate([out, weights[good]])
        if len(out) >= draws:
            break
    return out[:draws]


def scatter(draws: Draws, shape, seed: int = 0) -> np.ndarray:
    """Residuals of new runs: the pool resampled and smoothed with a normal kernel.

    Without smoothing the ends of a small pool are its extreme runs and intervals come out short.
    The bandwidth is Silverman's (1986, eq. 3.31), from the smaller of two scales.
    """
    rng = np.random.default_rng(seed)
    pool = draws.pool
    spread = np.subtract(*np.quantile(pool, [0.75, 0.25])) / 1.34
    bandwidth = 0.9 * min(np.std(pool), spread) * len(pool) ** -0.2
    return rng.choice(pool, size=shape) + bandwidth * rng.normal(size=shape)


def widen(cloud, centre, factor: float) -> np.ndarray:
    """Draws moved away from the estimate by a factor, in log where all are positive."""
    cloud, centre = np.asarray(cloud, float), np.asarray(centre, float)
    with np.errstate(all="ignore"):
        if np.all(centre > 0) and np.all((cloud > 0) | ~np.isfinite(cloud)):
            moved = centre * (cloud / centre) ** factor
        else:
            moved = centre + factor * (cloud - centre)
    return np.where(np.isfinite(cloud) & np.isfinite(moved), moved, cloud)


def quantiles(draws, level: float, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the central interval of finite draws."""
    values = np.where(np.isfinite(draws), draws, np.nan)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail], axis=axis)
    return low, high
