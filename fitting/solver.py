"""Minimise an objective over a law's parameters, batched over starts and bootstrap draws.

Linear parameters come from a linear solve on a grid of shape parameters; the best grid points are
polished by BFGS on exact gradients of objective / delta, so that stopping rules see numbers of
order one (SciPy's own rule is absolute below one and stops a Huber(1e-3) sum far from its optimum).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from fitting.law import Law, combine, shape_derivatives
from fitting.observations import Refused

OBJECTIVES = {
    "huber": "Huber loss of log residuals, quadratic below delta (Hoffmann et al. 2022: 1e-3)",
    "lad": "absolute log residuals",
    "least_squares_log": "half squared log residuals",
    "least_squares": "half squared residuals in the target's unit",
}
_LAD_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Problem:
    """A law, its predictors, the target, and how misses are counted.

    columns: {predictor: (rows,)}; target: (rows,) or (batch, rows); weights: the same or None;
    fixed: {parameter: value} held constant.
    """

    law: Law
    columns: Mapping[str, np.ndarray]
    target: np.ndarray
    objective: str = "huber"
    delta: float = 1e-3
    weights: np.ndarray | None = None
    fixed: Mapping[str, float] = None

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise Refused("objective", self.objective, ", ".join(OBJECTIVES))
        if not self.delta > 0:
            raise Refused("delta", self.delta, "a positive number")
        for name in self.fixed or {}:
            if name not in self.law.names:
                raise Refused("fixed", name, f"parameters of the law: {', '.join(self.law.names)}")

    @property
    def free(self) -> np.ndarray:
        """Bool (parameters,): which are fitted."""
        return np.array([name not in (self.fixed or {}) for name in self.law.names])

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds as search coordinates, each (parameters,)."""
        low, high = [], []
        for parameter in self.law.parameters:
            if parameter.positive:
                low.append(np.log(parameter.low))
                high.append(np.log(parameter.high))
            else:
                low.append(-parameter.high)
                high.append(parameter.high)
        return np.array(low), np.array(high)

    def scale(self) -> float:
        """Factor between the minimised and the reported objective."""
        return self.delta if self.objective == "huber" else 1.0


def _smoothing(problem: Problem) -> float:
    return problem.delta if problem.objective in ("huber", "lad") else np.inf


def _in_log(problem: Problem) -> bool:
    return problem.objective != "least_squares"


def values(law: Law, point: np.ndarray) -> list[np.ndarray]:
    """Search coordinates (batch, parameters) -> parameter values, each (batch, 1)."""
    return [p.from_search(point[:, i : i + 1]) for i, p in enumerate(law.parameters)]


def residuals(problem: Problem, point: np.ndarray, gradient: bool = False):
    """Residuals (batch, rows), and the factor that turns d(sum) into d(residual) if asked.

    Log residuals are log predicted - log observed; others are predicted - observed.
    """
    law = problem.law
    theta = values(law, point)
    with np.errstate(all="ignore"):
        terms = law.terms(problem.columns, *theta[law.linear_count :])
        total = combine(law, terms, theta)
        if law.link == "log10":
            predicted = total * np.log(10)
            factor = np.log(10)
            if not _in_log(problem):
                predicted = np.exp(predicted)
                factor = predicted * np.log(10)
                miss = predicted - problem.target
            else:
                miss = predicted - np.log(problem.target)
        elif _in_log(problem):
            miss = np.log(total) - np.log(problem.target)
            factor = 1 / total
        else:
            miss, factor = total - problem.target, 1.0
    return (miss, factor, theta, terms) if gradient else miss


def objective_and_gradient(problem: Problem, point: np.ndarray):
    """Scaled objective (batch,) and its exact gradient (batch, parameters)."""
    law, delta = problem.law, _smoothing(problem)
    miss, factor, theta, terms = residuals(problem, point, gradient=True)
    weights = 1.0 if problem.weights is None else problem.weights
    if np.isinf(delta):
        cost, slope = 0.5 * miss**2, miss
    else:
        slope = np.clip(miss, -delta, delta) / delta
        cost = slope * (miss - 0.5 * delta * slope)
    total = np.sum(weights * cost, axis=1)
    bad = ~np.isfinite(total)
    total = np.where(bad, np.inf, total)
    pull = weights * slope * factor
    with np.errstate(all="ignore"):
        gradient = _chain(law, problem, theta, terms, lambda d: np.sum(pull * d, axis=1))
    gradient[bad] = 0.0
    return total, np.where(np.isfinite(gradient), gradient, 0.0)


def jacobian(problem: Problem, point: np.ndarray) -> np.ndarray:
    """Derivatives of the residuals in search coordinates, (batch, rows, parameters)."""
    miss, factor, theta, terms = residuals(problem, point, gradient=True)
    with np.errstate(all="ignore"):
        out = _chain(
            problem.law, problem, theta, terms, lambda d: np.broadcast_to(factor * d, miss.shape)
        )
    return np.nan_to_num(out, nan=0.0, posinf=0.0, neginf=0.0)


def _chain(law, problem, theta, terms, gather) -> np.ndarray:
    columns = []
    for parameter, value, term in zip(law.parameters, theta, terms, strict=False):
        if parameter.linear:
            columns.append(gather(term * (value if parameter.positive else np.ones_like(value))))
    shape = theta[law.linear_count :]
    derivatives = shape_derivatives(law, problem.columns, terms, shape)
    coefficients = [*theta[: law.linear_count], 1.0]
    for parameter, value, by_term in zip(
        law.parameters[law.linear_count :], shape, derivatives, strict=True
    ):
        parts = [c * d for c, d in zip(coefficients, by_term, strict=False) if d is not None]
        moved = sum(parts) if parts else np.zeros_like(value)
        columns.append(gather(moved * (value if parameter.positive else 1.0)))
    return np.stack(columns, axis=-1)


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
    rows = problem.target.shape[-1]
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
        solved = _bounded_least_squares(
            np.stack(basis, -1),
            goal * weight,
            np.array([law.parameters[index].positive for index in which]),
        )
        for column, index in enumerate(which):
            parameter = law.parameters[index]
            floor = 1e-6 * np.min(problem.target) if parameter.positive else None
            value = solved[:, column]
            if parameter.positive:
                value = np.where(value > 0, value, max(floor, parameter.low))
            out[:, index] = parameter.to_search(value)
    for index, name in enumerate(law.names):
        if name in fixed:
            out[:, index] = law.parameters[index].to_search(fixed[name])
    return np.clip(out, low, high)


def _bounded_least_squares(basis, goal, positive):
    size = np.sqrt(np.sum(basis**2, axis=1, keepdims=True)) + 1e-300
    scaled = basis / size
    count = basis.shape[-1]
    best = np.zeros((len(basis), count))
    best_cost = np.full(len(basis), np.inf)
    for used in product((True, False), repeat=count):
        used = np.array(used)
        if not np.all(used | positive) or not used.any():
            continue
        part = scaled[:, :, used]
        gram = np.swapaxes(part, 1, 2) @ part + 1e-14 * np.eye(used.sum())
        solved = np.linalg.solve(gram, np.swapaxes(part, 1, 2) @ goal[:, :, None])[..., 0]
        feasible = np.all((solved > 0) | ~positive[used], axis=1)
        cost = np.sum((goal - np.sum(part * solved[:, None, :], axis=2)) ** 2, axis=1)
        better = feasible & (cost < best_cost * (1 - 1e-12))
        best_cost = np.where(better, cost, best_cost)
        candidate = np.zeros_like(best)
        candidate[:, used] = solved
        best = np.where(better[:, None], candidate, best)
    return best / size[:, 0, :]


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


def curvature_inverse(problem, point, free):
    if not len(point):
        return np.zeros((0, point.shape[1], point.shape[1]))
    slopes = jacobian(problem, point)
    delta = _smoothing(problem)
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


@dataclass(frozen=True)
class Optimum:
    """The best point found and why it can be believed.

    point: (parameters,) search coordinates; objective: unscaled; share: of random starts that end
    within 1e-6 of the objective; next_basin: relative objective of the best other basin, None if
    there is none; gradient_norm: of the scaled objective; condition: of the Gauss-Newton Hessian.
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
    grid = linear_start(problem, _fix_shapes(problem, shape_grid(law, seed=seed)))
    cost, _ = objective_and_gradient(first, grid)
    best = grid[np.argsort(cost, kind="stable")[:polishes]]
    random = linear_start(problem, _fix_shapes(problem, random_shapes(law, audits, rng)))
    noise = rng.normal(size=(audits, law.linear_count))
    for index in range(law.linear_count):
        if problem.free[index]:
            positive = law.parameters[index].positive
            random[:, index] += noise[:, index] * (1.0 if positive else np.abs(random[:, index]))
    points, costs, gradients = minimise(first, np.concatenate([best, random]))
    if problem.objective == "lad":
        points, costs, gradients = _sharpen(problem, points)
    # A second pass restarts the curvature of the best and of starts that had stopped early.
    last = replace(problem, delta=_LAD_DELTAS[-1]) if problem.objective == "lad" else problem
    again = costs > np.min(costs) * (1 + 1e-6)
    again[np.argmin(costs)] = True
    points[again], costs[again], gradients[again] = minimise(last, points[again])
    order = np.argsort(costs, kind="stable")
    winner = order[0]
    point = points[winner]
    if problem.objective == "lad":
        point = _vertex(problem, point)
    tail = costs[len(best) :]
    share = float(np.mean(tail <= costs[winner] * (1 + 1e-6) + 1e-300)) if audits else float("nan")
    others = [i for i in order if np.max(np.abs(points[i] - point)) > 0.05 and costs[i] < np.inf]
    settled = [i for i in others if costs[i] > costs[winner] * (1 + 1e-6)]
    gap = float(costs[settled[0]] / costs[winner] - 1) if settled and costs[winner] > 0 else None
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


def objective_value(problem: Problem, point: np.ndarray) -> float:
    """The unscaled objective at one point, the number that papers print."""
    miss = residuals(problem, point[None])[0]
    weights = 1.0 if problem.weights is None else problem.weights
    if problem.objective == "lad":
        return float(np.sum(weights * np.abs(miss)))
    scaled, _ = objective_and_gradient(problem, point[None])
    return float(scaled[0] * problem.scale())


def condition(problem: Problem, point: np.ndarray) -> float:
    """Condition number of the Gauss-Newton Hessian in search coordinates, free parameters only."""
    slopes = jacobian(problem, point[None])[0][:, problem.free]
    singular = np.linalg.svd(slopes, compute_uv=False) if slopes.size else np.ones(1)
    return float((singular[0] / max(singular[-1], 1e-300)) ** 2)
