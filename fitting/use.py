"""What a fit is for: allocation, the inverse, what its law can tell, and a variant's speed-up."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fitting.dual import Dual, slope_of
from fitting.fitted import Fitted
from fitting.held_out import compute
from fitting.intervals import quantiles, widen
from fitting.law import Law, Use, combine
from refused import Refused

UNTESTED = 10.0  # times beyond the largest fitted run
_log = logging.getLogger("fitting")
# Targets, by how they begin, of which less is not better.
_NO_COST = ("accuracy", "learning_rate", "batch_tokens", "leverage", "optimal_fraction")
_DECADES = (0.0, 45.0)  # search range of counts and of FLOP, log10
# Sizes looked at along a budget; then parts of the step with the turn, and how often, to rounding.
_GRID, _PARTS, _ROUNDS = 121, 8, 15
_INSIDE = 1e-3  # decades from the ends of the search: nearer there is no best size


def questions(law: Law) -> dict[str, Use]:
    """All that can be asked of a law: its own uses, allocation, and the inverse of each predictor.

    Laws that predict from a parameter count and tokens have `allocation` and `compute`.
    """
    out = dict(law.uses)
    others = [name for name in law.predictors if name not in (law.size, "tokens", "flops")]
    extra = {name: "as in the table" for name in others}
    if allocates(law):
        counts = {"params": "count", "tokens": "count", "tokens_per_param": "1", law.target: ""}
        out["allocation"] = Use(
            about=f"params and tokens of the least {law.target} at 6 x params x tokens = flops",
            settings={"flops": "FLOP", **extra},
            outputs=counts,
            answer=lambda law, parameters, s: _allocation(law, parameters, s["flops"], s),
        )
        out["compute"] = Use(
            about=f"least compute with which a {law.target} is reached",
            settings={law.target: "as in the table", **extra},
            outputs={"flops": "FLOP"},
            answer=lambda law, parameters, s: {
                "flops": compute_for(law, parameters, s[law.target], s)
            },
        )
    for name in law.predictors:
        rest = {other: "as in the table" for other in law.predictors if other != name}
        if law.target not in rest and name not in out:
            out[name] = Use(
                about=f"{name} at which the {law.target} is reached, where it falls in {name}",
                settings={law.target: "as in the table", **rest},
                outputs={name: "as in the table"},
                answer=lambda law, parameters, s, name=name: {
                    name: _inverse(law, parameters, name, s)
                },
            )
    return out


def allocates(law: Law) -> bool:
    """Whether a law has a compute-optimal allocation: it predicts from a size and tokens what is
    the better the less there is of it.
    """
    if law.target.startswith(_NO_COST):
        return False
    return law.allocation is not None or (law.size is not None and "tokens" in law.predictors)


def ask(result: Fitted, name: str, **settings: Any) -> pd.DataFrame:
    """The answer of a fitted law to one of its `questions`, with intervals.

    Args:
      result: a fit.
      name: a key of `questions`.
      settings: as the question needs them, positive; the fitted parameter count and target go by
        their own names or by those of the law.

    Returns:
      DataFrame(output, unit, value, low, high, reachable: share of the draws with a finite answer);
      inf where it is never reached, NaN ends without draws.

    Raises:
      Refused: another question, a setting that is missing, unknown or not positive.
    """
    law = result.law
    use = question(law, name)
    renamed = {result.params: "params", result.target: law.target}
    given = {renamed.get(key, key): np.asarray(value, float) for key, value in settings.items()}
    _check_settings(name, use, given)
    if name == "allocation" and (told := beyond(result, float(given["flops"]))):
        _log.warning(told)
    return _answered(result, name, use, given)


def _answered(result: Fitted, name: str, use: Use, given: Mapping) -> pd.DataFrame:
    law = result.law
    one = use.answer(law, result.parameters, given)
    cloud = None if result.draws is None else use.answer(law, result.parameter_draws(), given)
    rows = []
    for output, unit in use.outputs.items():
        value = float(np.ravel(one[output])[0])
        drawn = None if cloud is None else cloud[output]
        if drawn is not None and name == "allocation" and output == law.target:
            drawn = drawn * np.exp(_misfit(result, float(given["flops"]), len(drawn)))
        count = None if cloud is None else len(result.draws.points)
        found = summary(value, drawn, result.level, widening(result), output in use.odds, count)
        shown = result.params if output == "params" and result.params else output
        rows.append({"output": shown, "unit": unit, **found})
    return pd.DataFrame(rows)


def beyond(result: Fitted, flops: float) -> str | None:
    """One line when a budget lies farther beyond the fitted runs than they can support, else None.

    The rolling fits say how far was tested; without them 10 times is taken as the limit.
    """
    try:
        largest = float(np.max(compute(result.observations, result.params or result.law.size)))
    except Refused:
        return None
    misfit = result.misfit
    tested = float(np.exp(misfit.tested)) if misfit is not None and misfit.cuts else UNTESTED
    if flops <= largest * max(tested, 1.0) * (1 + 1e-6):
        return None
    limit = (
        f"rolling fits were tested up to {tested:.3g} times"
        if misfit is not None
        else (f"nothing was tested beyond, and more than {UNTESTED:g} times is a guess")
    )
    return f"{flops:.3g} FLOP is {flops / largest:.3g} times the largest fitted run's; {limit}"


def _misfit(result: Fitted, flops: float, draws: int) -> np.ndarray:
    """Misfit of the loss at a budget in log, (draws,); zeros where none is known."""
    misfit = result.misfit
    if misfit is None or misfit.direction != "compute":
        return np.zeros(draws)
    distance = max(np.log(flops) - misfit.end, 0.0)
    return misfit.slope * distance * np.random.default_rng([0, 1]).normal(size=draws)


def question(law: Law, name: str) -> Use:
    """One of the law's `questions`; Refused with the list for another."""
    known = questions(law)
    if name not in known:
        told = (",".join([key, *use.settings]) for key, use in known.items())
        raise Refused("ask", name, f"of {law.name}: {'; '.join(told)}")
    return known[name]


def _check_settings(question: str, use: Use, given: Mapping):
    needed = ", ".join(f"{name} ({unit})" for name, unit in use.settings.items()) or "no settings"
    for name in use.settings:
        if name not in given:
            raise Refused(f"ask {question}", f"no {name}", needed)
    for name, value in given.items():
        if name not in use.settings:
            raise Refused(f"ask {question}", name, needed)
        if not np.all((value > 0) & np.isfinite(value)):
            raise Refused(name, value, "a positive number")


def read_question(text: str) -> tuple[str, dict]:
    """`QUESTION,NAME=VALUE,...` as its name and settings; several values are parted by /.

    Raises:
      Refused: a setting that is no number.
    """
    question, *items = text.split(",")
    settings = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            values = [float(part) for part in value.split("/")]
        except ValueError:
            accepted = "QUESTION,NAME=VALUE,..., as in compute,loss=2.5"
            raise Refused("ask", item, accepted) from None
        settings[name.strip()] = values[0] if len(values) == 1 else values
    return question.strip(), settings


def budgets(flops) -> np.ndarray:
    """One or several compute budgets as an array, FLOP; Refused unless all are positive."""
    flops = np.atleast_1d(np.asarray(flops, float))
    if not np.all((flops > 0) & np.isfinite(flops)):
        raise Refused("flops", ", ".join(f"{value:g}" for value in flops), "positive FLOP")
    return flops


def allocate(result: Fitted, flops: ArrayLike, **settings: Any) -> pd.DataFrame:
    """Compute-optimal parameters and tokens, with intervals.

    Args:
      result: fit of a law that `allocates`.
      flops: FLOP, one or several, counted as 6 x params x tokens.
      settings: the law's other predictors, for instance experts.

    Returns:
      one row per budget: flops, then params, tokens, tokens_per_param, loss, each followed by
      <name>_low and <name>_high (NaN without draws).
    """
    if told := beyond(result, float(budgets(flops).max())):
        _log.warning(told)
    return allocations(result, flops, **settings)


def allocations(result: Fitted, flops: ArrayLike, **settings: Any) -> pd.DataFrame:
    """As `allocate`, without a word on how far the budgets lie beyond the runs."""
    rows, use = [], question(result.law, "allocation")
    for budget in budgets(flops):
        given = {name: np.asarray(value, float) for name, value in settings.items()}
        given["flops"] = budget
        _check_settings("allocation", use, given)
        found = _answered(result, "allocation", use, given)
        row = {"flops": budget}
        names = ("params", "tokens", "tokens_per_param", "loss")
        for name, (_, cells) in zip(names, found.iterrows(), strict=True):
            ends = {f"{name}_low": cells["low"], f"{name}_high": cells["high"]}
            row |= {name: cells["value"], **ends}
        rows.append(row)
    return pd.DataFrame(rows)


def speed_up(
    baseline: Fitted, variant: Fitted, flops: float, tokens_per_param: float | None = None
) -> dict:
    """Baseline compute that reaches the variant's loss, divided by the variant's compute.

    Args:
      baseline: fits of laws that allocate.
      variant: fits of laws that allocate.
      flops: of the variant.
      tokens_per_param: fixed multiplier for both; None allocates each optimally.

    Returns:
      {"value", "low", "high", "reachable"}; the draws of the two fits are paired as independent.
    """

    def once(first, second):
        goal = _loss_at(variant.law, second, flops, tokens_per_param, {})
        return compute_for(baseline.law, first, goal, {}, tokens_per_param) / flops

    one = float(np.ravel(once(baseline.parameters, variant.parameters))[0])
    cloud, count = None, None
    if baseline.draws is not None and variant.draws is not None:
        count = min(len(baseline.draws.points), len(variant.draws.points))
        order = np.random.default_rng(0).permutation(len(variant.draws.points))[:count]
        first = {name: values[:count] for name, values in baseline.parameter_draws().items()}
        second = {name: values[order] for name, values in variant.parameter_draws().items()}
        cloud = once(first, second)
    factor = max(widening(baseline), widening(variant))
    return summary(one, cloud, min(baseline.level, variant.level), factor, count=count)


def _allocation(law: Law, parameters: Mapping, flops, settings: Mapping) -> dict:
    """Best params and tokens at one budget per draw, and the target there, each (draws,)."""
    if law.allocation is not None:
        found = law.allocation(parameters, flops, settings)
        params, tokens = found["params"], found["tokens"]
    else:
        params = _best_size(law, parameters, flops, settings)
        tokens = flops / 6 / params
    with np.errstate(all="ignore"):  # Without an optimum the params are infinite.
        value = _predict(law, parameters, params, tokens, flops, settings)
    return {
        "params": params,
        "tokens": tokens,
        "tokens_per_param": tokens / params,
        law.target: value,
    }


def _best_size(law: Law, parameters: Mapping, flops, settings) -> np.ndarray:
    """Size with the least target along a budget, (draws,), inf where it is at no size between.

    Where the slope turns from falling to rising: on a grid in log, then on ever finer ones.
    """
    count = max(np.size(flops), *(np.size(value) for value in parameters.values()))
    flops = np.broadcast_to(np.asarray(flops, float), (count,))[:, None]
    ends = np.concatenate([np.full((count, 1), _DECADES[0]), np.log10(flops / 6)], axis=1)

    def value(decades):
        size = 10.0**decades
        found = _predict(law, parameters, size, flops / 6 / size, flops, settings)
        return np.where(np.isfinite(found), found, np.inf)

    def slope(decades):
        return _slope(law, parameters, 10.0**decades, flops, settings)

    with np.errstate(all="ignore"):
        grid = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.linspace(0, 1, _GRID)
        rising = slope(grid)
        turns = (rising[:, :-1] < 0) & (rising[:, 1:] >= 0)
        place = np.argmax(turns, axis=1)[:, None]
        if np.any(np.sum(turns, axis=1) > 1):
            seen = value(grid)
            lower = np.where(turns, np.minimum(seen[:, :-1], seen[:, 1:]), np.inf)
            place = np.argmin(lower, axis=1)[:, None]
        low = np.take_along_axis(grid, place, axis=1)
        high = np.take_along_axis(grid, place + 1, axis=1)
        for _ in range(_ROUNDS):
            inner = low + (high - low) * np.linspace(0, 1, _PARTS + 1)
            rises = np.append(slope(inner[:, 1:-1]) >= 0, np.ones((count, 1), bool), axis=1)
            place = np.argmax(rises, axis=1)[:, None]
            low = np.take_along_axis(inner, place, axis=1)
            high = np.take_along_axis(inner, place + 1, axis=1)
        least = np.any(turns, axis=1) & (value(high)[:, 0] <= np.min(value(ends), axis=1))
        least &= np.all(np.abs(high - ends) > _INSIDE, axis=1)
    return np.where(least, 10.0 ** high[:, 0], np.inf)


def _slope(law: Law, parameters, size, flops, settings) -> np.ndarray:
    """Slope of the law in log size along a budget, before its link, of the shape of `size`."""
    tokens = flops / 6 / size
    columns = {**settings, "flops": flops, law.size: Dual(size, size)}
    columns["tokens"] = Dual(tokens, -tokens)
    columns = {name: columns[name] for name in law.predictors}
    for name, column in columns.items():
        if not isinstance(column, Dual):
            columns[name] = np.reshape(np.asarray(column, float), (-1, 1))
    values = [np.reshape(np.asarray(parameters[name], float), (-1, 1)) for name in law.names]
    found = slope_of(combine(law, law.terms(columns, *values[law.linear_count :]), values))
    return np.broadcast_to(0.0 if found is None else found, size.shape)


def _predict(law: Law, parameters, size, tokens, flops, settings) -> np.ndarray:
    """The law at sizes and tokens, of the shape of `size`: (draws,) or (draws, points)."""
    size = np.asarray(size, float)
    columns = {law.size: size, "tokens": tokens, "flops": flops, **settings}
    columns = {name: np.asarray(columns[name], float) for name in law.predictors}
    columns = {n: v if v.ndim == 2 else np.reshape(v, (-1, 1)) for n, v in columns.items()}
    return np.reshape(law.predict(columns, parameters), size.shape if size.ndim else (-1,))


def _loss_at(law: Law, parameters, flops, multiplier, settings) -> np.ndarray:
    if multiplier is None:
        return _allocation(law, parameters, flops, settings)[law.target]
    flops = np.atleast_1d(np.asarray(flops, float))
    count = max(len(flops), *(np.size(value) for value in parameters.values()))
    flops = np.broadcast_to(flops, (count,))
    params = np.sqrt(flops / 6 / multiplier)
    return _predict(law, parameters, params, params * multiplier, flops, settings)


def compute_for(
    law: Law,
    parameters: Mapping,
    value: ArrayLike,
    settings: Mapping,
    tokens_per_param: float | None = None,
) -> np.ndarray:
    """Training FLOP (draws,) at which a law reaches a target; inf where it never does.

    Args:
      value: number or (draws,).
      settings: the law's other predictors.
      tokens_per_param: fixed multiplier; None allocates optimally.
    """
    settings = {name: setting for name, setting in settings.items() if name != law.target}
    count = max(np.size(value), *(np.size(numbers) for numbers in parameters.values()))

    def loss(decades):
        return _loss_at(law, parameters, 10.0**decades, tokens_per_param, settings)

    return 10.0 ** _first_below(loss, value, count)


def _inverse(law: Law, parameters: Mapping, name: str, settings: Mapping) -> np.ndarray:
    """The predictor (draws,) at which the law falls to a target; inf where it never does."""
    goal = settings[law.target]
    others = {key: np.reshape(settings[key], (1, 1)) for key in law.predictors if key != name}
    count = max(np.size(value) for value in parameters.values())

    def loss(decades):
        columns = others | {name: 10.0 ** decades[:, None]}
        return np.reshape(law.predict(columns, parameters), -1)

    return 10.0 ** _first_below(loss, goal, count)


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


def widening(result: Fitted) -> float:
    """How much wider than the bootstrap draws the fit's intervals are; 1 without draws."""
    return 1.0 if result.draws is None else result.draws.factor


def summary(
    value: float,
    cloud: ArrayLike | None,
    level: float,
    factor: float,
    odds: bool = False,
    count=None,
) -> dict:
    """Value and interval of draws, widened by `factor`; inf is "never reached".

    Args:
      cloud: (draws,) or a number all of `count` draws share, None without draws.
      odds: whether the answer is a share, widened in log odds so that it stays between 0 and 1.

    Returns:
      {"value", "low", "high", "reachable": share of finite draws}; NaN where `cloud` is None.
    """
    out = {"value": value, "low": float("nan"), "high": float("nan"), "reachable": float("nan")}
    if cloud is None:
        return out
    cloud = np.broadcast_to(np.asarray(cloud, float), (count or np.size(cloud),))
    tail = (1 - level) / 2
    if odds:
        spread = np.log(cloud / (1 - cloud))
        middle = np.log(value / (1 - value))
        ends = quantiles(middle + factor * (spread - middle), level)
        out["low"], out["high"] = (float(1 / (1 + np.exp(-end))) for end in ends)
        return out | {"reachable": 1.0}
    reached = np.isfinite(cloud)
    moved = widen(cloud, value, factor) if np.isfinite(value) else cloud
    # Draws that never reach it count as infinite: they push the upper end, they are not dropped.
    how = "linear" if reached.all() else "lower"
    out["low"], out["high"] = map(float, np.quantile(moved, [tail, 1 - tail], method=how))
    return out | {"reachable": float(np.mean(reached))}
