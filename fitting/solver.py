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
    jacobian,
    negligible,
    objective,
    objective_value,
    residuals,
)
from fitting.starts import first_shapes, linear_start, other_shapes

# The absolute value is approached through Huber losses of falling delta.
_LAD_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Optimum:
    """The best point found and why it can be believed.

    point: (parameters,) search coordinates; objective: unscaled; share: of random starts that end
    within 1e-6 of the objective; next_basin: relative objective of the best other basin, None if
    there is none, inf above zero residuals; gradient_norm: of the scaled objective; condition: of
    the Gauss-Newton Hessian.
    """

    point: np.ndarray
    objective: float
    share: float
    starts: int
    next_basin: float | None
    gradient_norm: float
    condition: float
    at_bounds: tuple[str, ...]


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
    first = replace(problem, delta=_LAD_DELTAS[0]) if problem.objective == "lad" else problem
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
    if problem.objective == "lad":
        points, costs, gradients = _sharpen(problem, points)
    # The best once more, with fresh curvature, and audits that stopped on their way below it.
    last = replace(problem, delta=_LAD_DELTAS[-1]) if problem.objective == "lad" else problem
    again = (costs <= goal) & (costs > _same(last, np.min(costs)))
    again[np.argmin(costs)] = True
    points[again], costs[again], gradients[again] = minimise(last, points[again])
    order = np.argsort(costs, kind="stable")
    winner = order[0]
    point = points[winner]
    if problem.objective == "lad":
        point = _vertex(problem, point)
    tail = costs[len(best) :]
    same = _same(last, costs[winner])
    share = float(np.mean(tail <= same)) if audits else float("nan")
    others = [i for i in order if np.max(np.abs(points[i] - point)) > 0.05 and costs[i] < np.inf]
    settled = [i for i in others if costs[i] > same]
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
        gradient_norm=float(np.linalg.norm(np.where(at, 0.0, gradients[winner]))),
        condition=condition(problem, point),
        at_bounds=tuple(np.array(law.names)[at]),
    )


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
