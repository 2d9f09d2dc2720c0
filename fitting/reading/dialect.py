"""Text tables: the encoding, the delimiter, comments, the header, and rows of equal length.

Python's csv module splits the rows, since it lets every row's length be counted: pandas fills short
rows, and moves long ones by a column. Where a file has neither quotes nor comments and its lines
are counted to be equally long, pandas splits it, many times faster.
"""

import codecs
import csv
import io
import re
from collections import Counter

import numpy as np
import pandas as pd

from fitting.columns import TEXTS
from fitting.reading.sheet import Sheet
from refused import Refused

_MARKS = (  # byte order marks, the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = (",", "\t", ";", "|", " ")
_HEAD = 100_000  # characters of the beginning
_SAMPLE = 60  # rows from which the delimiter is found
_NUMBER = re.compile(r"[+-]?[.,]?\d[\d.,]*(?:[eE][+-]?\d+)?")
_TEXT = "a text file with a header line"


def parsed(data: bytes, source: str, delimiter: str | None = None) -> Sheet:
    """The cells of a text table, each as it is written, spaces around it left out.

    Lines that start with # are comments, blank ones are skipped; a # inside a row is a character.

    Args:
      data: the file.
      source: what it is called in a refusal.
      delimiter: found where it is None.

    Raises:
      Refused: no text, no header, a name given twice, quotes that do not close, or a row that is
        longer or shorter than the header.
    """
    text, notes = _decoded(data, source)
    if text.startswith("sep=") and len(text) > 5 and text[5] in "\r\n":
        delimiter, text = text[4], f"\n{text[6:].lstrip(chr(10))}"  # a spreadsheet says its own
    comments: list[tuple[int, str]] = []
    delimiter = delimiter or _delimiter(text)
    frame = _plain(text, delimiter)
    if frame is not None:
        _check_header(list(frame.columns), source)
        return Sheet(frame, np.arange(2, len(frame) + 2), tuple(notes))
    rows, lines = _rows(text, delimiter, source, comments)
    if not rows:
        raise Refused("table", source, "a readable table (it has no rows)")
    header, rows, lines = _header(rows, lines, comments, delimiter, notes)
    rows, lines = _without_repeats(header, rows, lines, notes)
    header = _fitted(header, rows, lines)
    _check_header(header, source)
    if comments:
        notes.append(_commented(comments, delimiter, len(header)))
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    series = [pd.Series(list(map(str.strip, cells)), dtype=object) for cells in columns]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame()
    return Sheet(frame.set_axis(header, axis=1), np.array(lines, int), tuple(filter(None, notes)))


def _decoded(data: bytes, source: str) -> tuple[str, list[str]]:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    zeros = [data[start:2000:2].count(0) for start in (0, 1)]
    if encoding is None and max(zeros) > len(data[:2000]) / 8:
        encoding = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    notes = []
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding is not None:
            raise Refused("table", source, f"a readable table (no {encoding} text)") from None
        # Every byte but five is a letter there: spreadsheets write it where they are not asked.
        text = data.decode("cp1252", errors="replace")
        notes.append("the file is no UTF-8: read as Windows-1252")
    head = text[:20_000]
    if any(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in head):
        raise Refused("table", source, _TEXT)
    return text, notes


def _lines(text: str, comments: list[tuple[int, str]]):
    """Physical lines; comments, which are appended to the list, as blank ones."""
    inside = False  # a quoted cell that goes on over several lines
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if not inside and line.lstrip(" ").startswith("#"):
            comments.append((number, line.strip(" \r\n")))
            yield "\n"
            continue
        if '"' in line:
            inside ^= bool(line.count('"') % 2)
        yield line


def _reader(lines, delimiter: str):
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)


def _delimiter(text: str) -> str:
    """The delimiter that gives most rows of the beginning the header's length, the longest one."""
    best, found, text = ",", (), text[: text.find("\n", _HEAD) + 1 or len(text)]
    for delimiter in _DELIMITERS:
        if delimiter == " " and found:  # Names of columns may have spaces in them.
            break
        lengths, stray, reader = [], False, _reader(_lines(text, []), delimiter)
        try:
            for row in reader:
                if any(map(str.strip, row)):
                    stray = stray or (not lengths and any('"' in cell for cell in row))
                    lengths.append(len(row))
                if len(lengths) > _SAMPLE:
                    break
        except csv.Error:
            pass  # What comes before tells the delimiter; the error is told when rows are read.
        if not lengths or lengths[0] < 2:
            continue
        # A trailing delimiter and a column of row numbers make rows longer by one.
        apart = np.abs(np.array(lengths[1:] or lengths) - lengths[0])
        rank = (not stray, lengths[0], float(np.mean(apart == 0)))
        if np.mean(apart <= 1) > 0.5 and rank > found:
            best, found = delimiter, rank
    return best


def _rows(text, delimiter, source, comments) -> tuple[list[list[str]], list[int]]:
    """Rows that are not blank, and the line on which each begins."""
    rows, lines, begin = [], [], 1
    reader = _reader(_lines(text, comments), delimiter)
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                rows.append(row)
                lines.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        given = f"{source}, line {reader.line_num}"
        raise Refused("table", given, f"a readable table ({error})") from None
    blank = [place for place, row in enumerate(rows) if not any(map(str.strip, row))]
    for place in reversed(blank):
        del rows[place], lines[place]
    return rows, lines


def _plain(text: str, delimiter: str) -> pd.DataFrame | None:
    """The cells of a file that needs no care, columns of numbers as numbers; None for another.

    It has no quote, comment, blank line, second header or cell that could have a decimal comma, and
    as many delimiters in every line as in the first.
    """
    first = text[: text.find("\n") + 1]
    header = [name.strip() for name in first.split(delimiter)]
    odd = '"' in text or delimiter == " " or "\r" in text.replace("\r\n", "") or "\f" in text
    odd = odd or "\n#" in text or "\n " in text or text[:1] in "# " or text.count(first) != 1
    if odd or not first or (delimiter != "," and "," in text) or not all(header):
        return None
    data = np.frombuffer(text.encode(), np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    marks = np.searchsorted(np.flatnonzero(data == ord(delimiter)), ends)
    if np.any(np.diff(marks, prepend=0) != len(header) - 1) or _mostly_numbers(header):
        return None
    if len(header) == 1 and np.any(np.diff(ends) <= 2):
        return None
    if len(ends) == 1 or len(set(header)) < len(header):
        return None
    # Ids keep their zeros; only an empty cell is missing.
    kinds = {place: str for place, name in enumerate(header) if name in TEXTS}
    how = dict(sep=delimiter, header=None, skiprows=1, skipinitialspace=True, dtype=kinds)
    frame = pd.read_csv(
        io.StringIO(text), keep_default_na=False, na_values=[""], index_col=False, **how
    )
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            cells = [_stripped(cell) for cell in frame[name].to_numpy(object)]
            frame[name] = pd.Series(cells, dtype=object)
    return frame.set_axis(header, axis=1)


def _stripped(cell):
    return cell.strip() if isinstance(cell, str) else "" if pd.isna(cell) else cell


def _header(rows, lines, comments, delimiter, notes):
    """(names, rows, lines); a header in the comment above the numbers is found there."""
    header = [cell.strip() for cell in rows[0]]
    if not _mostly_numbers(header):
        return header, rows[1:], lines[1:]
    above = [line for number, line in comments if number < lines[0]]
    if above:
        names = next(_reader([above[-1].lstrip("# ")], delimiter))
        if len(names) == len(header) and not _mostly_numbers(names):
            notes.append("the header is read from the comment above the first row")
            return [name.strip() for name in names], rows, lines
    given = f"numbers on line {lines[0]}: {', '.join(header)[:60]}"
    raise Refused("table", given, _TEXT)


def _mostly_numbers(cells) -> bool:
    given = [cell.strip() for cell in cells if cell.strip()]
    return bool(given) and 2 * sum(map(bool, map(_NUMBER.fullmatch, given))) >= len(given)


def _without_repeats(header, rows, lines, notes):
    """Rows without those that repeat the header, as files put one after the other have."""
    again = {place for place, row in enumerate(rows) if [c.strip() for c in row] == header}
    if again:
        notes.append(f"left out, the header again: {len(again)} rows")
        rows = [row for place, row in enumerate(rows) if place not in again]
        lines = [line for place, line in enumerate(lines) if place not in again]
    return rows, lines


def _fitted(header, rows, lines) -> list[str]:
    """The header of rows that are all as long as it; rows are changed where every one is off.

    Every row may end in one delimiter more than the header, or the header in more than the rows,
    and a column of row numbers may have no name. A single row that is off moved its cells.
    """
    lengths = Counter(map(len, rows))
    while header and header[-1] == "" and lengths and max(lengths) < len(header):
        header = header[:-1]
    width = len(header)
    if not lengths or set(lengths) == {width}:
        return header
    if set(lengths) == {width + 1}:
        if not any(row[-1].strip() for row in rows):
            for row in rows:
                row.pop()
            return header
        first = [row[0].strip() for row in rows]
        if any(first == [str(start + n) for n in range(len(rows))] for start in (0, 1)):
            return ["", *header]
    row = next(place for place, cells in enumerate(rows) if len(cells) != width)
    given = f"row {row + 1} (line {lines[row]}) with {len(rows[row])} cells"
    accepted = (
        f"a readable table: {width} cells in each row, as in the header; quotes around a cell"
    )
    raise Refused("table", given, f"{accepted} that holds the delimiter")


def _check_header(header, source):
    if not all(map(str.isprintable, header)):
        raise Refused("table", source, _TEXT)
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise Refused("table", f"{twice[0]} twice", "a column once")


def _commented(comments, delimiter, width) -> str:
    """A note where comment lines look like rows; others are what comments are for."""
    rows = [
        number
        for number, line in comments
        if len(cells := next(_reader([line.lstrip("# ")], delimiter), [])) in (width, width + 1)
        and width > 1
        and any(pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").notna())
    ]
    if not rows:
        return ""
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"left out, comments that look like rows: {len(rows)} (line {shown})"
