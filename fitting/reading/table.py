"""The one door: from a file to rows under our column names, and what was said on the way."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fitting.columns import COUNTS, PARAMETER_COUNTS, TEXTS, unit
from fitting.expression import where as rows_where
from fitting.reading.cells import MISSING, as_numbers, decimal_marks
from fitting.reading.chart import without_chart
from fitting.reading.checks import check_units, curve_notes, suspicions, without_repeats
from fitting.reading.formats import sheet_of
from fitting.reading.names import guessed, held_out_losses, lacking
from fitting.reading.sheet import Sheet, without_row_numbers
from fitting.reading.units import Meant, meanings
from refused import Refused

NEEDS = ("params", "tokens", "loss")
_TRUTH = {"true": True, "false": False}
_FEW = 200  # cells that say whether a column of text is one of numbers
_FLAGS = {"diverged", "has_diverged", "is_diverged"}


def read_table(
    path: str | Path | pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    *,
    needs: Iterable[str] = NEEDS,
    where: str | None = None,
    curves: str | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """A table of anybody's, checked cell by cell.

    Args:
      path: as `formats.sheet_of` takes it.
      columns: {their name: `NAME` or `NAME[UNIT]`}.
      needs: columns that are read as numbers, and sought where they have other names; `params` is
        any count of parameters.
      where: condition on the rows, by the table's names or ours; rows that it leaves out may hold
        anything.
      curves: the column that names the runs of whole curves, None for one row a run.

    Returns:
      (rows by our names, with a `run` for each; notes: every guess, repair and omission).

    Raises:
      Refused: as `sheet_of`, `meanings`, `where` and `check_units`; a cell that is no number, named
        with its row and column. Unsure: a column that may mean several things.
    """
    needs = tuple(needs)
    sheet = without_chart(sheet_of(path, curves is not None), curves is not None)
    sheet = without_row_numbers(sheet)
    notes = list(sheet.notes)
    given = meanings(columns or {}, sheet.frame, needs)
    frame, every, bad = _meant(sheet, given, needs, curves is None, notes)
    rows = np.arange(len(frame))
    if where:
        rows = np.flatnonzero(rows_where(_with_aliases(frame, every), where))
    _refuse_bad(sheet, bad, rows)
    rows = _with_loss(frame, rows, needs, notes, sheet)
    _refuse_empty(sheet, frame, rows, needs)
    if curves is None:
        rows = rows[without_repeats(frame.iloc[rows], notes)]
    frame = frame.iloc[rows].reset_index(drop=True)
    settled = {meant.ours for meant in given.values() if meant.unit}
    check_units(frame.drop(columns=list(settled & set(frame))), rows, sheet)
    if curves is not None:
        return frame, notes + curve_notes(frame, curves)
    sound = ~_diverged(frame)
    notes += suspicions(frame[sound], rows[sound], sheet, where)
    if "run" not in frame:
        frame["run"] = [f"run{row}" for row in rows.tolist()]
    return frame, notes


def _meant(sheet: Sheet, given: Mapping[str, Meant], needs, runs: bool, notes: list[str]):
    """(columns by our names and in our units, what every one means, cells that are no numbers)."""
    frame, bad = _typed(sheet, given, needs, notes)
    more = (*needs, *(("run",) if runs else ()))
    lacks = set(lacking(frame, given, more)) - {"run"}
    found = guessed(_looked_at(sheet, frame) if lacks else frame, given, more)
    every = {**given, **_shown(found, notes)}
    for theirs, meant in found.items():
        if meant.ours != "run":  # A guess is read as what it is.
            _number(sheet, frame, theirs, meant.ours, _marks(sheet, every, needs), notes, bad)
    return _renamed(frame, every, notes), every, bad


def plain_frame(sheet: Sheet) -> pd.DataFrame:
    """The sheet with every column of numbers as numbers, and nothing else read into it."""
    return _typed(sheet, {}, (), [])[0]


def _typed(sheet: Sheet, given: Mapping[str, Meant], needs, notes):
    """(columns as numbers where they are some, {their name: {row: cell that is no number}})."""
    frame, bad = {}, {}
    marks = _marks(sheet, given, needs)
    for name in sheet.frame.columns:
        ours = given[name].ours if name in given else name
        frame[name] = sheet.frame[name]
        if _numeric(ours, needs):
            _number(sheet, frame, name, ours, marks, notes, bad)
        else:
            frame[name] = _as_it_is(sheet.frame[name], ours in ("run", "trunk"))
    return pd.DataFrame(frame), bad


def _numeric(ours: str, needs) -> bool:
    """Whether a column has to hold numbers."""
    return ours not in TEXTS and (unit(ours) is not None or (ours in needs and ours != "params"))


def _marks(sheet: Sheet, meant: Mapping[str, Meant], needs) -> frozenset:
    """The decimal marks of a file, by its columns of numbers that are written as text."""
    texts = []
    for name in sheet.frame.columns:
        cells = sheet.frame[name]
        ours = meant[name].ours if name in meant else name
        if not _numeric(ours, needs) or pd.api.types.is_numeric_dtype(cells):
            continue
        texts.append(cells)
    if not any(cells.astype(str).str.contains(",", regex=False).any() for cells in texts):
        return frozenset()
    return frozenset().union(*map(decimal_marks, texts))


def _number(sheet: Sheet, frame, name, ours, marks, notes, bad) -> None:
    """Puts a column of the sheet into the frame as numbers; says what was repaired."""
    found = as_numbers(sheet.frame[name], ours in COUNTS, marks)
    frame[name] = found.values
    notes += found.notes(name)
    if found.bad:
        bad[name] = found.bad


def _as_it_is(cells: pd.Series, names: bool) -> pd.Series:
    """A column of numbers, of truth values, or of text in which only empty cells are missing."""
    if pd.api.types.is_numeric_dtype(cells):  # Truth values too.
        return cells
    texts = cells.map(lambda cell: "" if pd.isna(cell) else str(cell))
    if not (texts != "").any():
        return pd.Series(np.nan, index=cells.index)
    values = pd.to_numeric(texts, errors="coerce")
    if names and not texts.str.fullmatch(r"0|-?[1-9]\d*").all():  # 007 and 7 are two runs.
        return texts.astype("str").mask(texts == "")
    unread = texts[values.isna().to_numpy()].str.lower()
    empty = unread.isin(MISSING).all()
    if pd.api.types.is_numeric_dtype(values) and empty and values.notna().any():
        return values
    if len(unread) == len(texts) and len(texts) and unread.isin(_TRUTH).all():
        return unread.map(_TRUTH).astype(bool)
    return texts.astype("str").mask(texts == "")


def _looked_at(sheet: Sheet, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns with texts such as 19.2M and 3,21 as numbers, whose magnitudes tell something."""
    seen = {}
    for name in frame:
        cells = sheet.frame[name]
        if pd.api.types.is_numeric_dtype(frame[name]):
            continue
        for count in (False, True):
            few = as_numbers(cells.head(_FEW).reset_index(drop=True), count)
            if 2 * len(few.bad) < min(len(cells), _FEW) and np.isfinite(few.values).any():
                seen[name] = as_numbers(cells, count).values
                break
    return frame.assign(**seen) if seen else frame


def _shown(found: dict[str, Meant], notes: list[str]) -> dict[str, Meant]:
    """Says what was guessed."""
    if found:
        told = ", ".join(f"{theirs} as {meant}" for theirs, meant in found.items())
        notes.append(f"columns guessed by their names: {told}; --columns says otherwise")
    return found


def _renamed(frame: pd.DataFrame, every: Mapping[str, Meant], notes) -> pd.DataFrame:
    """Columns under our names and in our units."""
    ours = {meant.ours for meant in every.values()}
    for name in sorted(ours & (set(frame) - set(every))):
        notes.append(f"{name}: the table's own column gives way to the one mapped to it")
    if "loss" in frame and "loss" not in ours:
        for name in held_out_losses(n for n in frame if n not in every and n != "loss"):
            notes.append(f"loss: the column loss is read, {name} is not")
    columns = {}
    for name in frame:
        if name in every:
            meant = every[name]
            values = frame[name]
            if meant.unit:
                values = meant.converted(values.to_numpy(float), frame)
                told = f" as {meant.ours}" if meant.ours != name else ""
                notes.append(f"{name}: read{told} in {meant.unit}")
            columns[meant.ours] = values
        elif name not in ours:
            columns[name] = frame[name]
    renamed = pd.DataFrame(columns)
    for name in [n for n in renamed if str(n).lower() in _FLAGS]:
        if renamed[name].dtype == bool and "diverged_step" not in renamed:
            renamed["diverged_step"] = np.where(renamed[name], 0.0, np.nan)
            notes.append(f"{name}: runs where it is true are taken for diverged")
    return renamed


def _with_aliases(frame: pd.DataFrame, every: Mapping[str, Meant]) -> pd.DataFrame:
    """Columns by the table's names too, so that a condition may use either."""
    also = {name: frame[meant.ours] for name, meant in every.items() if name not in frame}
    return frame.assign(**also) if also else frame


def _refuse_bad(sheet: Sheet, bad: Mapping[str, Mapping[int, str]], kept) -> None:
    """Refuses the first cell that is no number in a row that is taken."""
    taken = set(np.asarray(kept).tolist()) if bad else set()
    for name, cells in bad.items():
        places = [row for row in cells if row in taken]
        if not places:
            continue
        more = f" and {len(places) - 1} more rows" if len(places) > 1 else ""
        given = f"{cells[places[0]][:40]!r} in {sheet.place(places[0])}{more}"
        raise Refused(name, given, "a number in each row, with one decimal mark in a file")


def _refuse_empty(sheet: Sheet, frame: pd.DataFrame, rows: np.ndarray, needs) -> None:
    """Refuses an empty cell in a column that the law reads."""
    counts = [name for name in PARAMETER_COUNTS if name in frame]
    named = {*needs, *(counts if "params" in needs and len(counts) == 1 else ())}
    for name in [n for n in frame if n in named and n not in TEXTS]:
        if _outcome(name) or not pd.api.types.is_numeric_dtype(frame[name]):
            continue
        empty = rows[frame[name].isna().to_numpy()[rows] & ~_diverged(frame)[rows]]
        if len(empty):
            raise Refused(name, f"nothing in {sheet.places(empty)}", "a number in each row")


def _with_loss(frame, rows, needs, notes, sheet: Sheet) -> np.ndarray:
    """The rows that have the loss, or what else is predicted; the others are counted."""
    for name in dict.fromkeys(("loss", *(n for n in needs if _outcome(n)))):
        if name not in frame:
            continue
        values = np.asarray(frame[name], float)[rows]
        # A diverged run has none to give; it is left out by its own name.
        without = ~np.isfinite(values) & ~_diverged(frame)[rows]
        if not without.any():
            continue
        places = rows[without]
        named = ""
        if "run" in frame:
            runs = [str(run) for run in frame["run"].iloc[places[:5]]]
            named = f" ({', '.join(runs)}{', ...' if len(places) > 5 else ''})"
        told = sheet.places(places)
        notes.append(f"left out, {len(places)} without a {name}: {told}{named}")
        rows = rows[~without]
    return rows


def _outcome(name: str) -> bool:
    return name.startswith(("loss", "error", "accuracy", "bits_per_byte"))


def _diverged(frame: pd.DataFrame) -> np.ndarray:
    """Which runs diverged, bool (rows,); a negative step says that one did not."""
    if "diverged_step" not in frame:
        return np.zeros(len(frame), bool)
    return np.asarray(frame["diverged_step"], float) >= 0
