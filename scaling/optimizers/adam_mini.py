"""Adam-mini: one second moment per block of a matrix (Zhang et al. 2024, arXiv:2406.16793)."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from models import Leaf
from scaling.optimizers.adamw import AdamW
from scaling.optimizers.rule import Rule


@dataclass(frozen=True, kw_only=True)
class AdamMini(AdamW):
    """Adam whose second moment is the mean over a block of what it is of entries (algorithm 1).

    Blocks are those of the authors' partition (algorithm 3): of embedding and head the tokens, of
    hidden matrices the output neurons, of everything else the whole array (of a lazy table the
    row). Queries and keys have a block per neuron too, finer than the authors' one per head, which
    an array does not tell. The state is little more than one moment.

    On a mesh the means over a split dimension are sums between devices; nothing is gathered.
    """

    b2: float = 0.95

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Adam's direction with a second moment per block."""
        axis = block(leaf)

        def init(value):
            blocks = jnp.mean(value, axis=axis, keepdims=True)
            return optax.ScaleByAdamState(
                count=jnp.zeros((), jnp.int32), mu=jnp.zeros_like(value), nu=jnp.zeros_like(blocks)
            )

        def step(gradient, state, value=None):
            count = state.count + 1
            square = jnp.mean(jnp.square(gradient), axis=axis, keepdims=True)
            mu = self.b1 * state.mu + (1 - self.b1) * gradient
            nu = self.b2 * state.nu + (1 - self.b2) * square
            corrected = optax.tree.bias_correction
            root = jnp.sqrt(corrected(nu, self.b2, count))
            direction = corrected(mu, self.b1, count) / (root + self.epsilon)
            return direction, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

        return Rule(transformation=optax.GradientTransformation(init, step))


def block(leaf: Leaf) -> int | None:
    """Returns the dimension that a leaf's blocks lie along; None is the whole array."""
    if leaf.group.lazy or len(leaf.shape) < 2:
        return None
    if leaf.group.name in ("embedding", "stem"):
        return -1
    return -2 if leaf.group.matmul else None
