"""Schedule-free AdamW: steps that are averaged instead of a rate that decays (arXiv:2405.15682)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models import Leaf
from refused import Refused
from scaling.optimizers.rule import Optimizer, Rule


class Free(NamedTuple):
    """Steps so far, the sum of their squared rates, the sequence that steps, second moments."""

    count: Int[Array, ""]
    total: Float[Array, ""]
    z: Float[Array, "..."]
    nu: Float[Array, "..."]


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(Optimizer):
    """Schedule-free AdamW, the same rule for every leaf (Defazio et al. 2024, algorithm 1).

    z takes Adam's steps without momentum, and decays by the trained weights; x is the mean of all
    z, weighted by their squared rates; gradients are taken at y = (1 − b1)·z + b1·x, which are the
    weights that are trained. A run is evaluated and exported at x. It is made for a constant rate
    after a warm-up; under a schedule with a decay late steps weigh little in x.

    Rows of lazy tables take part in different steps: such tables are refused.
    """

    b1: float = 0.9
    b2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2")
        self.positive("b1", "epsilon")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The step of y, with decay, for every leaf."""
        if leaf.group.lazy:
            accepted = "an optimizer without averages for lazy tables, or tables with lazy=False"
            raise Refused("optimizer", f"schedule_free for the group {leaf.group.name}", accepted)
        both = optax.GradientTransformation(self.begun, self.moved)
        return Rule(transformation=both, whole=True, evaluated=self.mean)

    def begun(self, value: Array) -> Free:
        """Returns the first state: z is at the initial weights."""
        zero = jnp.zeros((), jnp.float32)
        return Free(jnp.zeros((), jnp.int32), zero, value, jnp.zeros_like(value))

    def mean(self, state: Free, value: Array) -> Array:
        """Returns x, from z and y."""
        return (value - (1 - self.b1) * state.z) / self.b1

    def moved(
        self, gradient: Array, state: Free, value: Array, rate: Array, decay: Array
    ) -> tuple[Array, Free]:
        """Returns (y − y')/rate, and the state after the step."""
        count, total = state.count + 1, state.total + rate**2
        nu = self.b2 * state.nu + (1 - self.b2) * jnp.square(gradient)
        root = jnp.sqrt(optax.tree.bias_correction(nu, self.b2, count))
        step = gradient / (root + self.epsilon) + decay * value
        z = state.z - rate * step
        # x moves by rate²/total of the way to z: over the rate, rate/total; nowhere at rate zero.
        share = rate / jnp.where(total > 0, total, 1.0)
        away = self.mean(state, value) - z
        return (1 - self.b1) * step + self.b1 * share * away, Free(count, total, z, nu)
