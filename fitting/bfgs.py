"""BFGS from many points at once, inside bounds, in numpy.

It minimises objective / delta, so that stopping rules see numbers of order one: SciPy's rule is
absolute below one and stops a Huber(1e-3) sum far from its optimum.
"""

from dataclasses import replace

import numpy as np

from fitting.objective import (
    Problem,
    objective_and_gradient,
    residuals_and_jacobian,
    sides,
    smoothing,
)

_LONGEST = 3.0  # step, in log units of a parameter
_SHORTEST, _STALE = 1e-9, 1e-2  # share of a step after which its direction is given up
_CHUNK = 100_000  # residuals at once, so that intermediate arrays stay in the cache
_REFRESH = 15  # trials after which the curvature is taken from the residuals again


def minimise(
    problem: Problem,
    start: np.ndarray,
    free: np.ndarray | None = None,
    iterations: int = 200,
    tolerance: float = 1e-9,
    enough: float = -np.inf,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BFGS from many points at once, inside the bounds.

    Args:
      problem: target and weights (rows,) shared by all starts, or (batch, rows).
      start: (batch, parameters) search coordinates.
      free: bool (parameters,) or (batch, parameters), which coordinates move.
      iterations: at most this many steps per start.
      tolerance: stop a start after three steps that gain less than this relative decrease.
      enough: stop a start once its scaled objective is no higher than this.

    Returns:
      points (batch, parameters), scaled objectives (batch,), gradients (batch, parameters).
    """
    low, high = problem.bounds()
    free = problem.free if free is None else np.asarray(free)
    free = np.broadcast_to(free, start.shape)
    point = np.clip(start, low, high)
    most = max(1, _CHUNK // problem.target.shape[-1])
    value, gradient, inverse = _beginning(problem, point, free, most)
    direction, descent = _direction(point, gradient, inverse, free, low, high)
    length, steps, trials, quiet = (np.full(len(point), first) for first in (1.0, 0, 0, 0))
    fresh = np.ones(len(point), bool)
    alive = np.isfinite(value) & (value > enough)
    # Every start is at its own place in its own line search, so that none waits for another; where
    # one has ended, the next begins.
    while alive.any():
        rows = np.flatnonzero(alive)[:most]
        trials[rows] += 1
        trial = np.clip(point[rows] + length[rows, None] * direction[rows], low, high)
        found, slope = objective_and_gradient(_rows(problem, rows), trial)
        taken = found <= value[rows] + 1e-4 * length[rows] * descent[rows]
        moved, kept = rows[taken], rows[~taken]
        length[kept] *= 0.3
        stuck = kept[length[kept] < np.where(fresh[kept], _SHORTEST, _STALE)]
        # Stuck with fresh curvature: at the rounding of the objective, nothing more to gain.
        quiet[stuck] += np.where(fresh[stuck], 3, 1)

        trial, found, slope = trial[taken], found[taken], slope[taken]
        turn = np.where(free[moved], slope - gradient[moved], 0.0)
        inverse[moved] = _bfgs_update(inverse[moved], trial - point[moved], turn)
        small = value[moved] - found <= tolerance * np.maximum(np.abs(found), 1e-300)
        quiet[moved] = np.where(small, quiet[moved] + 1, 0)
        point[moved], value[moved], gradient[moved] = trial, found, slope
        steps[moved] += 1

        fresh[moved] = False
        again = np.concatenate([moved[trials[moved] % _REFRESH == 0], stuck])
        fresh[again] = True
        inverse[again] = curvature_inverse(_rows(problem, again), point[again], free[again])
        turned = np.concatenate([moved, stuck])
        length[turned] = 1.0
        direction[turned], descent[turned] = _direction(
            point[turned], gradient[turned], inverse[turned], free[turned], low, high
        )
        alive[rows] = (quiet[rows] < 3) & (steps[rows] < iterations) & (value[rows] > enough)
    return point, value, np.where(free, gradient, 0.0)


def _beginning(problem: Problem, point, free, most: int) -> tuple[np.ndarray, ...]:
    """Scaled objectives, gradients and inverse curvatures of the starts, so many at once."""
    batched = problem.target.ndim == 2 or np.ndim(problem.weights) == 2
    # Resampled runs are fitted from one point: the law is the same for all of them there.
    alike = batched and len(point) > 1 and bool(np.all(point == point[0]))
    parts = []
    for first in range(0, max(len(point), 1), most):
        part = slice(first, first + most)
        some, here = _rows(problem, part), point[:1] if alike else point[part]
        found = objective_and_gradient(some, here)
        parts.append((*found, curvature_inverse(some, here, free[part])))
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _direction(here, slope, inverse, free, low, high):
    """Quasi-Newton direction with the bounds that hold, and the slope along it."""
    blocked = (here <= low) & (slope > 0) | (here >= high) & (slope < 0) | ~free
    masked = np.where(blocked, 0.0, slope)
    step = np.einsum("bij,bj->bi", inverse, masked)
    held = blocked & free
    rows = np.flatnonzero(held.any(axis=1))
    if len(rows):
        step[rows] -= _share_of_held(inverse[rows], step[rows], held[rows])
    direction = -np.where(blocked, 0.0, step)
    descent = np.einsum("bi,bi->b", direction, masked)
    wrong = descent >= 0
    if wrong.any():
        scale = 1 / np.maximum(1.0, np.abs(masked).max(axis=1, keepdims=True))
        direction = np.where(wrong[:, None], -masked * scale, direction)
        descent = np.where(wrong, np.einsum("bi,bi->b", direction, masked), descent)
    reach = np.abs(direction).max(axis=1)
    shorter = np.minimum(1.0, _LONGEST / np.maximum(reach, 1e-300))
    return direction * shorter[:, None], descent * shorter


def _share_of_held(inverse, step, held):
    """Part of a step that counts on moving coordinates which are held at a bound.

    Without it the step is far too long: the free block of an inverse Hessian is not the inverse of
    the free block.
    """
    both = held[:, :, None] & held[:, None, :]
    block = np.where(both, inverse, np.eye(held.shape[1]))
    pull = solved(block, np.where(held, step, 0.0)[..., None])
    return (inverse @ pull)[..., 0]


def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions of matrix x = right, (batch, n, columns); least squares where one is singular."""
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        usable = np.nan_to_num(matrix, nan=0.0, posinf=1e150, neginf=-1e150)
        return np.linalg.pinv(usable) @ right


def _rows(problem: Problem, rows) -> Problem:
    changes = {}
    if problem.target.ndim == 2:
        changes["target"] = problem.target[rows]
    if problem.weights is not None and problem.weights.ndim == 2:
        changes["weights"] = problem.weights[rows]
    return replace(problem, **changes) if changes else problem


def curvature_inverse(problem: Problem, point: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Inverse Gauss-Newton Hessian at each point, (batch, parameters, parameters)."""
    if not len(point):
        return np.zeros((0, point.shape[1], point.shape[1]))
    miss, slopes = residuals_and_jacobian(problem, point)
    delta = smoothing(problem)
    weight = np.ones(slopes.shape[:2])
    if not np.isinf(delta):
        size = np.abs(np.nan_to_num(miss, nan=1e3, posinf=1e3, neginf=-1e3))
        # The true curvature of an absolute value is spread over the typical miss.
        weight = 1 / np.maximum(size, max(delta, 1e-12) + 0.2 * np.median(size, 1)[:, None])
    if problem.weights is not None:
        weight = weight * problem.weights
    if problem.lopsided:
        weight = weight * sides(problem, miss)
    slopes = np.where(free[:, None, :], slopes, 0.0)
    gram = np.swapaxes(slopes, 1, 2) @ (weight[:, :, None] * slopes)
    diagonal = np.einsum("bii->bi", gram)
    typical = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    root = np.sqrt(typical)
    correlation = gram / root[:, :, None] / root[:, None, :]
    identity = np.eye(gram.shape[1])
    ridge = np.where(free, 1e-9, 1.0)[:, :, None] * identity
    inverse = solved(correlation + ridge, np.broadcast_to(identity, gram.shape))
    return inverse / root[:, :, None] / root[:, None, :]


def _bfgs_update(inverse, change, turn):
    product_ = np.einsum("bi,bi->b", change, turn)
    norm = np.linalg.norm(change, axis=1) * np.linalg.norm(turn, axis=1)
    good = product_ > 1e-10 * norm
    rho = np.where(good, 1 / np.where(good, product_, 1.0), 0.0)
    moved = np.einsum("bij,bj->bi", inverse, turn)
    spread = np.einsum("bi,bi->b", turn, moved)
    outer = np.einsum("bi,bj->bij", change, moved)
    both = np.einsum("bi,bj->bij", change, change)
    updated = inverse - rho[:, None, None] * (outer + np.swapaxes(outer, 1, 2))
    updated = updated + ((1 + rho * spread) * rho)[:, None, None] * both
    return np.where(good[:, None, None], updated, inverse)
