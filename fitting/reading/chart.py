"""A tracker's chart, one column a run, as the rows of a table: Weights & Biases' export of a chart.

Its columns are the steps and then, for each run, `RUN - METRIC` with `__MIN` and `__MAX` beside it.
"""

import re

import numpy as np
import pandas as pd

from fitting.reading.cells import MISSING
from fitting.reading.sheet import Sheet
from refused import Refused

_COLUMN = re.compile(r"(.+) - (\S.*?)(__MIN|__MAX)?")
_ENDS = ("__MIN", "__MAX")


def without_chart(sheet: Sheet, curves: bool) -> Sheet:
    """The sheet itself, or of a chart a row for each run with its last value, or for each step.

    Args:
      curves: every step rather than the last one.

    Raises:
      Refused: a chart of several metrics.
    """
    names = list(map(str, sheet.frame.columns))
    runs = _runs(names)
    if runs is None:
        return sheet
    metrics = list(dict.fromkeys(metric for metric, _ in runs.values()))
    if len(metrics) > 1:
        accepted = "a chart of one of them, or the export of the table of runs"
        raise Refused("table", f"a chart of {', '.join(metrics)}", accepted)
    steps, parts = names[0], []
    for column, (metric, run) in runs.items():
        there = np.flatnonzero(~_missing(sheet.frame[column]).to_numpy())
        there = there if curves else there[-1:]
        rows = sheet.frame.iloc[there][[steps, column]].set_axis([steps, metric], axis=1)
        rows.insert(0, "run", run)
        parts.append((rows, there))
    frame = pd.concat([rows for rows, _ in parts], ignore_index=True)
    which = "every value" if curves else "the last value"
    told = f"a chart of {len(runs)} runs, a column each: {which} of {metrics[0]} is read"
    places = np.concatenate([there for _, there in parts])
    lines = None if sheet.lines is None else np.asarray(sheet.lines)[places]
    return Sheet(frame, lines, (*sheet.notes, told))


def _runs(names: list[str]) -> dict[str, tuple[str, str]] | None:
    """{column: (metric, run)} of a chart's columns, None of any other table."""
    found = [_COLUMN.fullmatch(name) for name in names[1:]]
    if not found or not all(found):
        return None
    whole = {one[0]: (one[2], one[1]) for one in found if not one[3]}
    ends = {one[0] for one in found if one[3]}
    if not whole or ends != {name + end for name in whole for end in _ENDS}:
        return None
    return whole


def _missing(cells: pd.Series) -> pd.Series:
    return cells.isna() | cells.astype(str).str.strip().str.lower().isin({"", *MISSING})
