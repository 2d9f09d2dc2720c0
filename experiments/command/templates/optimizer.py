"""SignSGD: the sign of the gradient (Bernstein et al. 2018, arXiv:1802.04434, algorithm 1).

Import this file, and it is there by its name: `scaling.optimizers.named("example", ...)`.
"""

from dataclasses import dataclass

import optax

from models import Leaf
from scaling.optimizers import OPTIMIZERS
from scaling.optimizers.rule import Optimizer, Rule


@dataclass(frozen=True, kw_only=True)
class Example(Optimizer):
    """Every entry moves by exactly the rate; there is no state.

    Settings are fields with a default, as `momentum: float = 0.9`. Learning rate, weight decay and
    clipping are there already.
    """

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Says for each leaf, by its path, group and shape, which optax transformation it gets.

        `Rule(rate=..., decay=...)` are multiples of the run's rate and decay.
        """
        return Rule(transformation=optax.scale_by_sign())


# In a checkout of Espalier it is an entry of `OPTIMIZERS` in `scaling/optimizers` instead.
OPTIMIZERS["example"] = Example
