"""What `--columns` says: their name, ours, and the unit theirs is in: `size=params_total[M]`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting.columns import COLUMNS, unit
from refused import Refused

SCALES = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "%": 0.01}
# Cross-entropies to nats: a bit is ln 2 nats, a perplexity is the exponential of nats, a mean
# log-likelihood of a token is their negative.
LOSSES = {
    "bits": lambda bits: bits * np.log(2.0),
    "perplexity": np.log,
    "log_likelihood": np.negative,
}
_ACCEPTED = f"{', '.join([*SCALES, *LOSSES])}, a number or a column that multiplies"


@dataclass(frozen=True)
class Meant:
    """One of our columns, and the unit in which the table has it; "" for the unit of `COLUMNS`."""

    ours: str
    unit: str = ""

    @classmethod
    def of(cls, text: str) -> "Meant":
        """From `params_total` or `params_total[M]`."""
        ours, bracket, rest = text.partition("[")
        if bracket and (not rest.endswith("]") or not rest[:-1].strip()):
            raise Refused("columns", text, "NAME or NAME[UNIT]")
        return cls(ours.strip(), rest[:-1].strip() if bracket else "")

    def __str__(self) -> str:
        return f"{self.ours}[{self.unit}]" if self.unit else self.ours

    def converted(self, values: np.ndarray, frame: pd.DataFrame) -> np.ndarray:
        """Values of the table's unit in ours, (rows,).

        Raises:
          Refused: an unknown unit, or one that this column cannot have.
        """
        if not self.unit:
            return values
        if self.unit in LOSSES:
            if self.ours != "loss" and not self.ours.startswith("loss."):
                raise Refused("columns", str(self), f"{self.unit} of a loss only")
            with np.errstate(all="ignore"):
                return LOSSES[self.unit](values.astype(float))
        if self.unit in SCALES:
            return values * SCALES[self.unit]
        if self.unit in frame:
            return values * pd.to_numeric(frame[self.unit], errors="coerce").to_numpy(float)
        try:
            factor = float(self.unit)
        except ValueError:
            raise Refused("columns", str(self), f"{self.ours}[UNIT] with {_ACCEPTED}") from None
        if not np.isfinite(factor) or factor <= 0:
            raise Refused("columns", str(self), "a positive number")
        return values * factor


def meanings(columns: Mapping[str, str], names: Iterable, more: Iterable[str]) -> dict[str, Meant]:
    """What the columns of a table are said to mean, {their name: meaning}.

    Args:
      columns: {their name: `NAME` or `NAME[UNIT]`}.
      names: of the table.
      more: names that stand beside those in `COLUMNS`, as the words of a formula do.

    Raises:
      Refused: a name that the table or we do not have, or two columns for one of ours.
    """
    names = list(map(str, names))
    found = {theirs: Meant.of(str(ours)) for theirs, ours in columns.items()}
    mapped = [meant.ours for meant in found.values()]
    for theirs, meant in found.items():
        if mapped.count(meant.ours) > 1:
            given = f"{meant.ours} from several columns"
            raise Refused("columns", given, "one column for each name")
        if theirs not in names:
            raise Refused("columns", theirs, f"one of {', '.join(names)}")
        if unit(meant.ours) is None and meant.ours not in more:
            accepted = f"{theirs}=NAME with one of {', '.join(COLUMNS)}"
            raise Refused("columns", f"{theirs}={meant.ours}", accepted)
    return found


def line(columns: Mapping) -> str:
    """The flag that says a mapping, to be pasted into a shell: `--columns='size=params_total'`."""
    pairs = []
    for theirs, ours in columns.items():
        quoted = theirs.replace('"', '""')
        pairs.append(f'"{quoted}"={ours}' if set(theirs) & set(',"') else f"{theirs}={ours}")
    text = ",".join(pairs).replace("'", "'\"'\"'")
    return f"--columns='{text}'"
