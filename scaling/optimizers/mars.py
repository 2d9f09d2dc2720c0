"""MARS: AdamW on gradients with less variance (Yuan et al. 2024, arXiv:2411.10438)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models import Leaf
from scaling.optimizers.adamw import rest
from scaling.optimizers.rule import Optimizer, Rule


class Last(NamedTuple):
    """Steps so far and the last gradient."""

    count: Int[Array, ""]
    gradient: Float[Array, "..."]


@dataclass(frozen=True, kw_only=True)
class MARS(Optimizer):
    """MARS-AdamW, approximate form (algorithm 2 with the last step's own gradient), for arrays of
    two dimensions or more, embeddings and head included; AdamW for vectors, as the authors' code.

    The gradient is corrected by gamma·b1/(1 − b1) times its change since the last step, and brought
    back to norm 1 where its norm, a leaf's by itself as in that code, is larger. With gamma 0 it is
    AdamW. `adam_rate` multiplies the rate of AdamW's leaves. Three arrays of state instead of two.
    """

    gamma: float = 0.025
    b1: float = 0.95
    b2: float = 0.99
    epsilon: float = 1e-8
    adam_rate: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2", "gamma")
        self.positive("epsilon", "adam_rate")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Adam's direction for the corrected gradient; for vectors for the gradient itself."""
        if len(leaf.shape) < 2:
            return rest(self)
        adam = optax.scale_by_adam(self.b1, self.b2, self.epsilon)
        return Rule(transformation=optax.chain(self.corrected(), adam))

    def corrected(self) -> optax.GradientTransformation:
        """Returns what corrects a gradient by its change; the first one has none."""

        def init(value):
            return Last(jnp.zeros((), jnp.int32), jnp.zeros_like(value))

        def step(gradient, state, value=None):
            change = jnp.where(state.count == 0, 0.0, gradient - state.gradient)
            found = gradient + self.gamma * self.b1 / (1 - self.b1) * change
            norm = jnp.sqrt(jnp.sum(jnp.square(found)))
            return found / jnp.maximum(norm, 1.0), Last(state.count + 1, gradient)

        return optax.GradientTransformation(init, step)
