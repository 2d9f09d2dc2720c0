"""A law of the learning-rate schedule fitted to a table of curves, and its best schedule."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fitting.expression import where as rows_where
from fitting.reading import read_table
from fitting.schedule_laws import explained, fit_curves, multi_power_law
from fitting.schedule_optimum import best_schedule, compared
from fitting.schedules import curves
from fitting.tables import aligned
from refused import Refused

_log = logging.getLogger("fitting")
_SHOWN = 6  # rows of the comparison of schedules


def schedule_report(
    table: str | Path,
    *,
    law: str = "multi_power",
    columns: Mapping[str, str] | None = None,
    by: str = "trunk",
    where: str | None = None,
    warmup: float = 0.0,
    steps: float | None = None,
    peak: float | None = None,
    end: float | None = None,
) -> str:
    """Fit whole loss curves, predict those that were not fitted, and seek the best schedule.

    Args:
      table: path of rows as `schedules.curves` reads them.
      columns: {name in the file: ours}.
      law: `multi_power` or `momentum`.
      by: the column that names the runs.
      where: the rows that are fitted, all by default; runs without such rows are predicted.
      warmup: steps of a rise from zero that a trace leaves out.
      steps: of the schedule that is sought; without any of the three none is.
      peak: its highest rate.
      end: its lowest rate.

    Returns:
      Markdown: parameters, R squared of every curve, the best schedule beside common ones.
    """
    given = {"steps": steps, "peak": peak, "end": end}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < 3:
        raise Refused(missing[0], "nothing", "steps, peak and end together")
    frame, notes = _read(table, columns, by)
    every = curves(frame, by, warmup)
    fitted = rows_where(frame, where) if where else np.ones(len(frame), bool)
    names = set(map(str, frame[by][fitted]))
    seen = [curve for curve in every if curve.name in names]
    if not seen:
        raise Refused("where", where, "a condition that some rows meet")
    parameters, objective = fit_curves(law, seen)
    built = multi_power_law(seen) if law == "multi_power" else None
    text = [f"# {law}: {len(seen)} curves, Huber objective {objective:.4g}", ""]
    rows = [[name, f"{value:.6g}"] for name, value in parameters.items()]
    text += [aligned(("parameter", "value"), rows)]
    text += [f"Source of the law: {built.source}.", ""] if built else []
    rows = [
        [curve.name, "fitted" if curve.name in names else "predicted", f"{share:.4f}"]
        for curve, share in zip(every, explained(law, parameters, every).values(), strict=True)
    ]
    text += [aligned(("curve", "", "R squared"), rows)]
    if not missing:
        text += _schedule_lines(law, parameters, given, warmup)
    text += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(text) + "\n"


def _read(table, columns, by):
    """(rows of all curves, notes), the notes said."""
    needs = ("step", "loss", "learning_rate")
    frame, notes = read_table(table, columns, needs=needs, curves=by)
    for note in notes:
        _log.warning(note)
    return frame, notes


def _schedule_lines(law, parameters, given, warmup) -> list[str]:
    how = {**given, "warmup": warmup}
    table = compared(law, parameters, **how)
    cells = [
        [row.schedule, "" if np.isnan(row.share) else f"{row.share:g}", f"{row.loss:.5f}"]
        for row in table.head(_SHOWN).itertuples()
    ]
    best = best_schedule(law, parameters, **how)
    return [
        f"## Schedules of {given['steps']:g} steps, by this law",
        "",
        aligned(("schedule", "share that decays", "loss"), cells),
        f"best: {best.text()}",
    ]
