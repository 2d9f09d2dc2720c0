"""The Farseer law: floor, coefficient and exponent of the tokens all vary with the size."""

import numpy as np

from fitting.law import Law, Parameter

_PARAMS = 1e8  # Unit of the search: the three powers of the size are one there.
_LARGEST = 200.0
_FEWEST = 3  # token counts at one size, for a curve of that size


def _bend(size, power):
    """(n^power - 1) / power in log n, which is log n at power zero."""
    x = power * size
    small = np.abs(x) < 1e-5
    return np.where(small, size * (1 + x / 2), np.expm1(x) / np.where(small, 1.0, power))


def _exp(value):
    """The exponential, held far above any loss where it would overflow."""
    return np.exp(np.where(np.real(value) > _LARGEST, _LARGEST, value))


def _terms(columns, floor_slope, floor_power, slope, power, rate, rate_slope, rate_power):
    size = np.log(columns["params_non_embedding"] / _PARAMS)
    falling = rate * np.exp(rate_slope * _bend(size, rate_power))
    fall = slope * _bend(size, power) - falling * np.log(columns["tokens"])
    return _exp(floor_slope * _bend(size, floor_power)), _exp(fall)


def printed(values) -> dict:
    """a1, b1, a2, b2, a3, b3 of the law as it is printed, from the searched parameters."""

    def pair(level, slope, power):
        return values[slope] / values[power] * _PARAMS ** -values[power], np.log(
            values[level]
        ) - values[slope] / values[power]

    a3, b3 = pair("E", "floor_slope", "gamma")
    a2, b2 = pair("B", "slope", "beta")
    a1, b1 = pair("rate", "rate_slope", "alpha")
    return {"a1": a1, "b1": b1, "a2": a2, "b2": b2, "a3": a3, "b3": b3}


def _curve(tokens, loss):
    """(floor, coefficient, exponent) of one size by least squares, None if it does not fall."""
    best = None
    for rate in np.geomspace(0.03, 1.5, 60):
        basis = np.stack([np.ones_like(tokens), tokens**-rate], axis=1)
        found, *_ = np.linalg.lstsq(basis / loss[:, None], np.ones_like(loss), rcond=None)
        miss = np.sum((basis @ found / loss - 1) ** 2)
        if np.all(found > 0) and (best is None or miss < best[0]):
            best = (miss, *found, rate)
    return best and best[1:]


def _line(size, values, power):
    """Slope of log values in the bent log size, by least squares, at one power."""
    return np.polyfit(_bend(size, power), np.log(values), 1)[0] if len(size) > 1 else 0.0


def _starts(columns, target, count, rng):
    """By stages: a curve in tokens for each size, then lines of its parts in the bent log size."""
    size, tokens = columns["params_non_embedding"], columns["tokens"]
    curves = []
    for value in np.unique(size):
        rows = size == value
        found = _curve(tokens[rows], target[rows]) if rows.sum() >= _FEWEST else None
        if found is not None:
            curves.append((np.log(value / _PARAMS), *found))
    powers = rng.uniform(-0.4, 0.4, (count, 3))
    powers[0] = 0.01
    shapes = np.zeros((count, 7))
    shapes[:, [1, 3, 6]] = powers
    if len(curves) < 2:
        shapes[:, [0, 2, 5]] = rng.normal(0, 0.05, (count, 3))
        shapes[:, 4] = rng.uniform(0.1, 0.8, count)
        return shapes
    logs, floors, coefficients, rates = np.array(curves).T
    for row, (floor, level, rate) in enumerate(powers):
        shapes[row, 0] = _line(logs, floors, floor)
        shapes[row, 2] = _line(logs, coefficients, level)
        shapes[row, 5] = _line(logs, rates, rate)
        shapes[row, 4] = np.exp(np.mean(np.log(rates) - shapes[row, 5] * _bend(logs, rate)))
    shapes[1:, [0, 2, 5]] += rng.normal(0, 0.05, (count - 1, 3))
    shapes[1:, 4] *= np.exp(rng.normal(0, 0.2, count - 1))
    return shapes


def _signed(name, high, start):
    return Parameter(name, "1", 0.0, high, start, positive=False)


FARSEER = Law(
    name="farseer",
    formula=(
        "L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1), "
        "N = params_non_embedding, D = tokens; E, B, rate are the three exponentials at N = 1e8, "
        "the slopes their logarithmic slopes there"
    ),
    predictors=("params_non_embedding", "tokens"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("B", "nats/token x tokens^rate"),
        _signed("floor_slope", 5.0, (-0.3, 0.1)),
        _signed("gamma", 2.0, (-0.4, 0.4)),
        _signed("slope", 20.0, (-0.5, 1.0)),
        _signed("beta", 2.0, (-0.4, 0.4)),
        Parameter("rate", "1", 1e-3, 5.0, (0.1, 0.8)),
        _signed("rate_slope", 5.0, (-0.1, 0.2)),
        _signed("alpha", 2.0, (-0.4, 0.4)),
    ),
    terms=_terms,
    starts=_starts,
    derived=printed,
    identified_by="five or more sizes, each at five or more numbers of tokens",
    source="Farseer 2025 (arXiv:2506.10972): nine parameters, fitted by stages",
)
