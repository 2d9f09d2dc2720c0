"""Cautious AdamW: entries that would go against the gradient stay (arXiv:2411.16085)."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from models import Leaf
from scaling.optimizers.adamw import AdamW
from scaling.optimizers.rule import Rule

# The mean of the mask that the rest is divided by is at least this: the authors' code.
LEAST = 1e-3


@dataclass(frozen=True, kw_only=True)
class CautiousAdamW(AdamW):
    """AdamW that only follows its direction where the gradient agrees (Liang et al. 2024,
    algorithm 2), the same rule for every leaf.

    An entry of Adam's direction whose sign is not the gradient's becomes 0. The others are divided
    by the share of those that stay in their leaf (of a lazy table in their row).
    """

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Adam's direction where it agrees with the gradient, for every leaf."""
        init, update = optax.scale_by_adam(self.b1, self.b2, self.epsilon)

        def step(gradient, state, value=None):
            direction, state = update(gradient, state)
            return cautious(direction, gradient), state

        return Rule(transformation=optax.GradientTransformation(init, step))


def cautious(direction: Float[Array, "..."], gradient: Float[Array, "..."]) -> Array:
    """Returns a direction without its entries that oppose the gradient, the others the larger."""
    agrees = (direction * gradient > 0).astype(direction.dtype)
    return direction * agrees / jnp.maximum(jnp.mean(agrees), LEAST)
