"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101): what a run trains with unless it says so."""

from dataclasses import dataclass

import optax

from models import Leaf
from scaling.optimizers.rule import Optimizer, Rule


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """AdamW with global-norm clipping (algorithm 2), the same rule for every leaf."""

    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2")
        self.positive("epsilon")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Adam's direction (Kingma & Ba 2015, algorithm 1) for every leaf."""
        return Rule(transformation=optax.scale_by_adam(self.b1, self.b2, self.epsilon))


def rest(optimizer) -> Rule:
    """Returns the rule of the leaves that an optimizer of matrices leaves to AdamW.

    The optimizer has `b1`, `b2`, `epsilon`, and `adam_rate`, which multiplies its rate.
    """
    adam = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.epsilon)
    return Rule(transformation=adam, rate=optimizer.adam_rate)
