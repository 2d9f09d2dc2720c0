"""A table as it stands in its file: cells under names, and where each row is found again."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from refused import Refused

_WRITTEN = ("", "index", "__index_level_0__")  # names that libraries give to a row number
_SHOWN = 5  # rows or cells that a message names


@dataclass(frozen=True)
class Sheet:
    """Cells, typed or texts as they were written, before any is taken for a number.

    frame: one column for each name; lines: where each row begins in its file, None where rows have
    no lines; notes: what was repaired or left out while it was read, one line each.
    """

    frame: pd.DataFrame
    lines: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Where a row is, for a person: `row 6 (line 7)`; rows count from 1 after the header."""
        if self.lines is None:
            return f"row {row + 1}"
        return f"row {row + 1} (line {self.lines[row]})"

    def places(self, rows) -> str:
        """The same for several rows, at most five of them."""
        rows = list(rows)
        told = ", ".join(self.place(row) for row in rows[:_SHOWN])
        return told + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


def without_row_numbers(sheet: Sheet) -> Sheet:
    """The sheet without columns that only count its rows; such a column hides equal rows.

    A first column without a name that tells the rows apart is read as `run`.

    Raises:
      Refused: a name given twice, or a column without a name that holds something.
    """
    frame, notes = sheet.frame, list(sheet.notes)
    kept, names = [], []
    written = [str(name).strip() for name in frame.columns]
    for place, name in enumerate(written):
        if name and written.count(name) > 1:
            raise Refused("table", f"{name} twice", "a column once")
        cells = frame.iloc[:, place]
        if name == "" and _empty(cells):
            continue
        if (name in _WRITTEN or name.startswith("Unnamed: ")) and _counts(cells):
            notes.append(f"left out: column {place + 1}{_called(name)}, a number for each row")
            continue
        if name == "" and place == 0 and cells.is_unique and "run" not in frame.columns:
            notes.append("column 1 has no name: read as run")
            name = "run"
        if name == "":
            raise Refused("table", f"column {place + 1} without a name", "a header for each column")
        kept.append(place)
        names.append(name)
    frame = frame.iloc[:, kept].set_axis(names, axis=1)
    return Sheet(frame, sheet.lines, tuple(notes))


def _called(name: str) -> str:
    return f" ({name})" if name else ""


def _empty(cells: pd.Series) -> bool:
    return bool((cells.isna() | (cells.astype(str).str.strip() == "")).all())


def _counts(cells: pd.Series) -> bool:
    """Whether cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    if not len(cells):
        return True
    values = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    return values[0] in (0, 1) and np.array_equal(values, values[0] + np.arange(len(values)))
