"""Kron: PSGD with Kronecker factors that whiten the gradient (Li, arXiv:1512.04202, 2402.11858)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int, UInt32

from models import Leaf
from scaling.optimizers.adamw import rest
from scaling.optimizers.rule import Optimizer, Rule, by_matrix, is_matrix, key_of

# The authors' schedule of how likely a step renews the factors: certain for 500 steps, then
# falling by 0.001 a step to 3 %.
FLAT, FALL, LEAST = 500, 0.001, 0.03
LARGEST_RMS = 1.1  # A direction's root mean square at most: the authors' code.


class Factors(NamedTuple):
    """State of one matrix: steps, momentum, upper triangular factors (None: identity), the key."""

    count: Int[Array, ""]
    mu: Float[Array, "m n"]
    left: Float[Array, "m m"] | None
    right: Float[Array, "n n"] | None
    key: UInt32[Array, "2"]


@dataclass(frozen=True, kw_only=True)
class Kron(Optimizer):
    """PSGD with triangular Kronecker factors for hidden matrices, AdamW for the rest.

    The momentum M, corrected for bias, becomes Q_LᵀQ_L M Q_RᵀQ_R. The factors descend on the
    whitening criterion along their group (arXiv:2402.11858, section 3; the form of the authors'
    `kron`): with A = Q_L M Q_Rᵀ and B = Q_L^−ᵀ V Q_R^−1 for normal V, Q_L falls by
    speed·triu(AAᵀ − BBᵀ)Q_L over a lower bound of the norm of AAᵀ + BBᵀ, Q_R likewise; at every
    step at first, later at 3 % of them, drawn. A dimension above `most` keeps the identity.
    `adam_rate` multiplies the rate of AdamW's leaves.

    In a fleet every member renews its factors at every step, because members branch alike. On a
    mesh the momentum stays split over `fsdp` like its matrix; factors are whole on every device,
    since triangular systems are not split.
    """

    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-8
    speed: float = 0.1
    most: int = 8192
    adam_rate: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2")
        self.positive("epsilon", "speed", "most", "adam_rate")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The whitened momentum for hidden matrices, each by itself; else Adam."""
        if not is_matrix(leaf):
            return rest(self)
        whole = optax.GradientTransformation(lambda value: self.begun(path, value), self.moved)
        return Rule(transformation=by_matrix(whole, leaf), flops=self.flops(leaf))

    def begun(self, path: str, value: Array) -> Factors:
        """Returns the first state: identities."""
        left, right = (jnp.eye(k) if k <= self.most else None for k in value.shape)
        count, mu = jnp.zeros((), jnp.int32), jnp.zeros_like(value)
        return Factors(count, mu, left, right, key_of(path, value))

    def moved(self, gradient: Array, state: Factors, value=None) -> tuple[Array, Factors]:
        """Returns one matrix's direction and its state after a step."""
        mu = self.b1 * state.mu + (1 - self.b1) * gradient
        ahead = optax.tree.bias_correction(mu, self.b1, state.count + 1)
        often = jnp.clip(jnp.exp(-FALL * (state.count - FLAT)), LEAST, 1.0)
        chance, probe = jax.random.split(jax.random.fold_in(state.key, state.count))
        left, right = jax.lax.cond(
            jax.random.uniform(chance) < often,
            lambda: self.renewed(ahead, jax.random.normal(probe, mu.shape), state),
            lambda: (state.left, state.right),
        )
        inside = times(left, ahead, right)
        direction = times(transposed(left), inside, transposed(right))
        size = jnp.sqrt(jnp.mean(jnp.square(direction)))
        direction = direction / jnp.maximum(size / LARGEST_RMS, 1.0)
        return direction, Factors(state.count + 1, mu, left, right, state.key)

    def renewed(self, ahead: Array, probe: Array, state: Factors) -> tuple:
        """Moves both factors a step down the whitening criterion."""
        left, right = state.left, state.right
        a, b = times(left, ahead, right), probe
        b = b if left is None else solve_triangular(left, b, trans=1)
        b = b if right is None else solve_triangular(right, b.T, trans=1).T
        step = lambda factor, one, other: (
            None
            if factor is None
            else factor - self.speed / bound(one + other) * jnp.triu(one - other) @ factor
        )
        return step(left, a @ a.T, b @ b.T), step(right, a.T @ a, b.T @ b)

    def flops(self, leaf: Leaf) -> float:
        """Counts a late step's products: four to whiten; of the factors' renewal 3 %.

        That is A, B by triangular systems (half as much), four squares, and the step itself.
        """
        total = 0.0
        for k, other in (leaf.shape[-2:], leaf.shape[:-3:-1]):
            if k <= self.most:
                thin = 2.0 * k * k * other
                total += 2 * thin + LEAST * (3.5 * thin + 2.0 * k**3)
        return math.prod(leaf.shape[:-2]) * total


def times(left: Array | None, matrix: Array, right: Array | None) -> Array:
    """Returns left · matrix · rightᵀ; None is the identity."""
    matrix = matrix if left is None else left @ matrix
    return matrix if right is None else matrix @ right.T


def transposed(factor: Array | None) -> Array | None:
    """Returns a factor's transpose."""
    return None if factor is None else factor.T


def bound(square: Float[Array, "k k"]) -> Float[Array, ""]:
    """Returns a lower bound of a symmetric matrix's norm: how it stretches its longest column."""
    most = jnp.max(jnp.abs(square))
    scaled = square / most
    longest = scaled[:, jnp.argmax(jnp.sum(jnp.square(scaled), axis=0))]
    return most * jnp.linalg.norm(scaled @ longest) / jnp.linalg.norm(longest)
