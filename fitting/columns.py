"""The columns that laws read, with their units, and columns of numbers taken out of a table."""

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
    "diverged_step": "step at which the run diverged, empty or negative if it did not",
}
PARAMETER_COUNTS = ("params_total", "params_non_embedding", "params_active")
POSITIVE = (
    *PARAMETER_COUNTS,
    *("tokens", "unique_tokens", "flops", "flops_6nd", "bits", "streams", "experts"),
    *("activation_ratio", "granularity", "group_size", "learning_rate", "batch_tokens"),
)
# Large whole numbers: the columns in which 19.2M and 19,200,000 are numbers.
COUNTS = (
    *PARAMETER_COUNTS,
    *("tokens", "unique_tokens", "tokens_qat", "tokens_fp", "batch_tokens"),
    *("flops", "flops_6nd", "step"),
)
TEXTS = ("run", "trunk", "schedule")


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
