"""A table of runs with named, unit-carrying columns, checked before any law sees it."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fitting.columns import COLUMNS, PARAMETER_COUNTS, POSITIVE, finite, numbers
from fitting.expression import where as rows_where
from fitting.reading import NEEDS, plain_frame, read_table
from fitting.reading.formats import sheet_of
from fitting.reading.units import meanings
from refused import Refused

_log = logging.getLogger("fitting")


@dataclass(frozen=True)
class Observations:
    """Finished runs, one per row, and what was left out or looked odd.

    `frame` holds any of `COLUMNS` (units there). A missing `run` is numbered from the row; a
    missing `trunk` makes every run its own trunk. Runs with a `diverged_step` are left out, and so
    are rows that repeat another one in every column.

    Raises:
      Refused: no rows, a column given twice, text where a number belongs, empty or duplicated run
        ids, empty trunks, NaN or non-positive losses, non-positive counts, mixture shares outside
        [0, 1].
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        frame, notes = _checked(self.frame.copy(), list(self.notes))
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "notes", tuple(notes))

    @classmethod
    def read(
        cls,
        path: "str | Path | pd.DataFrame | Observations",
        columns: Mapping[str, str] | None = None,
        where: str | None = None,
        needs: Iterable[str] = NEEDS,
    ) -> "Observations":
        """Read anybody's table, or a packaged one as `published:NAME` or `published:NAME:SUBSET`.

        Args:
          path: file, folder or DataFrame as `reading.formats.sheet_of` takes it, or
            `published:NAME[:SUBSET]`; observations are taken as they are.
          columns: {name in the file: name in `COLUMNS`, with its unit as in `params_total[M]`}.
          where: condition on the rows that are taken, as `expression.where` reads it.
          needs: what is meant to be fitted, so that it is sought under other names.

        Raises:
          Refused: as `reading.read_table`; unknown published name.
        """
        if isinstance(path, Observations):
            return path.only(rows_where(path.frame, where)) if where else path
        if not isinstance(path, str) or not path.startswith("published:"):
            frame, notes = read_table(path, columns, needs=needs, where=where)
            for text in notes:
                _log.warning(text)
            return cls(frame, tuple(notes))
        frame = read_frame(path)
        meant = meanings(columns or {}, frame, needs)
        named = {theirs: one.ours for theirs, one in meant.items()}
        clash = set(named.values()) & (set(frame) - set(named))
        notes = []
        for name in sorted(clash):
            _note(notes, f"{name}: the table's own column gives way to the one mapped to it")
        converted = {name: one.converted(frame[name], frame) for name, one in meant.items()}
        frame = frame.assign(**converted).drop(columns=list(clash)).rename(columns=named)
        read = cls(frame, tuple(notes))
        return read.only(rows_where(read.frame, where)) if where else read

    def __len__(self) -> int:
        return len(self.frame)

    def only(self, mask) -> "Observations":
        """The rows where `mask` (bool, one per row) holds."""
        frame = self.frame[np.asarray(mask, bool)].reset_index(drop=True)
        if not len(frame):
            raise Refused("table", "0 rows", "at least one finished run")
        part = object.__new__(Observations)  # What was checked and said of the table holds of it.
        object.__setattr__(part, "frame", frame)
        object.__setattr__(part, "notes", self.notes)
        return part

    def column(self, name: str) -> np.ndarray:
        """One numeric column, shape (rows,); Refused if it is missing or holds NaN."""
        if name not in self.frame:
            raise Refused("column", name, f"one of {', '.join(map(str, self.frame))}")
        return finite(self.frame[name], name)

    def params_column(self, params: str | None = None) -> str:
        """The parameter count meant: the one named, else the only one in the table.

        Raises:
          Refused: none or several counts and none named.
        """
        present = [name for name in PARAMETER_COUNTS if name in self.frame]
        if params is not None:
            if params not in present:
                raise Refused("params", params, f"one of {', '.join(present) or 'none present'}")
            return params
        if not present:
            accepted = f"one of {', '.join(PARAMETER_COUNTS)}, or a column mapped to one of them"
            raise Refused("params", f"a table with {', '.join(map(str, self.frame))}", accepted)
        if len(present) > 1:
            raise Refused("params", ", ".join(present), "exactly one, named as params")
        return present[0]


def read_frame(path: str | Path) -> pd.DataFrame:
    """The table behind a path or `published:NAME` with its own columns; Refused as in `read`."""
    text = str(path)
    if text.startswith("published:"):
        name, _, subset = text.removeprefix("published:").partition(":")
        folder = Path(__file__).parent / "published"
        known = {file.name.split(".")[0]: file for file in sorted(folder.glob("*.csv*"))}
        if name not in known:
            raise Refused("table", text, ", ".join(f"published:{key}" for key in known))
        frame = pd.read_csv(known[name], comment="#")
        return _subset(frame, name, subset) if subset else frame
    return plain_frame(sheet_of(path))


def _subset(frame: pd.DataFrame, name: str, subset: str) -> pd.DataFrame:
    """Rows of one subset; rows whose subset is empty belong to all of them."""
    if "subset" not in frame:
        raise Refused("table", f"published:{name}:{subset}", f"published:{name}")
    known = sorted(frame["subset"].dropna().astype(str).unique())
    if subset not in known:
        options = ", ".join(f"published:{name}:{value}" for value in known)
        raise Refused("table", f"published:{name}:{subset}", options)
    rows = frame["subset"].isna() | (frame["subset"].astype(str) == subset)
    return frame[rows].reset_index(drop=True)


def _checked(frame: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, list[str]]:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise Refused("table", f"{twice[0]} twice", "a column once")
    ids = "run" in frame and frame["run"].is_unique  # Then no row repeats another one.
    again = frame.duplicated() if not ids else pd.Series(False, frame.index)
    if again.any():
        _note(notes, f"dropped, exact duplicates of other rows: {int(again.sum())}")
        frame = frame[~again].reset_index(drop=True)
    if "run" not in frame:
        frame["run"] = [f"run{index}" for index in range(len(frame))]
    for name in ("run", "trunk"):
        if name in frame and frame[name].isna().any():
            given = f"{int(frame[name].isna().sum())} empty"
            raise Refused(name, given, f"an id in each row, or no column {name}")
    repeated = [] if ids else frame["run"][frame["run"].duplicated()].unique()
    if len(repeated):
        accepted = "one row per run id; --columns='run=trunk' for checkpoints of one run"
        raise Refused("run", ", ".join(map(str, repeated[:5])), accepted)
    if "diverged_step" in frame:
        # A negative step is how some say that a run did not diverge.
        diverged = numbers(frame["diverged_step"], "diverged_step") >= 0
        if diverged.any():
            names = ", ".join(map(str, frame["run"][diverged]))
            _note(notes, f"left out, diverged: {names}")
            frame = frame[~diverged].reset_index(drop=True)
    if not len(frame):
        raise Refused("table", "0 rows", "at least one finished run")
    if "trunk" not in frame:
        frame["trunk"] = frame["run"].astype(str)
    for name in frame:
        if name == "loss" or str(name).startswith("loss."):
            values = numbers(frame[name], name)
            # A domain that was not measured may be empty; `column` refuses it when it is used.
            bad = ~(values > 0) | np.isinf(values)
            if name != "loss":
                bad &= ~np.isnan(values)
            if bad.any():
                run = frame["run"].to_numpy()[bad][0]
                accepted = "a positive loss in nats/token"
                if np.nanmax(values) <= 0:
                    named = f"--columns='{name}={name}[log_likelihood]'"
                    accepted += f"; of log-likelihoods, {named} takes the negative"
                raise Refused(name, f"{values[bad][0]:g} in run {run}", accepted)
            middle = np.median(values[~np.isnan(values)]) if not np.isnan(values).all() else 0.0
            if middle > 20:
                _note(notes, f"{name}: median {middle:g} nats/token; a perplexity?")
        elif name in POSITIVE:
            values = numbers(frame[name], name)
            if (values <= 0).any():
                raise Refused(name, values[values <= 0][0], f"positive {COLUMNS[name]}")
            if name in (*PARAMETER_COUNTS, "tokens", "unique_tokens") and np.median(values) < 1e3:
                fix = f"--columns='{name}={name}[M]', or [B]"
                told = f"median {np.median(values):g}; counted in millions or billions? {fix}"
                _note(notes, f"{name}: {told}")
        elif str(name).startswith(("mixture.", "error.", "accuracy")):
            values = numbers(frame[name], name)
            if ((values < 0) | (values > 1)).any():
                raise Refused(name, values[(values < 0) | (values > 1)][0], "a share from 0 to 1")
    _check_flops(frame, notes)
    return frame, notes


def _check_flops(frame: pd.DataFrame, notes: list[str]):
    counts = [name for name in PARAMETER_COUNTS if name in frame]
    if "flops" not in frame or "tokens" not in frame or not counts:
        return
    rule = 6.0 * np.asarray(frame[counts[-1]], float) * np.asarray(frame["tokens"], float)
    ratio = float(np.nanmedian(np.asarray(frame["flops"], float) / rule))
    if not 0.1 < ratio < 30:
        _note(notes, f"flops: median {ratio:.3g} x 6 x {counts[-1]} x tokens; check the units")


def _note(notes: list[str], text: str):
    if text not in notes:
        notes.append(text)
        _log.warning(text)
