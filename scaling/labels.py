"""Labels: what a study calls its runs. Columns of tables, words on the way; in no identity."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from refused import Refused
from scaling.columns import is_column
from scaling.runs import Run

Label = str | int | float

SEPARATOR = " | "  # Between the values of a run that has several label sets.
# Texts that pandas reads from a CSV as an absent value, beside those that read as a number.
ABSENT = ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A")
ABSENT += ("NA", "NULL", "None", "n/a", "null")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A run and what its study calls it: {name: text or number}.

    A name is a plain word (small letters and _), a text one that a CSV gives back as it was. A run
    that serves in several arms is listed under each; it is trained once.

    Raises:
      Refused: a name that is no plain word or is a column of the run table, or such a value.
    """

    run: Run
    labels: Mapping[str, Label]

    def __post_init__(self):
        for name, value in self.labels.items():
            check_name(name)
            check_value(name, value)


def labelled(run: Run, **labels: Label) -> Labelled:
    """Returns a run with its labels."""
    return Labelled(run=run, labels=labels)


def check_name(name: str) -> None:
    """Refuses a name that is no plain word, or is a column of the run table."""
    if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name):
        raise Refused("label", name, "a plain word of small letters and _, such as arm")
    if is_column(name):
        raise Refused("label", name, "a name that is not a column of the run table already")


def check_value(name: str, value: Label) -> None:
    """Refuses a value that a table cannot give back."""
    if isinstance(value, str):
        if SEPARATOR in value or "\n" in value or value != value.strip():
            accepted = f"text on one line without {SEPARATOR!r} or space around it"
            raise Refused(f"label {name}", value, accepted)
        if value in ABSENT or is_number(value):
            accepted = "a number as a number; text that does not read as a number or as nothing"
            raise Refused(f"label {name}", repr(value), accepted)
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Refused(f"label {name}", value, "text or a finite number")


def is_number(text: str) -> bool:
    """Says whether a text reads as a number, nan and inf included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def label_sets(listed: Iterable[Labelled]) -> dict[str, tuple[dict[str, Label], ...]]:
    """Returns each run's label sets by its identity, in the order of the list, equal ones once.

    Raises:
      Refused: a label that is a text for some runs and a number for others.
    """
    sets: dict[str, list[dict[str, Label]]] = {}
    texts: dict[str, bool] = {}
    for item in listed:
        known = sets.setdefault(item.run.identity, [])
        if item.labels and item.labels not in known:
            known.append(dict(item.labels))
        for name, value in item.labels.items():
            if texts.setdefault(name, isinstance(value, str)) != isinstance(value, str):
                accepted = "text for every run or a number for every run"
                raise Refused(f"label {name}", value, accepted)
    return {id: tuple(found) for id, found in sets.items()}


def joined(sets: Sequence[Mapping[str, Label]], name: str) -> Label | None:
    """Returns a run's table cell: its value, or those of its label sets joined by " | ".

    A set without the label has an empty place among the joined ones.
    """
    values = [labels.get(name) for labels in sets]
    if not values or values.count(values[0]) == len(values):
        return values[0] if values else None
    return SEPARATOR.join("" if value is None else str(value) for value in values)


def as_column(cells: Sequence[Label | None]) -> pd.Series:
    """Returns a label's cells as a column of one type: text where one is text, else numbers."""
    there = [cell for cell in cells if cell is not None]
    if any(isinstance(cell, str) for cell in there):
        return pd.Series([None if c is None else str(c) for c in cells], dtype=object)
    if there and all(isinstance(cell, int) for cell in there):
        return pd.Series(cells, dtype="int64" if len(there) == len(cells) else "Int64")
    return pd.Series(cells, dtype=float)


def label_names(table: pd.DataFrame) -> list[str]:
    """Lists a run table's label columns: those that are none of its own."""
    return [name for name in table if not is_column(name)]


def unfolded(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a run table, from training or from a CSV, with a row per label set of each run.

    Rows stay in the table's order, a run's label sets in the study's. Labels that are numbers are
    numbers again; a label that a set lacks is absent.
    """
    names = label_names(table)
    parts = {name: [places(cell) for cell in table[name].tolist()] for name in names}
    counts = [max((len(parts[name][i]) for name in names), default=1) for i in range(len(table))]
    rows = table.iloc[np.repeat(np.arange(len(table)), counts)].reset_index(drop=True)
    for name in names:
        if all(len(some) == 1 for some in parts[name]):
            continue
        pairs = zip(parts[name], counts, strict=True)
        cells = [c for some, count in pairs for c in (some if len(some) == count else some * count)]
        numeric = all(is_number(cell) for cell in cells if isinstance(cell, str))
        rows[name] = pd.Series(cells, dtype=object)
        if numeric:
            rows[name] = rows[name].astype(float)
    return rows


def places(cell) -> list:
    """Splits a cell of several label sets; None for a set without the label."""
    if isinstance(cell, str) and SEPARATOR in cell:
        return [part or None for part in cell.split(SEPARATOR)]
    return [cell]


def words(labels: Mapping[str, tuple[Label | None, ...]]) -> str:
    """Names what has these labels, {name: distinct values of its runs}, for a person.

    Of several texts the first is said and how many more there are; numbers that differ, and labels
    that some runs lack, are left out: "arm dense and 2 more  rate 0.5".
    """
    said = []
    for name, values in labels.items():
        first, more = values[0], len(values) - 1
        if None in values or (more and not isinstance(first, str)):
            continue
        shown = first if isinstance(first, str) else f"{first:g}"
        said.append(f"{name} {shown}" + f" and {more} more" * bool(more))
    return "  ".join(said)
