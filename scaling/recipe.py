"""The recipe of a run: what is trained and how, on which state and program depend."""

import math
from dataclasses import dataclass, replace

from models import ModelConfig
from refused import Refused
from scaling.optimizers import Optimizer


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """An exponential moving average of the weights, evaluated beside the last ones.

    `tokens` is its time constant: weights of so many tokens ago count 1/e as much as the last. Said
    in tokens, it means the same at every batch size (Busbridge et al. 2023, arXiv:2307.13813,
    section 2: the momentum is raised to the power of the batch's growth). The average is corrected
    for its start like Adam's moments, so that the initial weights do not count.
    """

    tokens: float

    def __post_init__(self):
        if not (self.tokens > 0 and math.isfinite(self.tokens)):
            raise Refused("averaging.tokens", self.tokens, "a positive number of tokens")

    def decay(self, batch_tokens: int) -> float:
        """Returns what the average so far is multiplied by at a step."""
        return math.exp(-batch_tokens / self.tokens)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model, its optimizer and, if wanted, the averaging of its weights."""

    model: ModelConfig
    optimizer: Optimizer
    averaging: Averaging | None = None

    @property
    def static(self) -> "Recipe":
        """The recipe without what enters the program as arrays."""
        return replace(self, optimizer=self.optimizer.static)
