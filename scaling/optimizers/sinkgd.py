"""SinkGD: the gradient, normalised by rows and columns in turn (arXiv:2502.06742)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from models import Leaf
from scaling.optimizers.adamw import rest
from scaling.optimizers.rule import Optimizer, Rule, by_matrix, is_matrix


@dataclass(frozen=True, kw_only=True)
class SinkGD(Optimizer):
    """Gradient multi-normalisation without state for hidden matrices (Scetbon et al. 2025,
    algorithm 4), AdamW for the rest, as the authors say.

    Each of `rounds` brings every row to norm √columns, then every column to √rows (an alternating
    projection, Sinkhorn's in squares), so that entries have a root mean square of 1. `scale`
    multiplies that direction, so that AdamW's rates and decays fit; `adam_rate` multiplies the rate
    of AdamW's leaves. Norms are sums over one split dimension on a mesh: nothing is gathered.
    """

    rounds: int = 5
    scale: float = 0.05
    adam_rate: float = 1.0
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2")
        self.positive("rounds", "scale", "adam_rate", "epsilon")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The normalised gradient for hidden matrices, each by itself; else Adam."""
        if not is_matrix(leaf):
            return rest(self)
        step = lambda gradient, value: self.scale * sinkhorn(gradient, self.rounds)
        return Rule(transformation=by_matrix(optax.stateless(step), leaf))


def sinkhorn(matrix: Float[Array, "m n"], rounds: int) -> Float[Array, "m n"]:
    """Returns a matrix with rows and columns of root mean square 1 (algorithm 3)."""
    most = jnp.max(jnp.abs(matrix))
    matrix = matrix / jnp.where(most > 0, most, 1.0)  # So that squares stay above zero.
    for _ in range(rounds):
        for axis in (1, 0):
            square = jnp.mean(jnp.square(matrix), axis=axis, keepdims=True)
            matrix = matrix * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
    return matrix
