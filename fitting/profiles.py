"""Profile likelihood: how much worse the fit gets when one parameter is held elsewhere."""

from dataclasses import dataclass, replace

import numpy as np

from fitting.bfgs import curvature_inverse, minimise
from fitting.objective import Problem, jacobian, residuals

VERDICTS = ("identified", "weakly identified", "not identified")
MEANING = (
    "identified: the 95 % profile-likelihood interval closes within a factor of 3 (30 for "
    "coefficients other than E) or, where the sign is free, excludes zero; weakly: it closes, but "
    "wider, or at most one random start of many reached the optimum; not: it is open"
)
_STEPS = np.array([0.5, 1, 1.5, 2, 3, 4, 6, 9, 14])
_FEW = 8
_THRESHOLD = 3.841458820694124  # 95 % quantile of chi-square with 1 degree of freedom
# An identified exponent is known within this factor; a coefficient moves with its exponent by
# exponent error x log(predictor), so it is allowed more.
_SHAPE_FACTOR, _COEFFICIENT_FACTOR = 3.0, 30.0


@dataclass(frozen=True)
class Profile:
    """One parameter's profile.

    values: (points,) of the parameter, ascending; deviance: (points,), twice the drop in
    log-likelihood with the noise scale profiled out; low, high: 95 % likelihood interval, None
    where the profile never reaches the threshold inside the bounds.
    """

    name: str
    values: np.ndarray
    deviance: np.ndarray
    low: float | None
    high: float | None
    verdict: str


def design_effect(
    problem: Problem, point: np.ndarray, trunks: np.ndarray, shared: float
) -> np.ndarray:
    """How much noise shared within trunks raises the variance of each parameter, (parameters,).

    The ratio of least-squares variances at the optimum under an equal correlation within trunks
    and under independence (Moulton 1986); contrasts within a trunk gain from it, which is not
    counted: at least 1.

    Args:
      problem: one target (rows,).
      point: its optimum (parameters,).
      trunks: labels (rows,).
      shared: share of the noise variance that the runs of a trunk have in common.
    """
    plain = "least_squares" if problem.objective == "least_squares" else "least_squares_log"
    inverse = curvature_inverse(replace(problem, objective=plain), point[None], problem.free[None])
    slopes = np.where(problem.free, jacobian(problem, point[None])[0], 0.0) @ inverse[0]
    _, index = np.unique(np.asarray(trunks), return_inverse=True)
    sums = np.zeros((index.max() + 1, slopes.shape[1]))
    np.add.at(sums, index, slopes)
    alone = np.maximum(np.sum(slopes**2, axis=0), 1e-300)
    return np.maximum(1.0, (1 - shared) + shared * np.sum(sums**2, axis=0) / alone)


def profile(
    problem: Problem, point: np.ndarray, objective: float, effect: np.ndarray | None = None
) -> tuple[dict[str, Profile], np.ndarray | None]:
    """Profiles of all free parameters, and a better point if profiling meets one.

    Args:
      problem: one target (rows,).
      point: its optimum (parameters,).
      objective: there, scaled as the solver minimises it.
      effect: (parameters,) from `design_effect`; it divides the deviance. None is independence.

    Returns:
      {name: Profile}, point or None.
    """
    law = problem.law
    smooth = replace(problem, delta=1e-5) if problem.absolute else problem
    names = [name for name, free in zip(law.names, problem.free, strict=True) if free]
    low, high = problem.bounds()
    miss = residuals(problem, point[None])[0]
    rows = len(miss)
    effect = np.ones(len(point)) if effect is None else effect
    power = _growth(problem, miss)
    covariance = curvature_inverse(smooth, point[None], problem.free[None])[0]
    # One standard error of independent noise costs objective / (rows - parameters) once.
    unit = power * max(objective, 1e-300) / max(rows - len(names), 1)
    starts, masks, owners, coordinates = [], [], [], []
    for name in names:
        index = law.names.index(name)
        error = float(np.sqrt(max(covariance[index, index], 1e-30) * unit * effect[index]))
        line = covariance[:, index] / max(covariance[index, index], 1e-300)
        for step in np.concatenate([-_STEPS[::-1], _STEPS]) * error:
            goal = float(np.clip(point[index] + step, low[index], high[index]))
            start = point + line * (goal - point[index])
            start[index] = goal
            free = problem.free.copy()
            free[index] = False
            starts.append(start)
            masks.append(free)
            owners.append(name)
            coordinates.append(goal)
    tangents = len(starts)
    # Starts along the tangent can end in a side basin: also start from the optimum itself.
    # Laws with many parameters skip it, for time: their side basins show in the audit.
    if len(names) <= _FEW:
        direct = np.tile(point, (tangents, 1))
        for row, name in enumerate(owners):
            direct[row, law.names.index(name)] = coordinates[row]
        starts, masks = [*starts, *direct], masks * 2
    points, costs, _ = minimise(smooth, np.array(starts), np.array(masks), iterations=120)
    again, again_costs = points[-tangents:], costs[-tangents:]
    points, costs = points[:tangents], costs[:tangents]
    points = np.where((again_costs < costs)[:, None], again, points)
    costs = np.minimum(costs, again_costs)
    base = min(objective, float(costs.min()))
    better = points[int(np.argmin(costs))] if costs.min() < objective * (1 - 1e-6) else None
    factor = 2 * rows / power
    profiles = {}
    owners, coordinates = np.array(owners), np.array(coordinates)
    for name in names:
        index = law.names.index(name)
        parameter = law.parameters[index]
        mine = owners == name
        place = np.concatenate([coordinates[mine], [point[index]]])
        with np.errstate(all="ignore"):
            deviance = np.log(np.concatenate([costs[mine], [objective]]) / base)
        deviance *= factor / effect[index]
        order = np.argsort(place, kind="stable")
        place, deviance = place[order], deviance[order]
        ends = [_crossing(place, deviance, point[index], side) for side in (-1, 1)]
        found = [None if end is None else float(parameter.from_search(end)) for end in ends]
        profiles[name] = Profile(
            name, parameter.from_search(place), deviance, *found, _verdict(parameter, found, ends)
        )
    return profiles, better


def _growth(problem: Problem, miss) -> float:
    """Power with which the objective grows in the residual scale: 2 for squares, 1 for LAD."""
    if problem.absolute:
        return 1.0
    if problem.objective != "huber":
        return 2.0
    size, delta = np.abs(miss), problem.delta
    cost = np.where(size < delta, size**2 / 2, delta * (size - delta / 2))
    if not np.sum(cost) > 0:
        return 2.0  # no residuals: all of them inside delta
    return float(np.sum(np.minimum(size, delta) * size) / np.sum(cost))


def _crossing(place, deviance, centre, side):
    """Where the profile first exceeds the threshold on one side of the optimum, None if never."""
    keep = place <= centre if side < 0 else place >= centre
    where, height = place[keep], deviance[keep]
    if side < 0:
        where, height = where[::-1], height[::-1]
    above = np.flatnonzero(height > _THRESHOLD)
    if not len(above):
        return None
    last = above[0]
    if last == 0:
        return float(where[0])
    rise = np.sqrt(np.maximum(height[[last - 1, last]], 0))
    share = (np.sqrt(_THRESHOLD) - rise[0]) / max(rise[1] - rise[0], 1e-12)
    return float(where[last - 1] + share * (where[last] - where[last - 1]))


def _verdict(parameter, found, ends) -> str:
    if found[0] is None or found[1] is None:
        return "not identified"
    if not parameter.positive:
        return "identified" if found[0] * found[1] > 0 else "weakly identified"
    factor = _COEFFICIENT_FACTOR if parameter.linear else _SHAPE_FACTOR
    if parameter.name == "E":
        factor = _SHAPE_FACTOR
    return "identified" if ends[1] - ends[0] <= np.log(factor) else "weakly identified"
