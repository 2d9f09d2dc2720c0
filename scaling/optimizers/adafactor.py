"""Adafactor: second moments of rows and columns instead of entries (arXiv:1804.04235)."""

from dataclasses import dataclass

import optax

from models import Leaf
from scaling.optimizers.rule import Optimizer, Rule


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adafactor without momentum (Shazeer & Stern 2018, algorithm 4), for every leaf.

    The second moment of an array whose two largest dimensions are both `least` or more is kept as
    the means of its rows and columns, of others (and of lazy rows) in full. Its decay at step t is
    1 − t^−`power` (section 7.2). A leaf's direction is divided by its root mean square over
    `largest_rms` where that is above 1 (section 6). Rates are not relative to the parameters' size,
    so that the house's rates and decays fit.
    """

    power: float = 0.8
    largest_rms: float = 1.0
    epsilon: float = 1e-30
    least: int = 128

    def __post_init__(self):
        super().__post_init__()
        self.positive("power", "largest_rms", "epsilon", "least")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The gradient over the root of its factored second moment, clipped."""
        scaled = optax.scale_by_factored_rms(
            decay_rate=self.power, min_dim_size_to_factor=self.least, epsilon=self.epsilon
        )
        clipped = optax.clip_by_block_rms(self.largest_rms)
        return Rule(transformation=optax.chain(scaled, clipped))
