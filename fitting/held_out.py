"""Runs kept out of a fit: named splits, settings that agree, and the spread of seeds."""

import numpy as np
import pandas as pd

from fitting.columns import PARAMETER_COUNTS
from fitting.expression import where as rows_where
from fitting.intervals import replicates
from fitting.observations import Observations
from refused import Refused

DIRECTIONS = ("compute", "params", "tokens")
FAR = float(np.log(10.0))  # log distance that is meant when none is asked about
IDS = ("run", "trunk", "seed", "diverged_step", "evaluation", "device", "cooled")
OUTCOMES = (  # how columns begin that a run ends in; every other one says how it was made
    *("loss", "error", "accuracy", "bits_per_byte", "train_loss", "grad_norm", "seconds"),
    *("tokens_per_second", "router.", "ended_", "leverage", "optimal_fraction"),
)
SPLITS = (
    "largest_decile, above:FRACTION (of the largest compute), or a condition such as "
    "COLUMN>VALUE or COLUMN==TEXT"
)


def compute(obs: Observations, params: str | None = None) -> np.ndarray:
    """Training FLOP of every run, (rows,): `flops`, else `flops_6nd`, else 6 x params x tokens."""
    for name in ("flops", "flops_6nd"):
        if name in obs.frame:
            return obs.column(name)
    return 6 * obs.column(obs.params_column(params)) * tokens(obs)


def tokens(obs: Observations) -> np.ndarray:
    """Training tokens of every run, (rows,): `tokens`, else `tokens_qat` + `tokens_fp`."""
    if "tokens" not in obs.frame and {"tokens_qat", "tokens_fp"} <= set(obs.frame):
        return obs.column("tokens_qat") + obs.column("tokens_fp")
    return obs.column("tokens")


def along(obs: Observations, direction: str, params: str | None = None) -> np.ndarray:
    """Log of what runs are ordered by, (rows,): compute, params or tokens.

    Raises:
      Refused: another direction, or a table without its column.
    """
    if direction == "compute":
        return np.log(compute(obs, params))
    if direction == "params":
        present = [name for name in PARAMETER_COUNTS if name in obs.frame]
        named = present[0] if params is None and present else obs.params_column(params)
        return np.log(obs.column(named))
    if direction == "tokens":
        return np.log(tokens(obs))
    raise Refused("direction", direction, ", ".join(DIRECTIONS))


def direction_of(obs: Observations, mask, params: str | None = None) -> tuple[str, float]:
    """Where masked runs lie beyond the others, and how far the farthest does, in log.

    Compute, unless it does not separate them and params, or else tokens, do. Without masked runs
    the first of these that the table has, and `FAR`.

    Raises:
      Refused: a table with neither compute nor params nor tokens.
    """
    found = []
    for direction in DIRECTIONS:
        try:
            place = along(obs, direction, params)
        except Refused:
            continue
        if not mask.any():
            return direction, FAR
        separates = place[mask].min() > place[~mask].max() - 1e-6
        found.append((not separates, direction, float(place[mask].max() - place[~mask].max())))
    if not found:
        raise Refused("table", "no compute", "tokens and a parameter count, or flops")
    _, direction, distance = min(found, key=lambda entry: entry[0])
    return direction, max(distance, 0.0)


def above_compute(obs: Observations, fraction: float = 0.25, params: str | None = None):
    """Mask of runs with more than `fraction` of the largest training compute, (rows,)."""
    flops = compute(obs, params)
    return flops > fraction * flops.max()


def largest_decile(obs: Observations, params: str | None = None) -> np.ndarray:
    """Mask of the tenth of the runs with the most compute, at least one, (rows,)."""
    flops = compute(obs, params)
    count = max(1, len(flops) // 10)
    return flops >= np.sort(flops)[-count]


def held_out_mask(
    obs: Observations, held_out: str | np.ndarray | None, params: str | None = None
) -> np.ndarray:
    """Which runs are kept out, bool (rows,).

    Args:
      held_out: None for none, a split by name as `split` reads it, or bool (rows,).

    Raises:
      Refused: as `split`, or a mask that does not fit the table or leaves no run.
    """
    if held_out is None:
        return np.zeros(len(obs), bool)
    if isinstance(held_out, str):
        return split(obs, held_out, params)
    mask = np.asarray(held_out)
    if mask.dtype != bool or mask.shape != (len(obs),):
        raise Refused("held_out", f"{mask.dtype} {mask.shape}", f"bool of shape ({len(obs)},)")
    if mask.all():
        raise Refused("held_out", "every run", "a mask that leaves runs to fit")
    return mask


def split(obs: Observations, text: str, params: str | None = None) -> np.ndarray:
    """A held-out mask by name: `largest_decile`, `above:0.25`, `params_total>1e8`, or a condition
    as `expression.where` reads it, such as `group == web`.

    Raises:
      Refused: another text, an unknown column, or a split that holds out nothing or everything.
    """
    if text == "largest_decile":
        mask = largest_decile(obs, params)
    elif text.startswith("above:"):
        mask = above_compute(obs, _number(text.removeprefix("above:"), text), params)
    elif ">" in text and "=" not in text:
        column, _, value = text.partition(">")
        mask = obs.column(column.strip()) > _number(value, text)
    elif "=" in text or "<" in text:
        mask = rows_where(obs.frame, text)
    else:
        raise Refused("held_out", text, SPLITS)
    if not mask.any() or mask.all():
        raise Refused("held_out", f"{text} ({int(mask.sum())} of {len(obs)} runs)", "some runs")
    return mask


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refused("held_out", whole, SPLITS) from None


def agreeing(obs: Observations) -> np.ndarray:
    """Labels (rows,) equal where rows agree in every setting: all that is no outcome and no id."""
    frame, named = obs.frame, []
    for name in frame:
        # A text of its own in every row is a name.
        text = not pd.api.types.is_numeric_dtype(frame[name]) and frame[name].is_unique
        if name not in IDS and not str(name).startswith(OUTCOMES) and not text:
            named.append(name)
    if not named:
        return np.zeros(len(obs), int)
    return obs.frame.groupby(named, dropna=False, sort=False).ngroup().to_numpy()


def seeds(obs: Observations) -> np.ndarray:
    """Which rows are repeats of one another, labels (rows,): they agree in every setting and differ
    in their seed where there is one; a row without repeats has a label of its own.
    """
    labels = agreeing(obs)
    if "seed" not in obs.frame:
        return labels
    again = obs.frame.assign(label=labels).groupby("label")["seed"].transform("nunique") > 1
    return np.where(again, labels, labels.max() + 1 + np.arange(len(labels)))


def seed_standard_deviation(
    obs: Observations, params: str | None = None, target: str = "loss"
) -> tuple[float | None, int]:
    """Pooled standard deviation of runs on different trunks that agree in every setting.

    Returns:
      (standard deviation in the target's unit, degrees of freedom); (None, 0) without repeats.
    """
    labels, loss = seeds(obs), obs.column(target)
    rows = replicates(obs.frame["trunk"].astype(str), labels)
    squares, degrees = 0.0, 0
    for label in np.unique(labels[rows]):
        group = loss[rows & (labels == label)]
        squares += float(np.sum((group - group.mean()) ** 2))
        degrees += len(group) - 1
    return (float(np.sqrt(squares / degrees)), degrees) if degrees else (None, 0)
