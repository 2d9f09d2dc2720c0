"""Cells as numbers: what stands for a number and by which rule, or which cell is none.

Decimal marks are found, not assumed. A comma with three digits behind it is thousands in a column
of large counts and a decimal mark in any other; where the file says both, the cell is refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

MISSING = ("", "-", "--", "?", "nan", "na", "n/a", "#n/a", "<na>", "nil", "none", "null", "nat")
_SUFFIXES = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12}
_WORDS = r"(?:tokens?|toks?|params?|parameters?|flops?)"
_SUFFIXED = re.compile(rf"(.+?)\s*([kmbgt])\s*(?:t|{_WORDS})?", re.IGNORECASE)
_NAMED = re.compile(rf"(.+?)\s*{_WORDS}", re.IGNORECASE)
_POWERED = re.compile(r"(?:(.+?)\s*[x×*·⋅]\s*)?(2|10)\s*(?:\^|\*\*)\s*([+-]?\d{1,3})")
_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_SPACED = re.compile(r"[+-]?\d{1,3}(?:([ _'’\u00a0\u2009\u202f])\d{3})(?:\1\d{3})*(?:[.,]\d+)?")
_GROUPED = {mark: re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:\{mark}\d{{3}})+") for mark in ",."}
_DECIMAL = {mark: re.compile(rf"[+-]?\d*\{mark}\d+(?:[eE][+-]?\d+)?") for mark in ",."}
_BOTH = {
    ",": re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+"),
    ".": re.compile(r"[+-]?\d{1,3}(?:,\d{3})+\.\d+"),
}


@dataclass(frozen=True)
class Numbers:
    """A column as numbers, NaN where a cell is empty or none.

    rules: {rule: (a cell, its number, cells read by it)}; bad: {row: cell} of what is no number.
    """

    values: np.ndarray
    rules: dict[str, tuple[str, float, int]]
    bad: dict[int, str]

    def notes(self, name: str) -> list[str]:
        """What was repaired and how, one line for each rule."""
        return [
            f"{name}: {cell!r} read as {value:.10g} ({rule}; {count} cells)"
            for rule, (cell, value, count) in self.rules.items()
        ]


def as_numbers(cells: pd.Series, count: bool, file_marks: frozenset = frozenset()) -> Numbers:
    """Texts, or typed cells, as numbers.

    Args:
      cells: a column, rows counted from 0.
      count: whether it holds large whole numbers, in which suffixes and thousands separators are
        read.
      file_marks: `decimal_marks` of the whole file.
    """
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
        return Numbers(cells.to_numpy(), {}, {})
    values = pd.to_numeric(cells, errors="coerce")
    if not pd.api.types.is_numeric_dtype(values):
        values = values.astype(float)
    unread = np.flatnonzero(values.isna().to_numpy())
    texts = cells.iloc[unread].map(lambda cell: "" if pd.isna(cell) else str(cell).strip())
    texts = texts[~texts.str.lower().isin(MISSING)] if len(texts) else texts
    grouped = count and _dotted_groups(texts)
    if texts.empty and not (count and file_marks == {","}):
        return Numbers(values.to_numpy(), {}, {})
    return _repaired(cells, values, texts, count, file_marks, grouped)


def _repaired(cells, values, texts, count, file_marks, grouped) -> Numbers:
    marks = decimal_marks(cells)
    if grouped or (count and file_marks == {","}):
        # Dots are thousands here, in cells too that read as numbers by themselves.
        dotted = cells[cells.map(lambda c: bool(_GROUPED["."].fullmatch(str(c).strip())))]
        texts = pd.concat([texts, dotted[~dotted.index.isin(texts.index)]])
        marks = marks | {","} if not marks else marks
    values = values.to_numpy(float).copy()
    rules, bad = {}, {}
    known = {text: _number(text, count, marks, file_marks) for text in texts.unique()}
    for row, text in texts.items():
        value, rule = known[text]
        if value is None:
            bad[row], values[row] = text, np.nan
            continue
        values[row] = value
        first = rules.get(rule, (text, value, 0))
        rules[rule] = (*first[:2], first[2] + 1)
    return Numbers(values, rules, dict(sorted(bad.items())))


def decimal_marks(texts: Iterable) -> frozenset:
    """The decimal marks that cells show beyond doubt: a point, a comma, both, or none."""
    found = set()
    for text in pd.unique(pd.Series(list(texts), dtype=object)):
        text = str(text).strip()
        for mark in ",.":
            sure = _DECIMAL[mark].fullmatch(text) and not _GROUPED[mark].fullmatch(text)
            if sure or _BOTH[mark].fullmatch(text):
                found.add(mark)
        if len(found) == 2:
            break
    return frozenset(found)


def _dotted_groups(texts: pd.Series) -> bool:
    """Whether some cell has several groups of three behind dots, as 19.200.000."""
    return any(t.count(".") > 1 and _GROUPED["."].fullmatch(t) for t in texts.unique())


def _number(text: str, count: bool, marks, file_marks) -> tuple[float | None, str]:
    """(number, rule), or (None, "") for a text that is no number by any rule."""
    text = text.replace("\u2212", "-")
    if count:
        for pattern, rule in (
            (_POWERED, "a power is written out"),
            (_SUFFIXED, "k, M, B, T are 10^3, 10^6, 10^9, 10^12"),
            (_NAMED, "the unit's name is left out"),
        ):
            if found := pattern.fullmatch(text):
                value = _scaled(pattern, found, marks, file_marks)
                if value is not None:
                    return value, rule
    value, rule = _marked(text, count, marks, file_marks)
    return (None, "") if value is None else (value, rule or "a minus sign is a hyphen")


def _scaled(pattern, found, marks, file_marks) -> float | None:
    body = (found[1] or "1").strip()
    if pattern is _SUFFIXED and _GROUPED[","].fullmatch(body):
        return None  # 1,500M is 1.5 or 1,500 million
    value, _ = _marked(body, pattern is _NAMED, marks, file_marks)
    if value is None:
        return None
    if pattern is _POWERED:
        return value * float(found[2]) ** int(found[3])
    power = _SUFFIXES[found[2].lower()] if pattern is _SUFFIXED else 0
    digits = repr(value)
    return float(f"{digits}e{power}") if "e" not in digits else value * 10.0**power


def _marked(text: str, count: bool, marks, file_marks) -> tuple[float | None, str]:
    """A number with its decimal mark and thousands separators."""
    if _PLAIN.fullmatch(text) and not (_GROUPED["."].fullmatch(text) and "," in marks):
        return float(text), ""
    if spaced := _SPACED.fullmatch(text):
        text = text.replace(spaced[1], "")
        if not count:
            return None, ""
        value, _ = _marked(text, False, marks, file_marks)
        return value, "groups of three digits are thousands"
    for mark, other in ((",", "."), (".", ",")):
        if _BOTH[mark].fullmatch(text) and count and other not in marks:
            return float(text.replace(other, "").replace(mark, ".")), f"{mark} is the decimal mark"
    if count and _GROUPED["."].fullmatch(text) and "." not in marks and "," in marks:
        return float(text.replace(".", "")), "groups of three digits are thousands"
    if _GROUPED[","].fullmatch(text):
        several = text.count(",") > 1
        if count and "," not in marks and (several or file_marks != {","}):
            return float(text.replace(",", "")), "groups of three digits are thousands"
        if count or several or "." in (marks or file_marks):
            return None, ""
        return float(text.replace(",", ".")), ", is the decimal mark"
    if _DECIMAL[","].fullmatch(text) and "." not in marks:
        return float(text.replace(",", ".")), ", is the decimal mark"
    return None, ""
