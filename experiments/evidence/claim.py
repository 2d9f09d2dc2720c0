"""Claims: a value with its interval, and the verdict on it in one wording for every study."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVEL = 0.9
LOW, HIGH = "90 % low", "90 % high"


@dataclass(frozen=True)
class Claim:
    """A value, its 90 % interval, and how many independent replicates (seeds, trunks) it rests on.

    The verdict is `lower` or `higher` where the interval leaves out `than`, else `not resolved`;
    `one seed` where one replicate leaves no interval, `diverged` where there is none.
    """

    value: float
    low: float
    high: float
    count: int = 2
    than: float = 0.0

    @classmethod
    def of(cls, values, than: float = 0.0) -> "Claim":
        """Claims the mean of independent values, with Student's interval."""
        values = np.asarray(values, float)
        values = values[~np.isnan(values)]
        count = len(values)
        if not count:
            return cls(np.nan, np.nan, np.nan, 0, than)
        mean, half = float(values.mean()), np.nan
        if count > 1:
            from scipy.special import stdtrit  # Here, since a plan claims nothing.

            error = values.std(ddof=1) / np.sqrt(count)
            half = float(stdtrit(count - 1, (1 + LEVEL) / 2) * error)
        return cls(mean, mean - half, mean + half, count, than)

    @property
    def verdict(self) -> str:
        """`lower`, `higher`, `not resolved`, `one seed` or `diverged`."""
        if self.count < 2:
            return "one seed" if self.count else "diverged"
        if self.high < self.than:
            return "lower"
        return "higher" if self.low > self.than else "not resolved"

    def columns(self, name: str, prefix: str = "") -> dict[str, float]:
        """Returns the value and the ends of its interval as columns of a table."""
        return {name: self.value, prefix + LOW: self.low, prefix + HIGH: self.high}

    def said(self, unit: str, form: str = "+.4f", than: str = "zero") -> str:
        """Writes value, interval and verdict; `than` names what it is compared with."""
        if not self.count:
            return "diverged at every rate" + ("" if than == "zero" else f" (or {than} did)")
        ends = f" [{self.low:{form}}, {self.high:{form}}]" if np.isfinite(self.low) else ""
        end = f" than {than}" if self.verdict in ("lower", "higher") else ""
        return f"{self.value:{form}}{unit and ' ' + unit}{ends}: {self.verdict}{end}"


def rows(claims: Mapping, key: str, name: str) -> pd.DataFrame:
    """Tables claims by their key: value and ends of the interval."""
    return pd.DataFrame([{key: who} | claim.columns(name) for who, claim in claims.items()])


def bullets(lines: Mapping[str, str], head: Iterable[str] = ()) -> str:
    """Writes named sentences as a list, below a paragraph."""
    said = [f"- **{name}**: {line}." for name, line in lines.items()]
    return "\n".join([" ".join(filter(None, head)), "", *said])


def listed(names: Iterable) -> str:
    """Joins names; `none` where there are none."""
    return ", ".join(map(str, names)) or "none"


def counted(number: int, noun: str) -> str:
    """Writes a number with its noun, whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def scale(largest: float, published: float, noun: str) -> str:
    """Says how large a study's runs are beside the smallest published ones."""
    small = ": this proves the machinery, not what was published" if largest < published else ""
    return f"At most {largest:,.0f} {noun}, where those published begin at {published:,.0f}{small}."
