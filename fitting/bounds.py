"""Bounds on a law's parameters, from text and onto a law."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fitting.law import Law, Parameter
from refused import Refused

_FORM = "NAME=LOW:HIGH,..., as in E=1.5:2,alpha=.1:.6"


def read_bounds(bounds) -> dict[str, tuple[float, float]]:
    """{parameter: (low, high)} from a mapping or from NAME=LOW:HIGH,...; empty for none.

    Raises:
      Refused: bounds that do not read, are not finite, or whose low end is not the lower one.
    """
    if bounds is None or isinstance(bounds, Mapping):
        pairs = dict(bounds or {}).items()
    else:
        pairs = [_pair(item) for item in filter(None, map(str.strip, str(bounds).split(",")))]
    out = {}
    for name, (low, high) in pairs:
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise Refused("bounds", f"{name}={low:g}:{high:g}", "two finite ends, the lower first")
        out[name] = (float(low), float(high))
    return out


def _pair(item: str):
    name, _, ends = item.partition("=")
    low, _, high = ends.partition(":")
    try:
        return name.strip(), (float(low), float(high))
    except ValueError:
        raise Refused("bounds", item, _FORM) from None


def bounded(law: Law, bounds: Mapping) -> Law:
    """The law with other bounds on some parameters; searches start inside them.

    Args:
      bounds: as `read_bounds` reads them.

    Raises:
      Refused: a name that is no parameter of the law, a bound of 0 or less on one that has to be
        positive.
    """
    bounds = read_bounds(bounds)
    for name in bounds:
        if name not in law.names:
            raise Refused("bounds", name, f"parameters of {law.name}: {', '.join(law.names)}")
    if not bounds:
        return law
    parameters = [
        _within(parameter, *bounds[parameter.name]) if parameter.name in bounds else parameter
        for parameter in law.parameters
    ]
    return replace(law, parameters=tuple(parameters))


def _within(parameter: Parameter, low: float, high: float) -> Parameter:
    if parameter.positive and high <= 0:
        raise Refused("bounds", f"{parameter.name}={low:g}:{high:g}", "positive ends")
    # Signed parameters are held between -high and high: one-sided bounds make a positive one.
    positive = parameter.positive or low >= 0
    low = max(low, Parameter("").low) if positive else low
    start = parameter.start
    if start is not None:
        start = (max(low, start[0]), min(high, start[1]))
        start = start if start[0] < start[1] else (low, high)
    return replace(parameter, low=low, high=high, start=start, positive=positive)
