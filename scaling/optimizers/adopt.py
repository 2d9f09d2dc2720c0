"""ADOPT: Adam that divides by the second moment before it (arXiv:2411.02853)."""

from dataclasses import dataclass

from optax.contrib import scale_by_adopt

from models import Leaf
from scaling.optimizers.rule import Optimizer, Rule


@dataclass(frozen=True, kw_only=True)
class ADOPT(Optimizer):
    """ADOPT with clipping (Taniguchi et al. 2024, algorithm 2), the same rule for every leaf.

    The gradient is divided by the root of the second moment of the steps before, clipped to t^¼,
    and then averaged; so any b2 converges. The first gradient only starts the second moment.
    """

    b1: float = 0.9
    b2: float = 0.9999
    epsilon: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2")
        self.positive("epsilon")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The mean of normalised gradients, for every leaf."""
        return Rule(transformation=scale_by_adopt(self.b1, self.b2, self.epsilon))
