"""Files by what they are: text tables, JSON lines, Parquet, workbooks, TensorBoard and stores."""

import bz2
import gzip
import json
import lzma
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from fitting.reading.dialect import parsed
from fitting.reading.sheet import Sheet
from refused import Refused

_PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_DAMAGED = (zlib.error, lzma.LZMAError)
_FORMATS = ".csv, .tsv, .txt, .jsonl, .parquet or .xlsx (text also packed, as .csv.gz)"


def sheet_of(path: str | Path | pd.DataFrame, curves: bool = False) -> Sheet:
    """The cells of a table, wherever it is.

    Args:
      path: a DataFrame, a file that ends in one of `_FORMATS`, a workbook's sheet as
        FILE.xlsx:SHEET, a folder of TensorBoard files, a store of ours or one of its studies.
      curves: every step of TensorBoard's runs rather than the last one.

    Raises:
      Refused: no such file, another kind of file, a damaged one, or one whose reader is missing.
    """
    if isinstance(path, pd.DataFrame):
        return Sheet(path.reset_index(drop=True))
    text = str(path)
    file, part = Path(text), ""
    if not file.exists() and ".xls" in text and ":" in text:
        name, _, part = text.rpartition(":")
        file = Path(name)
    if file.is_dir():
        return _folder(file, curves)
    if not file.is_file():
        raise Refused("table", text, f"an existing file in {_FORMATS}, a folder, or published:NAME")
    suffix = file.suffix.lower()
    unpack = _PACKED.get(suffix)
    kind = Path(file.stem).suffix.lower() if unpack else suffix
    reader = _READERS.get(kind)
    if reader is None or (unpack and reader is not _text):
        raise Refused("table", text, f"a file that ends in {_FORMATS}")
    try:
        if reader is _text:
            data = file.read_bytes()
            return _text(unpack(data) if unpack else data, text, kind)
        return reader(file, part)
    except Refused:
        raise
    except (ValueError, OSError, EOFError, KeyError, TypeError, *_DAMAGED) as error:
        why = " ".join(str(error).split())[:200]
        raise Refused("table", text, f"a readable table ({why})") from None


def _text(data: bytes, source: str, kind: str) -> Sheet:
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(data, source)
    return parsed(data, source)


def _json_lines(data: bytes, source: str) -> Sheet:
    """One object a line; nested ones become names with a slash."""
    rows, lines = [], []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except ValueError as error:
            given = f"{source}, line {number}"
            raise Refused("table", given, f"a JSON object on each line ({error})") from None
        if not isinstance(row, dict):
            raise Refused("table", f"{source}, line {number}", "a JSON object on each line")
        rows.append(row)
        lines.append(number)
    if not rows:
        raise Refused("table", source, "a readable table (it has no rows)")
    frame = pd.json_normalize(rows, sep="/")
    return Sheet(_cells(frame), np.array(lines, int))


def _object(pairs) -> dict:
    """A JSON object, whose names are there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} twice")
    return found


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Typed columns; texts as Python's own, so that they are read by the same rules as a CSV's."""
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].astype(object)
    return frame


def _parquet(file: Path, part: str) -> Sheet:
    return Sheet(_cells(pd.read_parquet(file).reset_index(drop=True)))


def _workbook(file: Path, part: str) -> Sheet:
    """A workbook's only sheet with something on it, or the one named."""
    try:
        sheets = pd.read_excel(file, sheet_name=None, header=None, dtype=object, na_filter=False)
    except ImportError as error:
        raise Refused("table", str(file), f"a CSV file, or: {error}") from None
    full = {name: cells for name, cells in sheets.items() if len(cells)}
    if part and part not in full:
        raise Refused("table", f"{file}:{part}", ", ".join(f"{file}:{name}" for name in full))
    if not part and len(full) != 1:
        choices = ", ".join(f"{file}:{name}" for name in full) or "a sheet with rows"
        raise Refused("table", f"{file} with {len(full)} sheets", choices)
    cells = full[part or next(iter(full))]
    blank = (cells == "").all(axis=1).to_numpy()
    lines = np.flatnonzero(~blank) + 1
    cells = cells[~blank].reset_index(drop=True)
    header = [str(cell).strip() for cell in cells.iloc[0]]
    twice = [name for place, name in enumerate(header) if name and name in header[:place]]
    if twice:
        raise Refused("table", f"{twice[0]} twice", "a column once")
    numbers = pd.to_numeric(pd.Series(header), errors="coerce").notna().sum()
    if 2 * numbers >= sum(map(bool, header)):
        raise Refused("table", f"numbers in the first row of {file}", "a row of names first")
    rows = cells.iloc[1:].reset_index(drop=True).set_axis(header, axis=1)
    return Sheet(rows.astype(object), lines[1:])


def _folder(folder: Path, curves: bool) -> Sheet:
    """A study of our own, a store with one study, or a folder of TensorBoard files."""
    tables = [folder / "runs.parquet", *sorted(folder.glob("studies/*/runs.parquet"))]
    found = [file for file in tables if file.is_file()]
    if len(found) > 1:
        raise Refused("table", str(folder), ", ".join(str(file.parent) for file in found))
    if found:
        return _parquet(found[0], "")
    if not any(folder.rglob("*tfevents*")):
        accepted = "an existing file, a store with a study, or a folder of TensorBoard files"
        raise Refused("table", str(folder), f"{accepted}; published:NAME for a packaged table")
    return _tensorboard(folder, curves)


def _tensorboard(folder: Path, curves: bool) -> Sheet:
    """A row for each run with the last value of every scalar, or one for each of its steps."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise Refused("table", str(folder), f"a CSV file, or tensorboard ({error})") from None
    parts = []
    for place in sorted({file.parent for file in folder.rglob("*tfevents*")}):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in _scalars(events)}
        points |= _tensors(events)
        series = {t: pd.Series(dict(p), dtype=float) for t, p in points.items() if p}
        if not series:
            continue
        rows = pd.DataFrame(series).rename_axis("step").reset_index()
        if not curves:
            last = {tag: values.iloc[-1] for tag, values in series.items()}
            rows = pd.DataFrame([{"step": rows["step"].iloc[-1], **last}])
        rows.insert(0, "run", str(place.relative_to(folder)))
        parts.append(rows)
    if not parts:
        raise Refused("table", str(folder), "TensorBoard files with scalars")
    return Sheet(_cells(pd.concat(parts, ignore_index=True)))


def _scalars(events) -> list[str]:
    return events.Tags()["scalars"]


def _tensors(events) -> dict[str, list]:
    """Scalars of writers that keep them as tensors of one number."""
    from tensorboard.util.tensor_util import make_ndarray

    found = {}
    for tag in events.Tags()["tensors"]:
        values = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        if values and all(value.size == 1 and value.dtype.kind in "fiu" for _, value in values):
            found[tag] = [(step, float(value)) for step, value in values]
    return found


_READERS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".dat", ".jsonl", ".ndjson"), _text),
    ".parquet": _parquet,
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods"), _workbook),
}
