"""AdEMAMix: Adam with a second, slow momentum (arXiv:2409.03137)."""

from dataclasses import dataclass

import jax.numpy as jnp
from optax.contrib import scale_by_ademamix

from models import Leaf
from refused import Refused
from scaling.optimizers.rule import Optimizer, Rule


@dataclass(frozen=True, kw_only=True)
class AdEMAMix(Optimizer):
    """AdEMAMix (Pagliardini et al. 2024, algorithm 1), the same rule for every leaf.

    The direction's momentum is Adam's plus `alpha` times a mean of decay `b3` that is not corrected
    for bias. Over the first `warmup_steps` alpha rises linearly from 0, and b3 from b1 so that its
    half-life rises linearly (section 3.1 and appendix A.1); with 0 both are there from the start.
    Three moments instead of AdamW's two.
    """

    b1: float = 0.9
    b2: float = 0.999
    b3: float = 0.9999
    alpha: float = 8.0
    epsilon: float = 1e-8
    warmup_steps: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2", "b3")
        self.positive("alpha", "epsilon")
        if self.warmup_steps < 0:
            raise Refused("optimizer.warmup_steps", self.warmup_steps, "0 or more")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The two momenta over the root of the second moment, for every leaf."""
        b3, alpha = (self.slow, self.share) if self.warmup_steps else (self.b3, self.alpha)
        return Rule(transformation=scale_by_ademamix(self.b1, self.b2, b3, alpha, self.epsilon))

    def share(self, step):
        """Returns alpha at a step, counted from 0."""
        return self.alpha * jnp.minimum((step + 1) / self.warmup_steps, 1.0)

    def slow(self, step):
        """Returns b3 at a step, counted from 0: log b1 log b3 / ((1 − s) log b3 + s log b1), e^."""
        share = jnp.minimum((step + 1) / self.warmup_steps, 1.0)
        fast, slow = jnp.log(jnp.float32(self.b1)), jnp.log(jnp.float32(self.b3))
        return jnp.exp(fast * slow / ((1 - share) * slow + share * fast))
