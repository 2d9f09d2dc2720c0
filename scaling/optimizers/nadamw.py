"""NAdamW: AdamW whose momentum looks a step ahead (Dozat 2016), in the form of optax."""

from dataclasses import dataclass

import optax

from models import Leaf
from scaling.optimizers.adamw import AdamW
from scaling.optimizers.rule import Rule


@dataclass(frozen=True, kw_only=True)
class NAdamW(AdamW):
    """AdamW with Nesterov's momentum (T. Dozat, "Incorporating Nesterov momentum into Adam", 2016,
    algorithm 2, with a constant b1), the same rule for every leaf.

    The momentum of the direction is b1·m_t/(1 − b1^(t+1)) + (1 − b1)·g_t/(1 − b1^t).
    """

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Adam's direction with the momentum that looks ahead, for every leaf."""
        adam = optax.scale_by_adam(self.b1, self.b2, self.epsilon, nesterov=True)
        return Rule(transformation=adam)
