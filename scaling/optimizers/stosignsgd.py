"""StoSignSGD: an unbiased sign of a momentum (arXiv:2604.15416)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from models import Leaf
from refused import Refused
from scaling.optimizers.rule import Optimizer, Rule, key_of


class Draws(NamedTuple):
    """Steps so far, the momentum, its largest magnitude of every entry so far, and the key."""

    count: Int[Array, ""]
    mu: Float[Array, "..."]
    largest: Float[Array, "..."]
    key: UInt32[Array, "2"]


@dataclass(frozen=True, kw_only=True)
class StoSignSGD(Optimizer):
    """The sign of momentum plus noise, the same rule for every leaf (StoSignSGD's update).

    m = b1·m + (1 − b1)·g, G = max(G, |m|), direction sign(m + G·n) with n uniform on [−1, 1]: its
    expectation is m/G. Every entry moves by exactly the rate, decay aside.

    Draws are of the step and of a key that a leaf takes from its path and initial values, so that
    they differ by seed and are the same on every device. Rows of a lazy table would need keys of
    their own: such tables are refused.
    """

    b1: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The stochastic sign for every leaf."""
        if leaf.group.lazy:
            accepted = "an optimizer without draws for lazy tables, or tables with lazy=False"
            raise Refused("optimizer", f"stosignsgd for the group {leaf.group.name}", accepted)

        def init(value):
            zero = jnp.zeros_like(value)
            return Draws(jnp.zeros((), jnp.int32), zero, zero, key_of(path, value))

        def step(gradient, state, value=None):
            mu = self.b1 * state.mu + (1 - self.b1) * gradient
            largest = jnp.maximum(state.largest, jnp.abs(mu))
            noise = drawn(state.key, state.count, mu.shape)
            after = Draws(state.count + 1, mu, largest, state.key)
            return jnp.sign(mu + largest * noise), after

        return Rule(transformation=optax.GradientTransformation(init, step))


def drawn(key: UInt32[Array, "2"], step: Int[Array, ""], shape) -> Float[Array, "..."]:
    """Returns a step's draws, uniform on [−1, 1]."""
    return jax.random.uniform(jax.random.fold_in(key, step), shape, minval=-1.0, maxval=1.0)
