"""Laws of the learning-rate schedule: the whole loss curve from the rates of every step.

Both laws are built for given curves: a row of theirs is one step of one curve, and its predictor
`curve_row` is the row's number among all of them.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np

from fitting.bfgs import minimise
from fitting.law import Law, Parameter, exponent
from fitting.objective import Problem
from fitting.schedules import Curve, Schedule
from fitting.solver import solve
from refused import Refused, listed

# Starts of the search, around the published fits: alpha, and what follows it.
_MPL_STARTS = ([0.3, 0.5, 0.3, 0.3], [0.7, 5.0, 0.9, 0.9])
_MOMENTUM_STARTS = ([0.3, 50.0], [0.7, 5000.0])
# Thu-Yao MultiPowerLaw, the parameters that its authors publish (arXiv:2503.12811).
_PUBLISHED = {
    "25M": (3.0405, 0.5247, 0.5079, 363.79, 2.0656, 0.5828, 0.6414),
    "100M": (2.6514, 0.6012, 0.4530, 437.95, 2.1325, 0.5979, 0.6552),
    "400M": (2.3747, 0.6542, 0.4288, 523.42, 2.0246, 0.5935, 0.6347),
}
_MPL_NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")


def multi_power_drops(
    part: SimpleNamespace, c: np.ndarray, beta: np.ndarray, gamma: np.ndarray
) -> np.ndarray:
    """Minus what the changes of the rate have taken off the loss, over B, (batch, rows).

    Args:
      part: arrays drop, to (changes,) and since (rows, changes), or with a batch before them.
      c: (batch, 1).
      beta: (batch, 1).
      gamma: (batch, 1).
    """
    # x = C S_k lr_k^-gamma; before its change S_k is 0 and so is what it adds.
    grown = 1 + c[..., None] * np.exp(-gamma[..., None] * np.log(part.to)) * part.since
    return -np.sum(part.drop * (1 - np.exp(-beta[..., None] * np.log(grown))), axis=-1)


def momentum_drops(part, memory):
    """Minus S2, (batch, rows); `part` holds drop (changes,) and steps_since (rows, changes)."""
    # m_i = lambda m_(i-1) + lr_(i-1) - lr_i, summed: a drop adds (1 - lambda^n) / (1 - lambda).
    kept = np.exp(part.steps_since * np.log1p(-1 / memory[..., None]))
    return -np.sum(part.drop * memory[..., None] * (1 - kept), axis=-1)


def multi_power_law(curves: Sequence[Curve | tuple[Schedule, np.ndarray]]) -> Law:
    """The multi-power law of some curves (Luo et al. 2025, arXiv:2503.12811, eq. 3).

    Args:
      curves: curves, or pairs of a schedule and the steps (rows,) that are predicted.
    """
    parts = [_Rows(*_pair(curve)) for curve in curves]
    return _law(
        parts,
        multi_power_drops,
        name="multi_power",
        formula=(
            "L = L0 + A S^-alpha - B sum_k (lr_(k-1) - lr_k) (1 - (1 + C lr_k^-gamma S_k)^-beta); "
            "S is the sum of the rates, S_k that from step k on; the warm-up counts in both"
        ),
        coefficients=("L0", "A", "B"),
        shapes=(
            exponent("alpha", start=(0.2, 0.9)),
            Parameter("C", "1", 1e-4, 1e4, (0.5, 5.0)),
            exponent("beta", start=(0.2, 1.2)),
            exponent("gamma", start=(0.2, 1.2)),
        ),
        starts=_MPL_STARTS,
        source="Luo et al. 2025 (arXiv:2503.12811) eq. 3",
        published={k: dict(zip(_MPL_NAMES, v, strict=True)) for k, v in _PUBLISHED.items()},
    )


def momentum_law(curves: Sequence[Curve | tuple[Schedule, np.ndarray]]) -> Law:
    """The annealing law with momentum of some curves (Tissue et al. 2024, arXiv:2408.11029).

    Args:
      curves: curves, or pairs of a schedule and the steps (rows,) that are predicted.
    """
    parts = [_Rows(*_pair(curve), warmup=False) for curve in curves]
    return _law(
        parts,
        momentum_drops,
        name="momentum",
        formula=(
            "L = L0 + A S1^-alpha - C S2; S1 is the sum of the rates, S2 that of "
            "m_i = lambda m_(i-1) + lr_(i-1) - lr_i after the warm-up, lambda = 1 - 1 / memory"
        ),
        coefficients=("L0", "A", "C"),
        shapes=(
            exponent("alpha", start=(0.2, 0.9)),
            Parameter("memory", "steps", 2.0, 1e6, (30.0, 1e4)),
        ),
        starts=_MOMENTUM_STARTS,
        source="Tissue et al. 2024 (arXiv:2408.11029) eq. 1",
        derived=lambda values: {"lambda": 1 - 1 / values["memory"]},
    )


SCHEDULE_LAWS: dict[str, Callable[..., Law]] = {
    "multi_power": multi_power_law,
    "momentum": momentum_law,
}


def fit_curves(
    law: str, curves: Sequence[Curve], objective: str = "huber", seed: int = 0
) -> tuple[dict[str, float], float]:
    """Parameters of a schedule law from whole curves.

    Args:
      law: a key of `SCHEDULE_LAWS`.
      objective: as in `OBJECTIVES`, delta 1e-3 in log loss.

    Returns:
      ({parameter: value}, objective value), the point that searches from several starts agree on.
    """
    if law not in SCHEDULE_LAWS:
        raise Refused("law", law, listed(SCHEDULE_LAWS, law))
    built = SCHEDULE_LAWS[law](curves)
    target = np.concatenate([curve.loss for curve in curves])
    rows = {"curve_row": np.arange(len(target), dtype=float)}
    problem = Problem(built, rows, target, objective)
    found = solve(problem, audits=2, polishes=2, seed=seed)
    point, cost, _ = minimise(problem, found.point[None], iterations=400, tolerance=1e-12)
    pairs = zip(built.parameters, point[0], strict=True)
    values = {parameter.name: float(parameter.from_search(x)) for parameter, x in pairs}
    derived = built.derived(values) if built.derived else {}
    return values | derived, float(cost[0]) * problem.scale()


def curve_objective(law: str, curves: Sequence[Curve], parameters) -> float:
    """The Huber objective (delta 1e-3, log loss) of given parameters on curves."""
    built = SCHEDULE_LAWS[law](curves)
    target = np.concatenate([curve.loss for curve in curves])
    rows = {"curve_row": np.arange(len(target), dtype=float)}
    miss = np.abs(np.log(built.predict(rows, parameters) / target))
    return float(np.sum(np.where(miss < 1e-3, miss**2 / 2, 1e-3 * (miss - 5e-4))))


def predict_curve(law: str, parameters, schedule: Schedule, steps) -> np.ndarray:
    """Loss at steps (rows,) under a schedule, by a law's parameters; nats/token."""
    built = SCHEDULE_LAWS[law]([(schedule, np.asarray(steps, float))])
    return built.predict({"curve_row": np.arange(len(steps), dtype=float)}, parameters)


def explained(law: str, parameters, curves: Sequence[Curve]) -> dict[str, float]:
    """{curve: share of the variance of its loss that the law explains}, R squared."""
    out = {}
    for curve in curves:
        miss = predict_curve(law, parameters, curve.schedule, curve.steps) - curve.loss
        out[curve.name] = 1 - float(np.sum(miss**2) / np.sum((curve.loss - curve.loss.mean()) ** 2))
    return out


class _Rows:
    """What the laws read of one curve: arrays (rows,), (changes,) and (rows, changes)."""

    def __init__(self, schedule: Schedule, steps, warmup: bool = True):
        changes = schedule.changes()
        kept = np.ones(len(changes.drop), bool) if warmup else changes.drop > 0
        self.drop, self.to = changes.drop[kept], changes.to[kept]
        places = changes.step[kept]
        self.area = schedule.area(steps)
        self.since = np.maximum(self.area[:, None] - schedule.area(places)[None], 0.0)
        self.steps_since = np.maximum(np.asarray(steps)[:, None] - places[None], 0.0)


def _pair(curve) -> tuple[Schedule, np.ndarray]:
    return (curve.schedule, curve.steps) if isinstance(curve, Curve) else curve


def _law(parts, drops, *, coefficients, shapes, starts, **rest) -> Law:
    area = np.concatenate([part.area for part in parts])

    def terms(columns, alpha, *shape):
        rows = np.asarray(columns["curve_row"]).astype(int)
        # One curve at a time: (batch, rows, changes) of all at once does not fit a cache.
        column = [np.atleast_1d(value) for value in shape]
        fallen = np.concatenate([drops(part, *column) for part in parts], axis=-1)
        return 1.0, np.exp(-alpha * np.log(area[rows])), fallen[..., rows]

    def begin(columns, target, count, rng):
        low, high = map(np.log, starts)
        return np.exp(rng.uniform(low, high, (count, len(low))))

    units = {"L0": "nats/token", "A": "nats/token x rate^alpha"}
    return Law(
        predictors=("curve_row",),
        parameters=(
            *(Parameter(name, units.get(name, "nats/token per rate")) for name in coefficients),
            *shapes,
        ),
        terms=terms,
        starts=begin,
        identified_by="whole curves under schedules that differ in where and how far they fall",
        **rest,
    )
