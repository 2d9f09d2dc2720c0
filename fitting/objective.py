"""What a fit minimises: residuals of a law, their objective, and exact gradients, in batches."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fitting.law import Law, combine, shape_derivatives
from refused import Refused

OBJECTIVES = {
    "huber": "Huber loss of log residuals, quadratic below delta (Hoffmann et al. 2022: 1e-3)",
    "lad": "absolute log residuals",
    "least_squares_log": "half squared log residuals",
    "quantile": "absolute log residuals so weighted that a share `quantile` of the runs lies below",
    "least_squares": "half squared residuals in the target's unit",
}

# Relative residual below which a law meets a run to rounding: double precision leaves about 1e-15.
ZERO = 1e-12


@dataclass(frozen=True)
class Problem:
    """A law, its predictors, the target, and how misses are counted.

    columns: {predictor: (rows,)}; target: (rows,) or (batch, rows); weights: the same or None;
    fixed: {parameter: value} held constant; quantile: of the objective "quantile"; over: how much
    more a prediction above its run costs than one below.
    """

    law: Law
    columns: Mapping[str, np.ndarray]
    target: np.ndarray
    objective: str = "huber"
    delta: float = 1e-3
    weights: np.ndarray | None = None
    fixed: Mapping[str, float] = None
    quantile: float = 0.5
    over: float = 1.0

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise Refused("objective", self.objective, ", ".join(OBJECTIVES))
        if not 0 < self.delta < np.inf:
            raise Refused("delta", self.delta, "a positive number")
        if not 0 < self.quantile < 1:
            raise Refused("quantile", self.quantile, "a share between 0 and 1")
        if not 0 < self.over < np.inf:
            raise Refused("overestimate_penalty", self.over, "a positive number")
        for name in self.fixed or {}:
            if name not in self.law.names:
                raise Refused("fixed", name, f"parameters of the law: {', '.join(self.law.names)}")

    @property
    def absolute(self) -> bool:
        """Whether misses count by their size, so that the optimum is a corner."""
        return self.objective in ("lad", "quantile")

    @property
    def lopsided(self) -> bool:
        """Whether a miss counts by its sign."""
        return self.objective == "quantile" or self.over != 1

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
                low.append(parameter.low if parameter.low < 0 else -parameter.high)
                high.append(parameter.high)
        return np.array(low), np.array(high)

    def scale(self) -> float:
        """Factor between the minimised and the reported objective."""
        return self.delta if self.objective == "huber" else 1.0


def smoothing(problem: Problem) -> float:
    """Residual below which the minimised objective is quadratic; inf if it is everywhere."""
    return problem.delta if problem.objective == "huber" or problem.absolute else np.inf


def sides(problem: Problem, miss) -> np.ndarray | float:
    """What a residual counts by its sign, of its shape; 1 where both sides count alike."""
    if not problem.lopsided:
        return 1.0
    share = problem.quantile if problem.objective == "quantile" else 0.5
    # Of the pinball loss, twice: a prediction below its run costs the quantile.
    return np.where(miss > 0, 2 * (1 - share) * problem.over, 2 * share)


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


def objective(problem: Problem, point: np.ndarray) -> np.ndarray:
    """Scaled objective (batch,), inf where the law gives no number."""
    miss = residuals(problem, point)
    with np.errstate(over="ignore"):
        return _total(problem, _cost(problem, miss)[0])[0]


def objective_and_gradient(problem: Problem, point: np.ndarray):
    """Scaled objective (batch,) and its exact gradient (batch, parameters)."""
    miss, factor, theta, terms = residuals(problem, point, gradient=True)
    with np.errstate(all="ignore"):  # Where the total is infinite, the gradient is put to zero.
        cost, slope = _cost(problem, miss)
        total, weights = _total(problem, cost)
        pull = weights * slope * factor

    def gather(derivative):
        if np.shape(derivative) != pull.shape:
            derivative = np.broadcast_to(derivative, pull.shape)
        return np.einsum("br,br->b", pull, derivative)[:, None]

    with np.errstate(all="ignore"):
        gradient = _chain(problem, theta, terms, gather)[:, :, 0]
    gradient[np.isinf(total)] = 0.0
    return total, np.where(np.isfinite(gradient), gradient, 0.0)


def exact(problem: Problem, point: np.ndarray) -> bool:
    """Whether the law at a point meets every run to rounding, so that no noise is left to see."""
    return bool(np.all(np.abs(residuals(problem, point[None])[0]) <= _rounding(problem)))


def negligible(problem: Problem) -> float:
    """The scaled objective of residuals at rounding: differences below it say nothing."""
    return float(np.sum(_cost(problem, _rounding(problem))[0]))


def _rounding(problem):
    """Residual of every run that is rounding, (rows,), in the unit of the residuals."""
    target = problem.target
    return np.full_like(target, ZERO) if _in_log(problem) else ZERO * np.abs(target)


def _cost(problem, miss):
    """Cost of every residual and its derivative."""
    delta = smoothing(problem)
    if np.isinf(delta):
        cost, slope = 0.5 * miss**2, miss
    else:
        slope = np.clip(miss, -delta, delta) / delta
        cost = slope * (miss - 0.5 * delta * slope)
    if not problem.lopsided:
        return cost, slope
    side = sides(problem, miss)
    return side * cost, side * slope


def _total(problem, cost):
    weights = 1.0 if problem.weights is None else problem.weights
    known = np.isfinite(cost)
    if known.all():
        total = np.sum(weights * cost, axis=1)
        return np.where(np.isfinite(total), total, np.inf), weights
    # A law has to give a number for every run, also for those that a draw leaves out.
    total = np.sum(weights * np.where(known, cost, 0.0), axis=1)
    return np.where(known.all(axis=1) & np.isfinite(total), total, np.inf), weights


def jacobian(problem: Problem, point: np.ndarray) -> np.ndarray:
    """Derivatives of the residuals in search coordinates, (batch, rows, parameters)."""
    return residuals_and_jacobian(problem, point)[1]


def residuals_and_jacobian(problem: Problem, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (batch, rows) and what `jacobian` gives."""
    miss, factor, theta, terms = residuals(problem, point, gradient=True)
    with np.errstate(all="ignore"):
        out = _chain(problem, theta, terms, lambda d: np.broadcast_to(factor * d, miss.shape))
    out[~np.isfinite(out)] = 0.0
    return miss, np.swapaxes(out, 1, 2)


def _chain(problem, theta, terms, gather) -> np.ndarray:
    """What `gather` makes of every parameter's derivative, (batch, parameters, ...).

    `gather` is linear and keeps two axes, so that factors of one number a point come after it.
    """
    law, columns = problem.law, []
    for parameter, value, term in zip(law.parameters, theta, terms, strict=False):
        if parameter.linear:
            columns.append(gather(term) * (value if parameter.positive else np.ones_like(value)))
    shape = theta[law.linear_count :]
    derivatives = shape_derivatives(law, problem.columns, terms, shape)
    coefficients = [*theta[: law.linear_count], 1.0]
    for parameter, value, by_term in zip(
        law.parameters[law.linear_count :], shape, derivatives, strict=True
    ):
        parts = zip(coefficients, by_term, strict=False)
        moved = sum(c * gather(d) for c, d in parts if d is not None)
        columns.append((moved + np.zeros_like(value)) * (value if parameter.positive else 1.0))
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def objective_value(problem: Problem, point: np.ndarray) -> float:
    """The unscaled objective at one point, the number that papers print."""
    miss = residuals(problem, point[None])[0]
    weights = 1.0 if problem.weights is None else problem.weights
    if problem.absolute:
        return float(np.sum(weights * sides(problem, miss) * np.abs(miss)))
    scaled, _ = objective_and_gradient(problem, point[None])
    return float(scaled[0] * problem.scale())


def condition(problem: Problem, point: np.ndarray) -> float:
    """Condition number of the Gauss-Newton Hessian in search coordinates, free parameters only."""
    slopes = jacobian(problem, point[None])[0][:, problem.free]
    singular = np.linalg.svd(slopes, compute_uv=False) if slopes.size else np.ones(1)
    with np.errstate(over="ignore"):
        return float((singular[0] / max(singular[-1], 1e-300)) ** 2)
