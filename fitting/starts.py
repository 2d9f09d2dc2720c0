"""Where searches start: shape parameters on a grid or at random, linear ones solved for."""

from itertools import product

import numpy as np

from fitting.bfgs import solved
from fitting.law import Law
from fitting.objective import Problem

_MOST_SUBSETS = 6  # linear parameters of which every subset is tried
_CHUNK = 100_000  # numbers at once, so that intermediate arrays stay in the cache


def linear_start(problem: Problem, shape: np.ndarray) -> np.ndarray:
    """Search points with the linear parameters solved for, given shape values.

    Weighted least squares in the target's unit, weights 1 / target (1 in log10 for that link).
    Coefficients that must be positive are: every subset of them is solved, the best feasible kept.

    Args:
      problem: one target (rows,).
      shape: (points, shape parameters), values.

    Returns:
      (points, parameters) search coordinates.
    """
    rows = problem.target.shape[-1]
    chunk = max(1, _CHUNK // rows)
    if len(shape) > chunk:
        parts = [shape[first : first + chunk] for first in range(0, len(shape), chunk)]
        return np.concatenate([linear_start(problem, part) for part in parts])
    law, count = problem.law, problem.law.linear_count
    low, high = problem.bounds()
    out = np.zeros((len(shape), len(law.parameters)))
    for index, parameter in enumerate(law.parameters[count:]):
        value = shape[:, index]
        out[:, count + index] = parameter.to_search(value)
    fixed = dict(problem.fixed or {})
    shape_columns = [shape[:, i : i + 1] for i in range(shape.shape[1])]
    with np.errstate(all="ignore"):
        terms = law.terms(problem.columns, *shape_columns)
    full = (len(shape), rows)
    target = np.log10(problem.target) if law.link == "log10" else problem.target
    weight = np.ones(rows) if law.link == "log10" else 1 / problem.target
    goal = np.broadcast_to(target, full)
    if len(terms) > count:
        goal = goal - terms[count]
    basis, which = [], []
    for index in range(count):
        term = np.broadcast_to(np.nan_to_num(terms[index]), full)
        if law.names[index] in fixed:
            goal = goal - fixed[law.names[index]] * term
        else:
            basis.append(term * weight)
            which.append(index)
    if basis:
        values = _bounded_least_squares(
            np.stack(basis, 1),
            goal * weight,
            np.array([law.parameters[index].positive for index in which]),
        )
        for column, index in enumerate(which):
            parameter = law.parameters[index]
            floor = 1e-6 * np.min(problem.target) if parameter.positive else None
            value = values[:, column]
            if parameter.positive:
                value = np.where(value > 0, value, max(floor, parameter.low))
            out[:, index] = parameter.to_search(value)
    for index, name in enumerate(law.names):
        if name in fixed:
            out[:, index] = law.parameters[index].to_search(fixed[name])
    return np.clip(out, low, high)


def _bounded_least_squares(basis, goal, positive):
    count = basis.shape[1]
    gram = basis @ np.swapaxes(basis, 1, 2)
    size = np.sqrt(np.einsum("bii->bi", gram)) + 1e-300
    gram = gram / size[:, :, None] / size[:, None, :] + 1e-14 * np.eye(count)
    pull = (basis @ goal[:, :, None])[..., 0] / size
    best = solved(gram, pull[..., None])[..., 0]
    # Where the free optimum is feasible it is the answer; only the others need the subsets.
    left = np.flatnonzero(~np.all((best > 0) | ~positive, axis=1))
    if count > _MOST_SUBSETS:
        for row in left:
            best[row] = _by_active_set(gram[row], pull[row], positive)
        return best / size
    gram, pull = gram[left], pull[left]
    found, lowest = np.zeros((len(left), count)), np.full(len(left), np.inf)
    for used in product((True, False), repeat=count):
        used = np.array(used)
        if used.all() or not used.any() or not np.all(used | positive):
            continue
        part = solved(gram[:, used][:, :, used], pull[:, used, None])[..., 0]
        # At a least-squares solution the sum of squares has fallen by part . pull.
        cost = -np.sum(part * pull[:, used], axis=1)
        feasible = np.all((part > 0) | ~positive[used], axis=1)
        better = np.flatnonzero(feasible & (cost < lowest))
        lowest[better] = cost[better]
        found[better] = 0.0
        found[np.ix_(better, used)] = part[better]
    best[left] = found
    return best / size


def _by_active_set(gram, pull, positive):
    """One bounded solution by active sets, where there are too many subsets to try them all."""
    from scipy.optimize import lsq_linear  # Here, since a plan needs no solver.

    root = np.linalg.cholesky(gram + 1e-12 * np.eye(len(gram))).T
    low = np.where(positive, 0.0, -np.inf)
    return lsq_linear(root, np.linalg.solve(root.T, pull), (low, np.inf)).x


def first_shapes(problem: Problem, seed: int = 0) -> np.ndarray:
    """Shape values that a search is first tried from, (points, shape parameters)."""
    if problem.law.starts is None:
        return shape_grid(problem.law, seed=seed)
    return other_shapes(problem, 512, np.random.default_rng(seed))


def other_shapes(problem: Problem, count: int, rng) -> np.ndarray:
    """Random shape values, from the law's own starts where it has them, (count, parameters)."""
    if problem.law.starts is None:
        return random_shapes(problem.law, count, rng)
    if not count:
        return random_shapes(problem.law, 0, rng)
    return problem.law.starts(problem.columns, problem.target, count, rng)


def shape_grid(law: Law, points: int = 256, seed: int = 0) -> np.ndarray:
    """Shape values on a regular grid (up to 2 shape parameters) or random in the start boxes."""
    boxes = [p for p in law.parameters if not p.linear]
    if not boxes:
        return np.zeros((1, 0))
    if len(boxes) <= 2:
        side = int(round(points ** (1 / len(boxes))))
        axes = [_spread(p, np.linspace(0, 1, side)) for p in boxes]
        return np.array(list(product(*axes)))
    return random_shapes(law, 8 * points, np.random.default_rng(seed))


def random_shapes(law: Law, count: int, rng) -> np.ndarray:
    """Shape values drawn from the start boxes, (count, shape parameters)."""
    boxes = [p for p in law.parameters if not p.linear]
    if not boxes:
        return np.zeros((count, 0))
    return np.stack([_spread(p, rng.random(count)) for p in boxes], axis=1)


def _spread(parameter, unit_interval):
    low, high = parameter.start
    if parameter.positive and high / low > 30:
        return np.exp(np.log(low) + unit_interval * (np.log(high) - np.log(low)))
    return low + unit_interval * (high - low)
