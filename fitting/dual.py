"""Numbers that carry their slope: a law's own function, called with them, gives its derivative.

Forward differentiation of numpy's arithmetic. A slope keeps all digits where the values themselves
no longer differ, as on the flat stretches of a loss along a budget. Values may be arrays, or stand
for numbers of another language (`explorer.trace`), so that both compute by the same formulas.
"""

from typing import Any

import numpy as np

from refused import Refused

_COMPARISONS = {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal"}


class Dual(np.lib.mixins.NDArrayOperatorsMixin):
    """A value and its slope in one variable; a slope of None is that of a constant."""

    def __init__(self, value: Any, slope: Any = None):
        self.value, self.slope = value, slope

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        """The value and slope of an operation; comparisons are of values."""
        name, values = ufunc.__name__, [value_of(one) for one in inputs]
        if method != "__call__" or settings or name not in {*_COMPARISONS, *_SLOPES}:
            raise Refused("law", f"numpy.{name}", f"{', '.join([*_SLOPES, *_COMPARISONS])}, where")
        found = ufunc(*values)
        if name in _COMPARISONS:
            return found
        slopes = [slope_of(one) for one in inputs]
        if all(slope is None for slope in slopes):
            return Dual(found)
        return Dual(found, _SLOPES[name](found, *values, *slopes))

    def __array_function__(self, function, types, args, settings):
        """A choice between values and their slopes; the real part of a number is itself."""
        if function is np.real:
            return args[0]
        if function is np.where and len(args) == 3:
            test, first, second = args
            return Dual(
                np.where(value_of(test), value_of(first), value_of(second)),
                _chosen(value_of(test), slope_of(first), slope_of(second)),
            )
        raise Refused("law", f"numpy.{function.__name__}", "where, and arithmetic")


def value_of(one: Any) -> Any:
    """The value of a number with or without a slope."""
    return one.value if isinstance(one, Dual) else one


def slope_of(one: Any) -> Any:
    """The slope of a number, None for a constant's."""
    return one.slope if isinstance(one, Dual) else None


def _chosen(test, first, second):
    if first is None and second is None:
        return None
    return np.where(test, 0.0 if first is None else first, 0.0 if second is None else second)


def _sum(*parts):
    """The sum of (factor, slope), without those of constants."""
    kept = [factor * slope for factor, slope in parts if slope is not None]
    return kept[0] if len(kept) == 1 else kept[0] + kept[1]


def _power(found, base, exponent, by_base, by_exponent):
    parts = []
    if by_base is not None:
        parts.append((exponent * base ** (exponent - 1), by_base))
    if by_exponent is not None:
        parts.append((found * np.log(base), by_exponent))
    return _sum(*parts)


def _absolute(found, x, slope):
    return np.where(x < 0, -slope, slope)


# By the name of numpy's function: (found, values..., slopes...) -> slope of what was found.
_SLOPES = {
    "add": lambda y, a, b, da, db: _sum((1.0, da), (1.0, db)),
    "subtract": lambda y, a, b, da, db: _sum((1.0, da), (-1.0, db)),
    "multiply": lambda y, a, b, da, db: _sum((b, da), (a, db)),
    "divide": lambda y, a, b, da, db: _sum((1.0 / b, da), (-y / b, db)),
    "power": _power,
    "minimum": lambda y, a, b, da, db: _chosen(a <= b, da, db),
    "maximum": lambda y, a, b, da, db: _chosen(a >= b, da, db),
    "absolute": _absolute,
    "negative": lambda y, a, da: -da,
    "positive": lambda y, a, da: da,
    "exp": lambda y, a, da: y * da,
    "expm1": lambda y, a, da: np.exp(a) * da,
    "log": lambda y, a, da: da / a,
    "log2": lambda y, a, da: da / (a * np.log(2.0)),
    "log10": lambda y, a, da: da / (a * np.log(10.0)),
    "log1p": lambda y, a, da: da / (1.0 + a),
    "sqrt": lambda y, a, da: 0.5 * da / y,
    "tanh": lambda y, a, da: (1.0 - y * y) * da,
}
