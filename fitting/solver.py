"""Grid, polish and audit: the optimum of one problem and why it can be believed.

Linear parameters come from a linear solve on a grid of shape parameters; the best grid points are
polished by BFGS on exact gradients, and random starts audit the result.
"""

from dataclasses import dataclass, replace

import numpy as np

from fitting.bfgs import minimise
from fitting.objective import (
    Problem,
    condition,
    exact,
    jacobian,
    negligible,
    objective,
    objective_and_gradient,
    objective_value,
    residuals,
)
from fitting.starts import first_shapes, linear_start, other_shapes

NEARLY = 1e-4  # largest relative residual of runs that a law may meet to rounding
# The absolute value is approached through Huber losses of falling delta.
_LAD_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Optimum:
    """The best point found and why it can be believed.

    point: (parameters,) search coordinates; objective: unscaled; share: of random starts that end
    within 1e-6 of the objective or give the same predictions; next_basin: relative objective of the
    best other basin whose predictions differ, None if there is none, inf above zero residuals;
    other: its point; apart: largest log difference of its predictions; gradient_norm: of the scaled
    objective; condition: of the Gauss-Newton Hessian.
    """

    point: np.ndarray
    objective: float
    share: float
    starts: int
    next_basin: float | None
    gradient_norm: float
    condition: float
    at_bounds: tuple[str, ...]
    other: np.ndarray | None = None
    apart: float = 0.0


def solve(problem: Problem, audits: int = 32, polishes: int = 5, seed: int = 0) -> Optimum:
    """Grid, polish and audit one problem; deterministic for a seed.

    Args:
      problem: one target (rows,).
      audits: random starts, shapes uniform in their boxes, linear parameters solved for and then
        multiplied by log-normal noise of scale 1.
      polishes: how many of the best grid points are polished.
      seed: of the random starts.
    """
    law = problem.law
    rng = np.random.default_rng(seed)
    first = replace(problem, delta=_LAD_DELTAS[0]) if problem.absolute else problem
    grid = linear_start(problem, _fix_shapes(problem, first_shapes(problem, seed)))
    best = grid[np.argsort(objective(first, grid), kind="stable")[:polishes]]
    random = linear_start(problem, _fix_shapes(problem, other_shapes(problem, audits, rng)))
    noise = rng.normal(size=(audits, law.linear_count))
    for index in range(law.linear_count):
        if problem.free[index]:
            positive = law.parameters[index].positive
            random[:, index] += noise[:, index] * (1.0 if positive else np.abs(random[:, index]))
    polished = minimise(first, best)
    # An audit asks whether a start ends in the best basin, not where its floor is to the last
    # digit; one that leads lower is taken up again below.
    goal = _same(first, np.min(polished[1]))
    audited = minimise(first, random, enough=goal)
    points, costs, gradients = map(np.concatenate, zip(polished, audited, strict=True))
    if problem.absolute:
        points, costs, gradients = _sharpen(problem, points)
    # The best once more, with fresh curvature, and audits that stopped on their way below it.
    last = replace(problem, delta=_LAD_DELTAS[-1]) if problem.absolute else problem
    again = (costs <= goal) & (costs > _same(last, np.min(costs)))
    again[np.argmin(costs)] = True
    points[again], costs[again], gradients[again] = minimise(last, points[again])
    order = np.argsort(costs, kind="stable")
    winner = order[0]
    point = points[winner]
    if problem.absolute:
        point = _vertex(problem, point)
    gradient, finished = gradients[winner], _to_rounding(problem, point)
    if finished is not point:
        point = finished
        gradient = np.where(problem.free, objective_and_gradient(last, point[None])[1][0], 0.0)
    tail = costs[len(best) :]
    same = _same(last, costs[winner])
    apart = _apart(problem, points, point)
    alike = apart <= _resolution(problem, point)
    agree = (tail <= same) | alike[len(best) :]
    share = float(np.mean(agree)) if audits else float("nan")
    settled = [i for i in order if not alike[i] and same < costs[i] < np.inf]
    gap = None
    if settled:
        zero = costs[winner] <= negligible(last)
        gap = float("inf") if zero else float(costs[settled[0]] / costs[winner] - 1)
    low, high = problem.bounds()
    at = problem.free & ((point <= low + 1e-6) | (point >= high - 1e-6))
    return Optimum(
        point=point,
        objective=float(objective_value(problem, point)),
        share=share,
        starts=audits,
        next_basin=gap,
        gradient_norm=float(np.linalg.norm(np.where(at, 0.0, gradient))),
        condition=condition(problem, point),
        at_bounds=tuple(np.array(law.names)[at]),
        other=points[settled[0]] if settled else None,
        apart=float(apart[settled[0]]) if settled else 0.0,
    )


def _apart(problem: Problem, points, point) -> np.ndarray:
    """Largest relative difference of predictions between points and the optimum, (points,)."""
    miss = residuals(problem, np.concatenate([point[None], points]))
    unit = 1.0 if problem.objective != "least_squares" else np.abs(problem.target)
    moved = np.max(np.abs((miss[1:] - miss[0]) / unit), axis=1)
    return np.where(np.isfinite(moved), moved, np.inf)


def _resolution(problem: Problem, point) -> float:
    """Difference of predictions that the runs' scatter hides: a tenth of the typical residual."""
    miss = residuals(problem, point[None])[0]
    unit = 1.0 if problem.objective != "least_squares" else np.abs(problem.target)
    return max(1e-6, 0.1 * float(np.median(np.abs(miss / unit))))


def _same(problem: Problem, cost: float) -> float:
    """Highest objective that counts as the same optimum."""
    return cost * (1 + 1e-6) + negligible(problem)


def _fix_shapes(problem: Problem, shapes: np.ndarray) -> np.ndarray:
    shapes = shapes.copy()
    for index, name in enumerate(problem.law.names[problem.law.linear_count :]):
        if name in (problem.fixed or {}):
            shapes[:, index] = problem.fixed[name]
    return shapes


def _sharpen(problem, points):
    for delta in _LAD_DELTAS[1:]:
        points, costs, gradients = minimise(replace(problem, delta=delta), points, iterations=60)
    return points, costs, gradients


def _to_rounding(problem, point):
    """Damped Gauss-Newton steps where nearly nothing is left to explain.

    Runs without noise have an optimum of zero, which quasi-Newton steps near but do not reach in
    badly conditioned laws; other optima are left as they are.
    """
    unit = 1.0 if problem.objective != "least_squares" else np.abs(problem.target)
    free, (low, high) = np.flatnonzero(problem.free), problem.bounds()
    miss = residuals(problem, point[None])[0]
    if not np.max(np.abs(miss / unit)) < NEARLY or exact(problem, point):
        return point
    lowest, damping = float(np.sum(miss**2)), 1e-6
    for _ in range(200):
        slopes = jacobian(problem, point[None])[0][:, free]
        size = np.linalg.norm(slopes, axis=0) + 1e-300
        rows = np.vstack([slopes / size, np.sqrt(damping) * np.eye(len(free))])
        step = np.linalg.lstsq(rows, np.concatenate([-miss, np.zeros(len(free))]), rcond=None)[0]
        trial = point.copy()
        trial[free] += step / size
        trial = np.clip(trial, low, high)
        found = residuals(problem, trial[None])[0]
        value = float(np.sum(found**2))
        if np.isfinite(value) and value < lowest:
            damping *= 0.1 if value < 0.9 * lowest else 0.5
            point, miss, lowest = trial, found, value
        else:
            damping *= 10
        if exact(problem, point) or damping > 1e3:
            break
    return point


def _vertex(problem, point):
    """At a least-absolute-deviation optimum as many residuals vanish as there are parameters."""
    free = np.flatnonzero(problem.free)
    best, lowest = point, objective_value(problem, point)
    trial = point.copy()
    for _ in range(8):
        miss = residuals(problem, trial[None])[0]
        rows = np.argsort(np.abs(miss))[: len(free)]
        slopes = jacobian(problem, trial[None])[0][np.ix_(rows, free)]
        if np.linalg.matrix_rank(slopes) < len(free):
            break
        trial = trial.copy()
        trial[free] -= np.linalg.solve(slopes, miss[rows])
        value = objective_value(problem, trial)
        if not value <= lowest * (1 + 1e-9):
            break
        best, lowest = (trial, value) if value < lowest else (best, lowest)
    return best
