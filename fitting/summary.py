"""What a person reads of a fit: about ten lines, or a table in a notebook."""

import html

import numpy as np

from fitting import tables
from fitting.fitted import Fitted


def summary(result: Fitted) -> str:
    """Law, runs, parameters with intervals, what the data leave open, and errors."""
    law, rows = result.law, tables.rows(result)
    width = max(len(row["parameter"]) for row in rows)
    text = [f"{law.name}: {law.formula}", _basis(result)]
    for row in rows:
        value, ends = told(row["value"], row["low"], row["high"])
        line = f"  {row['parameter']:<{width}}  {value:<10} {ends:<24} {row['unit']}".rstrip()
        text.append(line + (f"  [{row['verdict']}]" if _open(row["verdict"]) else ""))
    text.append(_intervals(result))
    return "\n".join([*text, _errors(result)])


def as_html(result: Fitted) -> str:
    """The same as a table for a notebook; every word is text."""
    cells = []
    for row in tables.rows(result):
        shown = told(row["value"], row["low"], row["high"])
        cells.append((row["parameter"], *shown, row["unit"], row["verdict"]))
    titles = ("parameter", "value", "interval", "unit", "verdict")
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in cells
    )
    lines = (f"{result.law.name}: {result.law.formula}", _basis(result))
    above = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    below = "".join(
        f"<div>{html.escape(line)}</div>" for line in (_intervals(result), _errors(result))
    )
    return f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def digits(value: float, low, high) -> int:
    """Significant digits that an interval justifies: one beyond the first that is open, 3 to 6."""
    if low is None or not np.isfinite([low, high]).all() or high <= low or value == 0:
        return 4
    known = np.log10(abs(value) / (high - low))
    return int(np.clip(np.ceil(known) + 2, 3, 6))


def told(value: float, low=None, high=None) -> tuple[str, str]:
    """A value and its interval with the digits that the interval justifies."""
    count = digits(value, low, high)
    shown = f"{value:#.{count}g}".rstrip(".")
    if low is None:
        return shown, ""
    return shown, f"({low:#.{count}g} to {high:#.{count}g})".replace(". ", " ").replace(".)", ")")


def _open(verdict: str) -> bool:
    return bool(verdict) and verdict != "identified"


def _basis(result: Fitted) -> str:
    kept = f" and {len(result.held_out)} held out" if len(result.held_out) else ""
    count = f"; params = {result.params}" if result.params else ""
    return f"{len(result.observations)} runs{kept}; {result.objective}{count}"


def _intervals(result: Fitted) -> str:
    if not result.intervals:
        return f"intervals: {result.interval_method}"
    return f"{result.level:.0%} intervals: {result.interval_method}"


def _errors(result: Fitted) -> str:
    miss = np.expm1(result.residuals["residual"].to_numpy(float))
    text = f"root mean square error: fitted {np.sqrt(np.mean(miss**2)):.2%}"
    kept = result.held_out
    if len(kept):
        text += f", held out {np.sqrt(np.mean(kept['relative_error'] ** 2)):.2%}"
        if result.intervals:
            inside = (kept["observed"] >= kept["low"]) & (kept["observed"] <= kept["high"])
            text += f" ({int(inside.sum())} of {len(kept)} inside their interval)"
    return text
