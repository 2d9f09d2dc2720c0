"""What a fitted QAT loss law is for: the share of QAT tokens, the bits, and the tokens wasted.

The four uses of Dremov et al. 2025 (arXiv:2509.22935): the best share at a budget, the best bits at
a fixed memory, the bits at which QAT costs next to nothing, and what a wrong share wastes. Token
budgets are totals, full precision and QAT together; parameter counts are those of the fit.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fitting.fit import Fit
from fitting.intervals import quantiles, widen
from fitting.qat import QAT
from fitting.use import summary, widening
from refused import Refused

_ENDS = 7.0  # log odds of the smallest and largest share looked at: 0.0009 and 0.9991
_COARSE, _FINE, _ROUNDS = 65, 17, 3  # shares on the first grid, on each finer one, finer grids
_BITS = (1.0, 16.0)


def best_fraction(result: Fit, params: float, tokens: float, bits: float) -> dict:
    """Share of the tokens best spent on QAT, with its interval.

    The law has two phases and no meaning at a share of 0 or 1; where the loss falls all the way to
    an end of the search the value is that end and `interior` is False.

    Args:
      params: parameters, as counted in the fit; tokens: total; bits: of the weights.

    Returns:
      {"value", "low", "high", "loss" (nats/token at the value), "interior": bool,
      "interior_share": of the draws (NaN without)}.

    Raises:
      Refused: a fit of another law, or a setting that is not positive.
    """
    _checked(result, params=params, tokens=tokens, bits=bits)
    best, loss = at_best_fraction(result.parameters, params, tokens, bits)
    value = float(best[0])
    out = {"value": value, "low": np.nan, "high": np.nan, "loss": float(loss[0])}
    out |= {"interior": bool(_interior(value)), "interior_share": np.nan}
    if result.draws is not None:
        cloud, _ = at_best_fraction(result.parameter_draws(), params, tokens, bits)
        # In log odds, so that a widened interval stays between 0 and 1.
        odds = np.log(cloud / (1 - cloud))
        middle = np.log(value / (1 - value))
        ends = quantiles(middle + widening(result) * (odds - middle), result.level)
        out["low"], out["high"] = (float(1 / (1 + np.exp(-end))) for end in ends)
        out["interior_share"] = float(np.mean(_interior(cloud)))
    return out


def best_bits(result: Fit, memory: float, tokens: float, bits=None) -> pd.DataFrame:
    """Loss of the models of each bit width that fill a memory, each at its best QAT share.

    Args:
      memory: bytes of weights, params x bits / 8; tokens: total, the same for all.
      bits: widths to compare; those of the fitted QAT runs by default.

    Returns:
      DataFrame(bits, params, fraction, loss, low, high (of the law's mean), best: share of the
      draws in which the width has the lowest loss, NaN without draws), lowest loss first.
    """
    if bits is None:
        _checked(result)
        frame = result.observations.frame
        bits = np.unique(frame["bits"][frame["tokens_qat"] > 0])
    bits = np.atleast_1d(np.asarray(bits, float))
    _checked(result, memory=memory, tokens=tokens, bits=bits)
    rows, clouds = [], []
    for width in bits:
        params = 8 * memory / width
        fraction, loss = at_best_fraction(result.parameters, params, tokens, width)
        row = {"bits": width, "params": params, "fraction": fraction[0], "loss": loss[0]}
        low = high = np.nan
        if result.draws is not None:
            _, cloud = at_best_fraction(result.parameter_draws(), params, tokens, width)
            clouds.append(widen(cloud, loss[0], widening(result)))
            low, high = quantiles(clouds[-1], result.level)
        rows.append(row | {"low": float(low), "high": float(high), "best": np.nan})
    table = pd.DataFrame(rows)
    if clouds:
        winners = np.argmin(clouds, axis=0)
        table["best"] = np.bincount(winners, minlength=len(bits)) / len(winners)
    return table.sort_values("loss", kind="stable").reset_index(drop=True)


def matching_bits(result: Fit, params: float, tokens: float, within: float = 0.01) -> dict:
    """Fewest bits at which QAT at its best share stays within a loss of full precision.

    The law's penalty is positive at any width, so "equal" needs a tolerance. Widths between 1 and
    16, fractions included; beyond the fitted ones they are extrapolated.

    Args:
      within: nats/token above full precision on the same tokens that still count as equal.

    Returns:
      {"value", "low", "high", "reachable"}; inf where 16 bits are not enough.
    """
    _checked(result, params=params, tokens=tokens, within=within)

    def reach(parameters):
        plain = loss_at(parameters, params, tokens, 16.0, 0.0)[:, 0]
        low, high = np.full(len(plain), _BITS[0]), np.full(len(plain), _BITS[1])

        def above(width):
            return at_best_fraction(parameters, params, tokens, width)[1] - plain > within

        never = above(high)
        enough = ~above(low)
        for _ in range(24):
            middle = (low + high) / 2
            missing = above(middle)
            low, high = np.where(missing, middle, low), np.where(missing, high, middle)
        return np.where(never, np.inf, np.where(enough, _BITS[0], high))

    return _summary(result, reach)


def wasted_tokens(result: Fit, params: float, tokens: float, bits: float, fraction: float) -> dict:
    """Tokens that a QAT share wastes: the budget less the one with the same loss at its best share.

    Args:
      tokens: total; fraction: of them spent on QAT, between 0 and 1.

    Returns:
      {"value", "low", "high" (tokens), "share": value / tokens}; no draw wastes less than 0.
    """
    _checked(result, params=params, tokens=tokens, bits=bits)
    if not 0 < fraction < 1:
        raise Refused("fraction", fraction, "a share between 0 and 1")

    def reach(parameters):
        goal = loss_at(parameters, params, tokens, bits, fraction)[:, 0]
        high = np.full(len(goal), np.log(tokens))
        low = high - np.log(1e6)
        for _ in range(40):
            middle = (low + high) / 2
            above = at_best_fraction(parameters, params, np.exp(middle), bits)[1] > goal
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.exp(high)

    needed = _summary(result, reach)
    waste = {"value": tokens - needed["value"]}
    waste["low"], waste["high"] = (max(tokens - needed[end], 0.0) for end in ("high", "low"))
    if np.isnan(needed["low"]):
        waste["low"] = waste["high"] = np.nan
    return waste | {"share": waste["value"] / tokens}


def loss_at(parameters: Mapping, params, tokens, bits, fraction) -> np.ndarray:
    """The law in total tokens and QAT share.

    Args:
      parameters: {name: number or array (draws,)}; params, tokens, bits: numbers or (draws,).
      fraction: number, (shares,) or (draws, shares).

    Returns:
      (draws, shares) nats/token; one row for numbers.
    """
    values = {name: np.atleast_1d(parameters[name]) for name in QAT.names}
    settings = (params, tokens, bits)
    params, tokens, bits = (np.reshape(np.asarray(s, float), (-1, 1)) for s in settings)
    fraction = np.atleast_2d(fraction)
    columns = {"params": params, "bits": bits}
    columns |= {"tokens_qat": fraction * tokens, "tokens_fp": (1 - fraction) * tokens}
    return QAT.predict(columns, values)


def at_best_fraction(parameters: Mapping, params, tokens, bits) -> tuple[np.ndarray, np.ndarray]:
    """Best QAT share and the loss there, each (draws,), to about 1e-4 in log odds.

    Arguments as in `loss_at`. The first grid finds the basin, finer ones the minimum in it.
    """
    draws = max(np.size(value) for value in (*map(parameters.get, QAT.names), params, tokens, bits))
    low, high = np.full((draws, 1), -_ENDS), np.full((draws, 1), _ENDS)
    count = _COARSE
    for _ in range(1 + _ROUNDS):
        odds = low + (high - low) * np.linspace(0, 1, count)
        loss = loss_at(parameters, params, tokens, bits, 1 / (1 + np.exp(-odds)))
        best = np.argmin(loss, axis=1)[:, None]
        step = (high - low) / (count - 1)
        centre = np.take_along_axis(odds, best, axis=1)
        low, high = np.maximum(centre - step, -_ENDS), np.minimum(centre + step, _ENDS)
        count = _FINE
    return 1 / (1 + np.exp(-centre[:, 0])), np.take_along_axis(loss, best, axis=1)[:, 0]


def _interior(fraction):
    return np.abs(np.log(fraction / (1 - fraction))) < 0.99 * _ENDS


def _summary(result: Fit, reach) -> dict:
    cloud = None if result.draws is None else reach(result.parameter_draws())
    return summary(float(reach(result.parameters)[0]), cloud, result.level, widening(result))


def _checked(result: Fit, **settings):
    if result.law.name != QAT.name:
        raise Refused("law", result.law.name, QAT.name)
    for name, value in settings.items():
        if not np.all(np.asarray(value) > 0):
            raise Refused(name, value, "a positive number")
