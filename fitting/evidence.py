"""What a fit rests on: influence of runs and sizes, likelihood, comparison, rounding damage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import erf
from threadpoolctl import threadpool_limits

from fitting.bfgs import minimise
from fitting.fit import Fit, fit, named, problem_of
from fitting.held_out import IDS, OUTCOMES, seed_standard_deviation
from fitting.intervals import NORMAL_90
from fitting.objective import ZERO, Problem, exact, objective_value, residuals, sides
from fitting.observations import Observations

FAR_APART = 5.0  # standard deviations between rows of equal predictors that no chance explains
_DISTINCT = 6.0  # AICc difference; exp(-6 / 2) = 0.05 relative likelihood


def influence(result: Fit, most: int = 5) -> pd.DataFrame:
    """Refits without each run, and without each level of each predictor.

    Args:
      result: a fit; its bootstrap draws give the unit of `shift`.
      most: only predictors with at most this many times 5 levels are left out level by level.

    Returns:
      DataFrame(kind, left_out, runs, <parameters>, shift), most influential first; shift is the
      largest move of a parameter in its own bootstrap standard deviations (in per cent of the
      search coordinate without draws).
    """
    problem, point = problem_of(result), result.optimum.point
    frame = result.observations.frame
    kinds, names, masks = [], [], []
    for row, run in enumerate(frame["run"]):
        kinds.append("run")
        names.append(str(run))
        masks.append(np.arange(len(frame)) != row)
    for predictor, values in problem.columns.items():
        levels = np.unique(values)
        if not 3 < len(levels) <= 5 * most:
            continue
        for level in levels:
            kinds.append(predictor)
            names.append(f"{level:g}")
            masks.append(values != level)
    weights = np.array(masks, float)
    start = np.tile(point, (len(weights), 1))
    smooth = replace(problem, delta=1e-4) if problem.absolute else problem
    with threadpool_limits(limits=1):
        points, _, _ = minimise(replace(smooth, weights=weights), start, tolerance=1e-8)
    table = pd.DataFrame({"kind": kinds, "left_out": names, "runs": weights.sum(1).astype(int)})
    for name, values in named(result.law, points).items():
        table[name] = values
    moved = np.abs(points - point)[:, problem.free]
    if result.draws is not None:
        low, high = np.quantile(result.draws.points[:, problem.free], [0.159, 0.841], axis=0)
        table["shift"] = np.max(moved / np.maximum((high - low) / 2, 1e-12), axis=1)
    else:
        table["shift"] = 100 * np.max(moved, axis=1)
    return table.sort_values("shift", ascending=False, kind="stable").reset_index(drop=True)


def log_likelihood(problem: Problem, point: np.ndarray) -> float:
    """Log-likelihood of the residuals with a free scale, in the density of the objective.

    Huber density for `huber` (Besiroglu et al. 2024, arXiv:2404.10102 sec. 3), Laplace for `lad`,
    normal for least squares; residuals in log, or the target's unit for `least_squares`. Residuals
    count as no smaller than rounding, so that a law that meets every run gets a finite number.
    """
    miss = residuals(problem, np.asarray(point)[None])[0]
    size = np.maximum(sides(problem, miss) * np.abs(miss), ZERO)
    rows, delta = len(size), problem.delta
    if problem.absolute:
        return float(-rows * (np.log(2 * np.mean(size)) + 1))
    if problem.objective != "huber":
        return float(-0.5 * rows * (np.log(2 * np.pi * np.mean(size**2)) + 1))
    mass = np.sqrt(2 * np.pi) * erf(delta / np.sqrt(2)) + 2 * np.exp(-(delta**2) / 2) / delta

    def negative(log_scale):
        scaled = size / np.exp(log_scale)
        cost = np.where(scaled < delta, scaled**2 / 2, delta * (scaled - delta / 2))
        return np.sum(cost) + rows * (log_scale + np.log(mass))

    centre = np.log(max(np.mean(size) * delta, 1e-300))
    grid = np.linspace(centre - 12, centre + 12, 97)
    best = grid[int(np.argmin([negative(value) for value in grid]))]
    found = minimize_scalar(negative, bounds=(best - 0.3, best + 0.3), method="bounded")
    return float(-found.fun)


def akaike(result: Fit) -> float:
    """AICc, the noise scale counted as a parameter; inf with too few runs for the correction."""
    problem = problem_of(result)
    rows, fitted = len(problem.target), int(problem.free.sum()) + 1
    if rows <= fitted + 1:
        return float("inf")
    spread = log_likelihood(problem, result.optimum.point)
    return 2 * fitted - 2 * spread + 2 * fitted * (fitted + 1) / (rows - fitted - 1)


def compare(laws: Sequence, obs: Observations, held_out=None, **options) -> pd.DataFrame:
    """Laws on the same runs: held-out error and AICc, with "not distinguishable" as an answer.

    A law is called worse than the best when the 90 % interval of the paired difference in absolute
    held-out error, resampling trunks, excludes zero; without at least 5 held-out trunks, when AICc
    is higher by more than 6.

    Args:
      laws: laws or names; options: as for `fit`, the same for each.

    Returns:
      DataFrame(law, parameters, held_out_error (root mean square, relative), aicc, delta_aicc,
      verdict), best first.
    """
    fits = [fit(law, obs, held_out=held_out, point_only=True, **options) for law in laws]
    rows, errors = [], []
    for result in fits:
        kept = result.held_out
        miss = np.abs(np.asarray(kept["relative_error"], float)) if len(kept) else np.zeros(0)
        errors.append(miss)
        rows.append(
            {
                "law": result.law.name,
                "parameters": len(result.law.names) - len(result.fixed),
                "held_out_error": float(np.sqrt(np.mean(miss**2))) if len(miss) else np.nan,
                "aicc": akaike(result),
            }
        )
    table = pd.DataFrame(rows)
    table["delta_aicc"] = table["aicc"] - table["aicc"].min()
    trunks = obs.frame["trunk"][np.asarray(held_out, bool)] if held_out is not None else []
    by_error = len(np.unique(trunks)) >= 5
    best = int(table["held_out_error" if len(trunks) else "aicc"].idxmin())
    verdicts = []
    for index in range(len(table)):
        if index == best:
            verdicts.append("best")
        elif by_error:
            same = _same(errors[index] - errors[best], np.asarray(trunks))
            verdicts.append("not distinguishable" if same else "worse")
        else:
            gap = abs(table["aicc"][index] - table["aicc"][best])
            better = table["aicc"][index] < table["aicc"][best] - _DISTINCT
            distinct = "better in AICc, worse held out" if better else "worse"
            verdicts.append("not distinguishable" if gap <= _DISTINCT else distinct)
    table["verdict"] = verdicts
    order = table.index != best
    return table.iloc[np.argsort(order * 1.0 + table["delta_aicc"] / 1e12)].reset_index(drop=True)


def _same(difference, trunks, draws: int = 2000) -> bool:
    rng = np.random.default_rng(0)
    _, index = np.unique(trunks, return_inverse=True)
    totals, counts = np.bincount(index, difference), np.bincount(index)
    picks = rng.integers(len(counts), size=(draws, len(counts)))
    means = totals[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(means, [0.05, 0.95])
    return bool(low <= 0 <= high)


def rounding_damage(result: Fit, digits: int = 3) -> dict[str, float]:
    """What is lost when the parameters are printed with a few significant digits.

    Returns:
      {"objective": relative rise, inf from zero residuals; "log_likelihood": units lost;
      "prediction": largest relative change over the fitted runs}.
    """
    problem = problem_of(result)
    law = result.law
    rounded = {
        name: float(f"{result.parameters[name]:.{digits}g}")
        for name in law.names
        if name not in result.fixed
    } | dict(result.fixed)
    point = np.array([p.to_search(rounded[p.name]) for p in law.parameters])
    before = law.predict(problem.columns, result.parameters)
    after = law.predict(problem.columns, rounded)
    base = 0.0 if exact(problem, result.optimum.point) else result.optimum.objective
    lost = log_likelihood(problem, result.optimum.point) - log_likelihood(problem, point)
    return {
        "objective": objective_value(problem, point) / base - 1 if base > 0 else float("inf"),
        "log_likelihood": lost,
        "prediction": float(np.max(np.abs(after / before - 1))),
    }


def contradictions(result: Fit, most: int = 5) -> list[str]:
    """Rows with equal predictors whose targets lie apart by more than chance explains.

    Chance is the spread of seeds where runs agree in every setting, else that of the residuals of
    such rows' means. A column in which the rows differ is named: it may be what `--by` is for.
    """
    frame, target = result.observations.frame, result.target
    columns = [result.params if n == "params" else n for n in result.law.predictors]
    cells = frame.groupby(columns, sort=False).ngroup().to_numpy()
    value = np.log(frame[target].to_numpy(float))
    sizes = np.bincount(cells)
    if (sizes > 1).sum() == 0:
        return []
    apart = value - (np.bincount(cells, value) / sizes)[cells]
    chance = _chance(result, cells, sizes, value)
    bad = [
        cell
        for cell in np.flatnonzero(sizes > 1)
        if np.ptp(apart[cells == cell]) > FAR_APART * chance
    ]
    lines = []
    for cell in sorted(bad, key=lambda cell: -np.ptp(apart[cells == cell]))[:most]:
        rows = frame[cells == cell]
        where = ", ".join(f"{name} {rows[name].iloc[0]:.4g}" for name in columns)
        low, high = rows[target].min(), rows[target].max()
        lines.append(
            f"{len(rows)} rows at {where}: {target} {low:.4g} to {high:.4g}, "
            f"{np.log(high / low) / max(chance, 1e-12):.0f} times what chance explains"
            f"{_differing(rows, columns)} ({', '.join(map(str, rows['run'][:4]))})"
        )
    if len(bad) > most:
        lines.append(f"and {len(bad) - most} more such groups of rows")
    return lines


def _chance(result: Fit, cells, sizes, value) -> float:
    """Standard deviation of log target that chance explains between rows with equal predictors."""
    spread, degrees = seed_standard_deviation(result.observations, target=result.target)
    if degrees >= 3:
        return spread / float(np.exp(np.median(value)))
    miss = result.residuals["residual"].to_numpy(float)
    means = np.bincount(cells, miss) / sizes * np.sqrt(sizes)
    return float(np.quantile(np.abs(means), 0.9) / NORMAL_90)


def _differing(rows: pd.DataFrame, columns) -> str:
    """Which other settings differ between rows, as words."""
    given = [n for n in rows if n not in IDS and n not in columns and not n.startswith(OUTCOMES)]
    names = [name for name in given if rows[name].nunique(dropna=False) > 1]
    return (
        f"; they differ in {', '.join(names[:4])}"
        if names
        else "; no other column tells them apart"
    )


def convergence(result: Fit) -> Mapping[str, object]:
    """How the optimum was reached, as {label: value} for printing."""
    found = result.optimum
    basin = "none met"
    if found.next_basin is not None:
        gap = found.next_basin
        basin = f"objective {gap:.2%} higher" if np.isfinite(gap) else "above zero residuals"
        if found.other is not None:
            values = named(result.law, found.other[None])
            told = ", ".join(f"{name} {float(values[name][0]):.4g}" for name in result.law.names)
            basin += f", predictions up to {found.apart:.2%} apart: {told}"
    return {
        "objective": f"{found.objective:.10g}",
        "random starts at the optimum": f"{found.share:.0%} of {found.starts}",
        "next basin": basin,
        "gradient norm (scaled objective)": f"{found.gradient_norm:.1e}",
        "condition number": f"{found.condition:.1e}",
        "parameters at bounds": ", ".join(found.at_bounds) or "none",
    }
