"""BFGS from many points at once, inside bounds, in numpy.

It minimises objective / delta, so that stopping rules see numbers of order one: SciPy's rule is
absolute below one and stops a Huber(1e-3) sum far from its optimum.
"""

from dataclasses import replace

import numpy as np

from fitting.objective import Problem, jacobian, objective_and_gradient, residuals, smoothing


def minimise(problem: Problem, start: np.ndarray, free=None, iterations: int = 200, tolerance=1e-9):
    """BFGS from many points at once, inside the bounds.

    Args:
      problem: target and weights (rows,) shared by all starts, or (batch, rows).
      start: (batch, parameters) search coordinates.
      free: bool (parameters,) or (batch, parameters), which coordinates move.
      iterations: at most this many steps per start.
      tolerance: stop a start when a step predicts less than this relative decrease.

    Returns:
      points (batch, parameters), scaled objectives (batch,), gradients (batch, parameters).
    """
    low, high = problem.bounds()
    free = problem.free if free is None else np.asarray(free)
    free = np.broadcast_to(free, start.shape)
    point = np.clip(start, low, high)
    value, gradient = objective_and_gradient(problem, point)
    inverse = np.zeros((len(point), point.shape[1], point.shape[1]))
    alive = np.isfinite(value)
    quiet = np.zeros(len(point), int)
    fresh = np.zeros(len(point), bool)
    for step in range(iterations):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        part = _rows(problem, rows)
        here, slope = point[rows], gradient[rows]
        blocked = (here <= low) & (slope > 0) | (here >= high) & (slope < 0) | ~free[rows]
        if step % 40 == 0:
            fresh[rows] = True
            inverse[rows] = curvature_inverse(part, here, free[rows])
        masked = np.where(blocked, 0.0, slope)
        direction = -np.where(blocked, 0.0, np.einsum("bij,bj->bi", inverse[rows], masked))
        descent = np.einsum("bi,bi->b", direction, masked)
        wrong = descent >= 0
        if wrong.any():
            scale = 1 / np.maximum(1.0, np.abs(masked).max(axis=1, keepdims=True))
            direction = np.where(wrong[:, None], -masked * scale, direction)
            descent = np.where(wrong, np.einsum("bi,bi->b", direction, masked), descent)
        reach = np.abs(direction).max(axis=1)
        direction *= np.minimum(1.0, 3.0 / np.maximum(reach, 1e-300))[:, None]
        trial, trial_value, trial_slope, moved = _line_search(
            part, here, value[rows], direction, descent, low, high
        )
        change = trial - here
        turn = np.where(free[rows], trial_slope - slope, 0.0)
        inverse[rows] = _bfgs_update(inverse[rows], change, turn)
        gain = value[rows] - trial_value
        small = gain <= tolerance * np.maximum(np.abs(trial_value), 1e-300)
        quiet[rows] = np.where(small, quiet[rows] + 1, 0)
        stuck = rows[~moved]
        inverse[stuck] = curvature_inverse(_rows(problem, stuck), point[stuck], free[stuck])
        # Stuck with fresh curvature: at the rounding of the objective, nothing more to gain.
        quiet[stuck] += np.where(fresh[stuck], 3, 0)
        fresh[rows] = ~moved
        point[rows], value[rows], gradient[rows] = trial, trial_value, trial_slope
        alive[rows] = quiet[rows] < 3
    return point, value, np.where(free, gradient, 0.0)


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
    slopes = jacobian(problem, point)
    delta = smoothing(problem)
    weight = np.ones(slopes.shape[:2])
    if not np.isinf(delta):
        miss = np.abs(np.nan_to_num(residuals(problem, point), nan=1e3, posinf=1e3, neginf=-1e3))
        # The true curvature of an absolute value is spread over the typical miss.
        weight = 1 / np.maximum(miss, max(delta, 1e-12) + 0.2 * np.median(miss, 1)[:, None])
    if problem.weights is not None:
        weight = weight * problem.weights
    slopes = np.where(free[:, None, :], slopes, 0.0)
    gram = np.swapaxes(slopes, 1, 2) @ (weight[:, :, None] * slopes)
    diagonal = np.einsum("bii->bi", gram)
    typical = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    root = np.sqrt(typical)
    correlation = gram / root[:, :, None] / root[:, None, :]
    identity = np.eye(gram.shape[1])
    inverse = np.linalg.inv(correlation + np.where(free, 1e-9, 1.0)[:, :, None] * identity)
    return inverse / root[:, :, None] / root[:, None, :]


def _line_search(problem, here, value, direction, descent, low, high):
    length = np.ones(len(here))
    best, best_value = here.copy(), value.copy()
    best_slope = np.zeros_like(here)
    pending = np.ones(len(here), bool)
    moved = np.zeros(len(here), bool)
    for _ in range(18):
        rows = np.flatnonzero(pending)
        if not len(rows):
            break
        trial = np.clip(here[rows] + length[rows, None] * direction[rows], low, high)
        trial_value, trial_slope = objective_and_gradient(_rows(problem, rows), trial)
        enough = trial_value <= value[rows] + 1e-4 * length[rows] * descent[rows]
        accepted = rows[enough]
        best[accepted], best_value[accepted] = trial[enough], trial_value[enough]
        best_slope[accepted] = trial_slope[enough]
        moved[accepted] = True
        pending[accepted] = False
        length[pending] *= 0.3
    still = np.flatnonzero(~moved)
    if len(still):
        _, best_slope[still] = objective_and_gradient(_rows(problem, still), here[still])
    return best, best_value, best_slope, moved


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
