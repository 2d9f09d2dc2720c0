"""A table of runs with named, unit-carrying columns, checked before any law sees it."""

import gzip
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from refused import Refused

# Column -> unit. A trailing dot marks a family: `loss.c4`, `mixture.wikipedia`, `error.arc_easy`.
COLUMNS = {
    "params_total": "parameters, embeddings included",
    "params_non_embedding": "parameters, embeddings left out",
    "params_active": "parameters used per token",
    "tokens": "training tokens seen, repeats counted",
    "unique_tokens": "distinct training tokens",
    "flops": "training FLOP, counted exactly",
    "flops_6nd": "training FLOP, 6 x parameters x tokens",
    "loss": "nats/token",
    "loss.": "nats/token on one domain",
    "error.": "fraction wrong, 0 to 1",
    "accuracy": "fraction right, 0 to 1",
    "accuracy.": "fraction right, 0 to 1",
    "bits_per_byte": "bits/byte",
    "unigram_loss": "nats/token of the unigram model",
    "learning_rate": "peak learning rate, or that of the step",
    "step": "optimizer steps",
    "schedule": "learning rate as STEP:RATE STEP:RATE ..., straight between",
    "batch_tokens": "tokens per step",
    "bits": "bits per weight",
    "tokens_qat": "tokens trained with fake quantisation",
    "tokens_fp": "tokens trained at full precision",
    "streams": "parallel streams P",
    "experts": "number of experts",
    "activation_ratio": "active experts / experts",
    "granularity": "expert granularity, 2 x width / expert width",
    "group_size": "weights that share a quantisation scale",
    "mixture.": "share of a domain in the training tokens, 0 to 1",
    "seed": "random seed",
    "trunk": "id shared by branches, checkpoints and seeds that share a training prefix",
    "run": "unique id",
    "diverged_step": "step at which the run diverged, empty if it did not",
}
PARAMETER_COUNTS = ("params_total", "params_non_embedding", "params_active")
_POSITIVE = (
    *PARAMETER_COUNTS,
    *("tokens", "unique_tokens", "flops", "flops_6nd", "bits", "streams", "experts"),
    *("activation_ratio", "granularity", "group_size", "learning_rate", "batch_tokens"),
)
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
    def read(cls, path: str | Path, columns: Mapping[str, str] | None = None) -> "Observations":
        """Read CSV or Parquet, or a packaged table as `published:NAME` or `published:NAME:SUBSET`.

        Args:
          path: file, or `published:NAME[:SUBSET]`; lines of a CSV that start with # are comments.
          columns: {name in the file: name in `COLUMNS`}.

        Raises:
          Refused: unknown file type, missing file, unknown published name, unknown column.
        """
        frame = read_frame(path)
        mapped = list((columns or {}).values())
        for theirs, ours in (columns or {}).items():
            if mapped.count(ours) > 1:
                raise Refused("columns", f"{ours} from several columns", "one column for each name")
            if theirs not in frame:
                raise Refused("columns", theirs, f"one of {', '.join(map(str, frame))}")
            if unit(ours) is None:
                given = f"{theirs}={ours}"
                raise Refused("columns", given, f"{theirs}=NAME with one of {', '.join(COLUMNS)}")
        clash = set((columns or {}).values()) & (set(frame) - set(columns or {}))
        notes = []
        for name in sorted(clash):
            _note(notes, f"{name}: the table's own column gives way to the one mapped to it")
        frame = frame.drop(columns=list(clash)).rename(columns=dict(columns or {}))
        return cls(frame, tuple(notes))

    def __len__(self) -> int:
        return len(self.frame)

    def only(self, mask) -> "Observations":
        """The rows where `mask` (bool, one per row) holds."""
        return Observations(self.frame[np.asarray(mask, bool)].reset_index(drop=True), self.notes)

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


def read_frame(path) -> pd.DataFrame:
    """The raw table behind a path or `published:NAME`; Refused as in `Observations.read`."""
    text = str(path)
    if text.startswith("published:"):
        name, _, subset = text.removeprefix("published:").partition(":")
        folder = Path(__file__).parent / "published"
        known = {file.name.split(".")[0]: file for file in sorted(folder.glob("*.csv*"))}
        if name not in known:
            raise Refused("table", text, ", ".join(f"published:{key}" for key in known))
        frame = pd.read_csv(known[name], comment="#")
        return _subset(frame, name, subset) if subset else frame
    file = Path(text)
    if not file.is_file():
        raise Refused("table", text, "an existing .csv or .parquet file, or published:NAME")
    if not text.endswith((".csv", ".csv.gz", ".parquet")):
        raise Refused("table", text, "a file that ends in .csv, .csv.gz or .parquet")
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        # Only lines that start with # are comments: a colour in a cell is none.
        told = _comment_lines(file)
        # pandas renames a column that is given twice: the header is looked at as it stands.
        header = pd.read_csv(file, skiprows=told, header=None, nrows=1, dtype=str).iloc[0].dropna()
        if not all(map(str.isprintable, header)):
            raise Refused("table", text, "a text file with a header line")
        if header.duplicated().any():
            raise Refused("table", f"{header[header.duplicated()].iloc[0]} twice", "a column once")
        return pd.read_csv(file, skiprows=told)
    except Refused:
        raise
    except (ValueError, OSError, EOFError) as error:  # pandas' and pyarrow's own are of these.
        why = " ".join(str(error).split())
        raise Refused("table", text, f"a readable table ({why})") from None


def _comment_lines(file: Path) -> list[int]:
    """Numbers of the lines of a CSV that start with #."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", errors="replace") as lines:
        return [number for number, line in enumerate(lines) if line.startswith("#")]


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


def unit(column: str) -> str | None:
    """The unit of a known column or column family, None for an unknown one."""
    if column in COLUMNS:
        return COLUMNS[column]
    family = f"{column.split('.')[0]}."
    return COLUMNS[family] if "." in column and family in COLUMNS else None


def numbers(values, name: str) -> np.ndarray:
    """A column as floats, NaN where it is empty; Refused, by its name, for text."""
    values = np.atleast_1d(values)
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        read = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(float)
        text = np.isnan(read) & ~pd.isna(values)
        if text.any():
            raise Refused(name, values[text][0], "a number in each row") from None
        return read


def finite(values, name: str) -> np.ndarray:
    """A column as finite floats; Refused, by its name, for text, an empty value or infinity."""
    read = numbers(values, name)
    bad = read[~np.isfinite(read)]
    if len(bad):
        given = f"{int(np.isnan(bad).sum())} empty" if np.isnan(bad).any() else bad[0]
        raise Refused(name, given, "a number in each row")
    return read


def _checked(frame: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, list[str]]:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise Refused("table", f"{twice[0]} twice", "a column once")
    again = frame.duplicated()
    if again.any():
        _note(notes, f"dropped, exact duplicates of other rows: {int(again.sum())}")
        frame = frame[~again].reset_index(drop=True)
    if "run" not in frame:
        frame["run"] = [f"run{index}" for index in range(len(frame))]
    for name in ("run", "trunk"):
        if name in frame and frame[name].isna().any():
            given = f"{int(frame[name].isna().sum())} empty"
            raise Refused(name, given, f"an id in each row, or no column {name}")
    repeated = frame["run"][frame["run"].duplicated()].unique()
    if len(repeated):
        raise Refused("run", ", ".join(map(str, repeated[:5])), "one row per run id")
    if "diverged_step" in frame:
        diverged = frame["diverged_step"].notna()
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
                raise Refused(name, values[bad][0], "a positive loss in nats/token")
            middle = np.median(values[~np.isnan(values)]) if not np.isnan(values).all() else 0.0
            if middle > 20:
                _note(notes, f"{name}: median {middle:g} nats/token; a perplexity?")
        elif name in _POSITIVE:
            values = numbers(frame[name], name)
            if (values <= 0).any():
                raise Refused(name, values[values <= 0][0], f"positive {COLUMNS[name]}")
            if name in (*PARAMETER_COUNTS, "tokens", "unique_tokens") and np.median(values) < 1e3:
                _note(notes, f"{name}: median {np.median(values):g}; counted in millions?")
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
