"""The ladder: one width sets a whole baseline model and how it is trained."""

import csv
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.config import ModelConfig
from refused import Refused

# The best rates that `experiments/learning_rate.py` measured; that study rewrites the file.
RATES = Path(__file__).with_name("learning_rates.csv")

# Layers per width: 64 to 1 is the middle of the flat range of Kaplan et al. 2020
# (arXiv:2001.08361, figure 5, aspect ratios 30–100); below width 128, where it would leave one
# layer, two are kept: a single layer cannot form induction heads (Olsson et al. 2022).
WIDTH_PER_LAYER = 64
FEWEST_LAYERS = 2

# Head size: 64 from width 256 on, as in Chinchilla's and Gadre's smaller models; below, heads
# shrink so that there are always at least two.
LARGEST_HEAD = 64
FEWEST_HEADS = 2

# Step Law (Li et al. 2025, arXiv:2503.04715, eq. 1): B = 0.58·D^0.571 tokens.
BATCH_COEFFICIENT, BATCH_EXPONENT = 0.58, 0.571

# Weight decay times learning rate is kept constant along the ladder, as in Gadre et al. 2024
# (arXiv:2403.08540, appendix A: lr 3e-3 with 0.033, lr 3e-4 with 0.33).
RATE_TIMES_DECAY = 1e-4


@dataclass(frozen=True)
class Rung:
    """A model and its training: batch in tokens, peak learning rate, AdamW's weight decay."""

    model: ModelConfig
    batch_tokens: int
    learning_rate: float
    weight_decay: float


@functools.cache
def best_rates(path: Path = RATES) -> tuple[tuple[int, float], ...]:
    """Reads (width, best rate) pairs from a learning-rate table, ordered by width."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return tuple(sorted((int(r["width"]), float(r["learning_rate"])) for r in rows))


def learning_rate(width: int) -> float:
    """Returns the peak rate for a width: a power law through the measured best rates."""
    if width < 1:
        raise Refused("width", width, "1 or more")
    pairs = [(math.log(w), math.log(r)) for w, r in best_rates()]
    mean_x, mean_y = (sum(axis) / len(pairs) for axis in zip(*pairs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread
    return float(f"{math.exp(mean_y + slope * (math.log(width) - mean_x)):.3g}")


def weight_decay(rate: float) -> float:
    """Returns AdamW's decay for a peak rate: their product is kept along the ladder."""
    if not rate > 0:
        raise Refused("learning_rate", rate, "more than 0")
    return float(f"{RATE_TIMES_DECAY / rate:.3g}")


def batch_tokens(tokens: int, context: int) -> int:
    """Returns the batch for a budget: Step Law's, as a power-of-two number of sequences."""
    sequences = BATCH_COEFFICIENT * tokens**BATCH_EXPONENT / context
    return context * 2 ** max(0, round(math.log2(sequences)))


def ladder(width: int, tokens: int | Sequence[int], **model) -> Rung:
    """Returns the rung of a width for a budget of about `tokens`.

    For runs of several lengths on one trunk, a sequence, it is the geometric mean of the shortest
    and the longest. `model` overrides fields of the configuration.

    Raises:
      Refused: a width that is not a multiple of 8, or a length below 1.
    """
    lengths = (tokens,) if isinstance(tokens, int) else tokens
    if min(lengths) < 1:
        raise Refused("tokens", tokens, "1 or more")
    if width < 8 or width % 8:
        raise Refused("width", width, "a multiple of 8")
    heads = max(FEWEST_HEADS, width // LARGEST_HEAD)
    while (width // heads) * heads != width or (width // heads) % 2:
        heads -= 1
    shape = dict(depth=max(FEWEST_LAYERS, round(width / WIDTH_PER_LAYER)), heads=heads)
    config = ModelConfig(**{"width": width} | shape | model)
    rate = learning_rate(width)
    middle = round(math.sqrt(min(lengths) * max(lengths)))
    return Rung(config, batch_tokens(middle, config.context), rate, weight_decay(rate))
