"""What looks wrong in a table of runs though every cell is a number.

Units mixed within a column are refused; the rest is said: steps given as tokens, losses that rise,
rows that repeat one another, runs that did not finish.
"""

import numpy as np
import pandas as pd

from fitting.columns import COUNTS, PARAMETER_COUNTS, TEXTS, unit
from fitting.reading.names import words
from fitting.reading.sheet import Sheet
from refused import Refused

_GAP = 2.7  # decades between neighbours in a column of counts: 500 times
_APART = 1.5  # decades between neighbours in tokens for each parameter
# Tokens for each parameter, in the middle of a table, below which a count of steps is likelier, or
# parameters and tokens that changed places.
_FEW_TOKENS = 0.2
_WORSE = 1.1  # of the loss of a run with fewer parameters and tokens, beyond noise and settings
_ALIKE = 1e-3  # relative difference within which two columns say the same
_MOST = 2000  # rows that are compared with one another
_UNFINISHED = {"crashed", "failed", "killed", "running", "pending", "preempted", "canceled"}
_UNFINISHED |= {"cancelled", "error", "interrupted", "queued", "stopped", "timeout", "unfinished"}
_UNFINISHED |= {"scheduled"}
_STATES = {"state", "status"}


def check_units(frame: pd.DataFrame, rows: np.ndarray, sheet: Sheet) -> None:
    """Refuses a column of counts in which some rows are in another unit than the others.

    Args:
      frame: columns by our names.
      rows: (rows,) where each is in the sheet.
      sheet: where they were read.

    Raises:
      Refused: two groups of counts with nothing for 500-fold between them, or FLOP that are 500
        times off 6 x parameters x tokens in some rows only.
    """
    for name in COUNTS:
        if name in frame and name != "step":
            _refuse_odd(name, np.asarray(frame[name], float), rows, sheet)
            _refuse_parts(name, np.asarray(frame[name], float), rows, sheet)
    counts = [name for name in PARAMETER_COUNTS if name in frame]
    if "flops" in frame and "tokens" in frame and counts:
        rule = np.asarray(frame[counts[-1]], float) * np.asarray(frame["tokens"], float)
        with np.errstate(all="ignore"):
            ratio = np.asarray(frame["flops"], float) / rule
        if "experts" not in frame and "streams" not in frame:
            _refuse_odd("flops", ratio, rows, sheet, "of parameters x tokens ")


def _refuse_parts(name, values, rows, sheet: Sheet):
    """Refuses counts between nothing and one: they are in some unit that nobody named."""
    small = np.flatnonzero((values > 0) & (values < 1))
    if len(small):
        given = f"{values[small[0]]:g} in {sheet.places(rows[small])}"
        fix = f"--columns='{name}={name}[B]' if they are in billions, [M] in millions, [1] as told"
        raise Refused(name, given, f"counts, of at least one; {fix}")


def _refuse_odd(name, values, rows, sheet: Sheet, what: str = ""):
    good = np.isfinite(values) & (values > 0)
    logs = np.log10(values[good])
    order = np.sort(logs)
    if len(order) < 2 or np.diff(order).max() < _GAP:
        return
    cut = order[np.argmax(np.diff(order))] + _GAP / 2
    low = good & (np.log10(np.where(good, values, 1.0)) < cut)
    odd = low if low.sum() <= (good & ~low).sum() else good & ~low
    other = values[good & ~odd]
    places = np.flatnonzero(odd)
    given = f"{values[places[0]]:g} {what}in {sheet.places(rows[places])}"
    accepted = f"one unit in a column; the other {len(other)} rows have {other.min():g} to"
    sure = f"; --columns='{name}={name}[1]' if it is one" if not what else ""
    raise Refused(name, given, f"{accepted} {other.max():g}{sure}")


def without_repeats(frame: pd.DataFrame, notes: list[str]) -> np.ndarray:
    """Which rows to keep, bool (rows,): of rows that agree in all but their ids, the first.

    Two runs that agree in every setting differ in their losses, unless one is the other's copy; as
    replicates they would say that there is no noise.
    """
    exact = frame.duplicated().to_numpy()
    if exact.any():
        notes.append(f"dropped, exact duplicates of other rows: {int(exact.sum())}")
    if "loss" not in frame:
        return ~exact
    ids = {"run", "trunk"}
    ids |= {n for n in frame if unit(n) is None and frame[n].is_unique and len(frame) > 1}
    told = [name for name in frame if name not in ids]
    some = len(told) < len(frame.columns)
    again = (
        frame.duplicated(subset=told).to_numpy() & ~exact if some else np.zeros(len(frame), bool)
    )
    if again.any():
        called = ", ".join(name for name in frame if name in ids)
        notes.append(f"dropped, equal to other rows in all but {called}: {int(again.sum())}")
    if "seed" in frame:
        rest = [name for name in told if name != "seed"]
        copies = frame[~exact & ~again].duplicated(subset=rest).sum()
        if copies:
            notes.append(f"seed: {copies} rows have every digit of another seed's loss; copies?")
    return ~exact & ~again


def suspicions(frame: pd.DataFrame, rows: np.ndarray, sheet: Sheet, where: str | None) -> list[str]:
    """What else looks odd, one line each."""
    found = _steps_as_tokens(frame)
    found += _in_another_unit(frame)
    found += _apart(frame, rows, sheet)
    found += _rising(frame, rows, sheet)
    found += _unfinished(frame, where)
    return found


def _steps_as_tokens(frame: pd.DataFrame) -> list[str]:
    counts = [name for name in PARAMETER_COUNTS if name in frame]
    if "tokens" not in frame:
        return []
    tokens = np.asarray(frame["tokens"], float)
    fix = "--columns='tokens=tokens[TOKENS_PER_STEP]' makes tokens of steps"
    if "step" in frame and np.array_equal(tokens, np.asarray(frame["step"], float)):
        return [f"tokens: equal to step in each row; steps given as tokens? {fix}"]
    if not counts:
        return []
    with np.errstate(all="ignore"):
        ratio = tokens / np.asarray(frame[counts[0]], float)
    middle = np.nanmedian(ratio) if np.isfinite(ratio).any() else 1.0
    if middle < _FEW_TOKENS:
        what = "steps given as tokens, or columns that changed places?"
        return [f"tokens: median {middle:.2g} for each parameter; {what} {fix}"]
    return []


def _in_another_unit(frame: pd.DataFrame) -> list[str]:
    """A loss that a perplexity beside it says to be in bits, or to be that perplexity."""
    names = [n for n in frame if {"ppl", "perplexity"} & set(words(n))]
    names = [n for n in names if pd.api.types.is_numeric_dtype(frame[n])]
    for name in names if "loss" in frame else []:
        loss, other = (np.asarray(frame[column], float) for column in ("loss", name))
        with np.errstate(all="ignore"):
            for kind, told, values in (
                ("bits", f"log2 of {name}, in bits?", np.log2(other)),
                ("perplexity", f"equal to {name}?", other),
            ):
                apart = np.abs(values / loss - 1)
                if np.isfinite(apart).any() and np.nanmedian(apart) < _ALIKE:
                    return [f"loss: {told} --columns='loss=loss[{kind}]'"]
    return []


def _apart(frame: pd.DataFrame, rows: np.ndarray, sheet: Sheet) -> list[str]:
    """Rows whose tokens for each parameter are far from those of all other rows."""
    counts = [name for name in PARAMETER_COUNTS if name in frame]
    if "tokens" not in frame or not counts:
        return []
    with np.errstate(all="ignore"):
        logs = np.log10(np.asarray(frame["tokens"], float) / np.asarray(frame[counts[0]], float))
    good = np.isfinite(logs)
    order = np.sort(logs[good])
    if len(order) < 3 or np.diff(order).max() < _APART:
        return []
    high = good & (logs > order[np.argmax(np.diff(order))])
    odd = high if high.sum() <= (good & ~high).sum() else good & ~high
    other = 10 ** logs[good & ~odd]
    return [
        f"tokens: {10 ** logs[odd][0]:.3g} for each parameter in {sheet.places(rows[odd])}, "
        f"{other.min():.3g} to {other.max():.3g} in the others; units mixed?"
    ]


def _rising(frame: pd.DataFrame, rows: np.ndarray, sheet: Sheet) -> list[str]:
    """Rows whose loss is far above that of runs with fewer parameters and fewer tokens."""
    counts = [name for name in PARAMETER_COUNTS if name in frame]
    if "loss" not in frame or "tokens" not in frame or not counts:
        return []
    groups = [n for n in frame if n not in TEXTS and not pd.api.types.is_numeric_dtype(frame[n])]
    groups = [n for n in groups if 1 < frame[n].nunique() <= max(2, len(frame) // 4)]
    size, tokens, loss = (np.asarray(frame[n], float) for n in (counts[0], "tokens", "loss"))
    label = (
        frame.groupby(groups, dropna=False).ngroup().to_numpy() if groups else np.zeros(len(size))
    )
    good = np.flatnonzero((loss > 0) & np.isfinite(loss))
    some = good[np.unique(np.linspace(0, len(good) - 1, min(len(good), _MOST)).astype(int))]
    size, tokens, loss, label = (values[some] for values in (size, tokens, loss, label))
    smaller = (size[:, None] <= size) & (tokens[:, None] <= tokens) & (label[:, None] == label)
    smaller &= (size[:, None] < size) | (tokens[:, None] < tokens)
    bad = smaller & (loss > _WORSE * loss[:, None])  # [i, j]: j is larger than i, and worse
    if not bad.any():
        return []
    part = np.maximum(bad.sum(0), bad.sum(1))
    worst = some[np.argsort(-part, kind="stable")[: int(np.count_nonzero(part))]]
    told = sheet.places(rows[worst[:3]])
    return [
        f"loss: rises by more than {_WORSE - 1:.0%} from runs to larger ones with more tokens, in "
        f"{int(bad.any(0).sum())} rows (most in {told}); units mixed, other settings, or unstable?"
    ]


def _unfinished(frame: pd.DataFrame, where: str | None) -> list[str]:
    found = []
    for name in frame:
        if str(name).lower() not in _STATES or (where and str(name) in where):
            continue
        states = frame[name].astype(str)
        bad = states[states.str.lower().isin(_UNFINISHED)]
        if len(bad):
            told = ", ".join(f"{count} {state}" for state, count in bad.value_counts().items())
            found.append(f"{name}: {told} among the rows; --where=\"{name} == 'finished'\"")
    return found


def curve_notes(frame: pd.DataFrame, by: str) -> list[str]:
    """What looks odd in whole curves: steps that go back or repeat, a loss that ends higher."""
    found = []
    if by not in frame or "step" not in frame:
        return found
    for name, part in frame.groupby(by, sort=False):
        steps = np.asarray(part["step"], float)
        back, same = int((np.diff(steps) < 0).sum()), int((np.diff(np.sort(steps)) == 0).sum())
        if back or same:
            found.append(f"{by} {name}: steps go back {back} times, {same} are there twice")
        loss = np.asarray(part["loss"], float)[np.argsort(steps, kind="stable")]
        third = len(loss) // 3
        if third and np.median(loss[-third:]) > np.median(loss[:third]):
            found.append(f"{by} {name}: the loss is higher in its last third than in its first")
    return found
