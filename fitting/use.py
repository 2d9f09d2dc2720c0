"""What a fit is for: allocation, the inverse, and the effective speed-up of a variant."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fitting.chinchilla import allocation
from fitting.fit import Fit
from fitting.intervals import quantiles, widen
from fitting.moe import at_experts
from refused import Refused

_DECADES = (0.0, 45.0)  # search range of the inverse, log10 of a count or of FLOP


def as_chinchilla(law_name: str, parameters: Mapping, experts=None) -> dict:
    """A law in params and tokens as E, A, B, alpha, beta; arrays of draws stay arrays.

    Over-training in C = 6 N D and M = D / N is Chinchilla with both exponents equal to 2 eta.

    Raises:
      Refused: for a law that is not of this form.
    """
    if law_name == "chinchilla":
        return {name: parameters[name] for name in ("E", "A", "B", "alpha", "beta")}
    if law_name == "over_training":
        eta = np.asarray(parameters["eta"])
        scaled = {"A": parameters["a"] * 6.0**-eta, "B": parameters["b"] * 6.0**-eta}
        return {"E": parameters["E"], **scaled, "alpha": 2 * eta, "beta": 2 * eta}
    if law_name == "joint_moe":
        if experts is None:
            raise Refused("experts", "None", "a number of experts")
        return at_experts(parameters, experts)
    raise Refused("law", law_name, "chinchilla, over_training, joint_moe")


def budgets(flops) -> np.ndarray:
    """One or several compute budgets as an array, FLOP; Refused unless all are positive."""
    flops = np.atleast_1d(np.asarray(flops, float))
    if not np.all((flops > 0) & np.isfinite(flops)):
        raise Refused("flops", ", ".join(f"{value:g}" for value in flops), "positive FLOP")
    return flops


def allocate(result: Fit, flops, experts=None) -> pd.DataFrame:
    """Compute-optimal parameters and tokens, with intervals.

    Args:
      result: fit of the chinchilla, over_training or joint_moe law; flops: FLOP, one or several,
        counted as 6 x params x tokens.

    Returns:
      one row per budget: flops, then params, tokens, tokens_per_param, loss, each followed by
      <name>_low and <name>_high (NaN without draws).
    """
    flops = budgets(flops)
    best = _with_ratio(
        allocation(as_chinchilla(result.law.name, result.parameters, experts), flops)
    )
    out = {"flops": flops}
    clouds = {}
    if result.draws is not None:
        drawn = as_chinchilla(result.law.name, result.parameter_draws(), experts)
        column = {name: np.reshape(values, (-1, 1)) for name, values in drawn.items()}
        with np.errstate(all="ignore"):
            clouds = _with_ratio(allocation(column, flops))
    for name, value in best.items():
        low = high = np.full(len(flops), np.nan)
        if clouds:
            cloud = widen(clouds[name], value, result.draws.factor)
            low, high = quantiles(cloud, result.level)
        out |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(out)


def _with_ratio(best: dict) -> dict:
    ratio = best["tokens"] / best["params"]
    counts = {name: best[name] for name in ("params", "tokens")}
    return counts | {"tokens_per_param": ratio, "loss": best["loss"]}


def solve_for(result: Fit, column: str, value: float, at: Mapping[str, float]) -> dict:
    """The count of one predictor at which the law reaches a target value.

    Args:
      result: a fit whose law falls in `column`; column: as in the table, for instance "tokens";
      value: the loss to reach; at: the other predictors.

    Returns:
      {"value", "low", "high", "reachable": share of draws that get there}; inf where the law
      never does.
    """
    name = "params" if column == result.params else column
    if name not in result.law.predictors:
        raise Refused("column", column, ", ".join(result.law.predictors))

    def reach(parameters, batch):
        others = [key for key in result.law.predictors if key != name]
        fixed = {key: at[result.params if key == "params" else key] for key in others}

        def loss(decades):
            columns = {key: np.full(1, float(other)) for key, other in fixed.items()}
            if batch:
                columns = {key: np.tile(c, (len(decades), 1)) for key, c in columns.items()}
                columns[name] = 10.0 ** decades[:, None]
                return result.law.predict(columns, parameters)[:, 0]
            return result.law.predict(columns | {name: 10.0**decades}, parameters)

        return 10.0 ** _first_below(loss, value, batch or 1)

    one = float(reach(result.parameters, 0)[0])
    cloud = None
    if result.draws is not None:
        cloud = reach(result.parameter_draws(), len(result.draws.points))
    return summary(one, cloud, result.level, widening(result))


def compute_for_loss(result: Fit, value: float, tokens_per_param=None, experts=None) -> dict:
    """Training FLOP at which a law reaches a loss, at the optimal or a fixed token multiplier.

    Returns:
      {"value", "low", "high", "reachable"}, as `solve_for`.
    """
    point = as_chinchilla(result.law.name, result.parameters, experts)
    one = _compute_for(point, value, tokens_per_param, 1)
    cloud = None
    if result.draws is not None:
        drawn = as_chinchilla(result.law.name, result.parameter_draws(), experts)
        cloud = _compute_for(drawn, value, tokens_per_param, len(result.draws.points))
    return summary(float(one[0]), cloud, result.level, widening(result))


def speed_up(baseline: Fit, variant: Fit, flops: float, tokens_per_param=None) -> dict:
    """Baseline compute that reaches the variant's loss, divided by the variant's compute.

    Args:
      baseline, variant: fits of laws that `as_chinchilla` knows; flops: of the variant.
      tokens_per_param: fixed multiplier for both; None allocates each optimally.

    Returns:
      {"value", "low", "high", "reachable"}; the draws of the two fits are paired as independent.
    """

    def once(first, second, count):
        goal = _loss_at(second, flops, tokens_per_param)
        return _compute_for(first, goal, tokens_per_param, count) / flops

    first = as_chinchilla(baseline.law.name, baseline.parameters)
    one = once(first, as_chinchilla(variant.law.name, variant.parameters), 1)
    cloud = None
    if baseline.draws is not None and variant.draws is not None:
        count = min(len(baseline.draws.points), len(variant.draws.points))
        order = np.random.default_rng(0).permutation(len(variant.draws.points))[:count]
        first = {k: v[:count] for k, v in _drawn(baseline).items()}
        cloud = once(first, {k: v[order] for k, v in _drawn(variant).items()}, count)
    factor = max(widening(baseline), widening(variant))
    return summary(float(one[0]), cloud, min(baseline.level, variant.level), factor)


def _drawn(result: Fit) -> dict:
    return as_chinchilla(result.law.name, result.parameter_draws())


def _loss_at(parameters, flops, multiplier):
    if multiplier is None:
        return allocation(parameters, flops)["loss"]
    params, tokens = np.sqrt(flops / 6 / multiplier), np.sqrt(flops * multiplier / 6)
    return (
        parameters["E"]
        + parameters["A"] * params ** -np.asarray(parameters["alpha"])
        + parameters["B"] * tokens ** -np.asarray(parameters["beta"])
    )


def _compute_for(parameters, value, multiplier, count):
    def loss(decades):
        return np.asarray(_loss_at(parameters, 10.0**decades, multiplier))

    return 10.0 ** _first_below(loss, value, count)


def _first_below(loss, value, count: int) -> np.ndarray:
    """Bisection in log10 on a falling curve, (count,); inf where it stays above."""
    low, high = np.full(count, _DECADES[0]), np.full(count, _DECADES[1])
    with np.errstate(all="ignore"):
        never = ~(loss(high) <= value)
        for _ in range(60):
            middle = (low + high) / 2
            above = loss(middle) > value
            low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(never, np.inf, high)


def widening(result: Fit) -> float:
    """How much wider than the bootstrap draws the fit's intervals are; 1 without draws."""
    return 1.0 if result.draws is None else result.draws.factor


def summary(value: float, cloud, level: float, factor: float) -> dict:
    """Value and interval of draws (draws,), widened by `factor`; inf is "never reached".

    Returns:
      {"value", "low", "high", "reachable": share of finite draws}; NaN where `cloud` is None.
    """
    out = {"value": value, "low": float("nan"), "high": float("nan"), "reachable": float("nan")}
    if cloud is None:
        return out
    reached = np.isfinite(cloud)
    ordered = np.sort(widen(cloud, value, factor) if np.isfinite(value) else cloud)
    # Draws that never reach it count as infinite: they push the upper end, they are not dropped.
    tail = (1 - level) / 2
    last = len(ordered) - 1
    out["low"], out["high"] = (float(ordered[int(q * last)]) for q in (tail, 1 - tail))
    return out | {"reachable": float(np.mean(reached))}
