"""Lion: the sign of a momentum (Chen et al. 2023, arXiv:2302.06675)."""

from dataclasses import dataclass

import optax

from models import Leaf
from scaling.optimizers.rule import Optimizer, Rule


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Lion (algorithm 2): every entry moves by exactly the rate, decay aside.

    One moment instead of AdamW's two. `b1` weighs the momentum in the step, `b2` in what is kept
    of it. The authors take a rate 3 to 10 times smaller than AdamW's and a decay as many times
    larger (section 5), so that their product, which the ladder keeps, stays.
    """

    b1: float = 0.9
    b2: float = 0.99

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The sign of the momentum for every leaf."""
        return Rule(transformation=optax.scale_by_lion(self.b1, self.b2))
