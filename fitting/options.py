"""Every option of a fit, listed once: from the command line to `fit` it is this object.

This file imports no other library, so that a command line can list the options at once.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from refused import Refused

DRAWS = 2000


def _option(default, text: str, kind: type | None = None):
    """A field with its help text, and the type of one value where the default does not tell it."""
    return dataclasses.field(
        default=default, metadata={"help": text, "kind": kind or type(default)}
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """How a law is fitted; `fields` lists them for a command line.

    Raises:
      Refused: an unknown objective, a level outside 0 to 1, negative counts, `fixed` that does not
        read.
    """

    objective: str = _option("huber", "huber, lad, least_squares, least_squares_log or quantile")
    delta: float = _option(1e-3, "of the Huber loss, in log loss")
    quantile: float = _option(0.5, "of the objective quantile")
    overestimate_penalty: float = _option(1.0, "times that a prediction above its run costs")
    held_out: Any = _option(
        None, "largest_decile, above:0.25 or a condition; in Python a mask", str
    )
    params: str | None = _option(None, "the parameter count that the law means", str)
    target: str | None = _option(None, "column to predict (default: the law's)", str)
    level: float = _option(0.9, "of the intervals")
    draws: int = _option(DRAWS, "bootstrap refits")
    point_only: bool = _option(False, "no intervals")
    fixed: Any = _option(None, "parameters held constant, NAME=VALUE,...", str)
    bounds: Any = _option(None, "bounds on parameters, NAME=LOW:HIGH,...", str)
    audits: int = _option(32, "random starts that check the optimum")
    seed: int = _option(0, "of every random choice")

    def __post_init__(self):
        from fitting.bounds import read_bounds
        from fitting.objective import OBJECTIVES

        if self.objective not in OBJECTIVES:
            raise Refused("objective", self.objective, ", ".join(OBJECTIVES))
        if not 0 < self.level < 1:
            raise Refused("level", self.level, "a number between 0 and 1")
        if not 0 < self.quantile < 1:
            raise Refused("quantile", self.quantile, "a share between 0 and 1")
        if not 0 < self.overestimate_penalty < math.inf:
            accepted = "a positive number, 1 for none"
            raise Refused("overestimate_penalty", self.overestimate_penalty, accepted)
        if self.draws < 1:
            raise Refused("draws", self.draws, "1 or more")
        if self.audits < 0:
            raise Refused("audits", self.audits, "0 or more")
        object.__setattr__(self, "fixed", _constants(self.fixed))
        object.__setattr__(self, "bounds", read_bounds(self.bounds))

    def change(self, **changes) -> "Options":
        """These options with some replaced; TypeError for a name that is none."""
        return dataclasses.replace(self, **changes) if changes else self


def fields() -> tuple[dataclasses.Field, ...]:
    """The options in order: name, default, metadata["help"] and metadata["kind"] (of one value)."""
    return dataclasses.fields(Options)


def _constants(fixed) -> dict[str, float]:
    """{parameter: value} from a mapping or from NAME=VALUE,...; empty for none."""
    if fixed is None or isinstance(fixed, Mapping):
        return {name: float(value) for name, value in (fixed or {}).items()}
    out = {}
    for item in filter(None, str(fixed).split(",")):
        name, _, value = item.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            raise Refused("fixed", item, "NAME=VALUE,..., as in E=1.7") from None
        if not math.isfinite(out[name.strip()]):
            raise Refused("fixed", item, "a finite value")
    return out
