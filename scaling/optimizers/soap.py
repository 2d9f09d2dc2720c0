"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (arXiv:2409.11321)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models import Leaf
from scaling.optimizers.adamw import rest
from scaling.optimizers.rule import Optimizer, Rule, by_matrix, is_matrix


class Side(NamedTuple):
    """What is known of one dimension of a matrix: its mean Gᵀ-products and their eigenvectors."""

    square: Float[Array, "k k"]
    basis: Float[Array, "k k"]


class Soap(NamedTuple):
    """State of one matrix: gradients so far, moments (`nu` in the bases), and both dimensions."""

    count: Int[Array, ""]
    mu: Float[Array, "m n"]
    nu: Float[Array, "m n"]
    left: Side | None
    right: Side | None


@dataclass(frozen=True, kw_only=True)
class SOAP(Optimizer):
    """Adam in a slowly turning basis for hidden matrices (Vyas et al. 2024, algorithm 3), AdamW for
    embeddings, head and vectors, as the authors say.

    Bases are the eigenvectors of the running means (`b_square`) of GGᵀ and GᵀG, renewed every
    `every` steps by one power step and a QR decomposition (algorithm 4). The first gradient only
    sets the bases, as in the authors' code: in its own basis a gradient is diagonal, and Adam would
    blow the rounding beside the diagonal up to full steps. A dimension above `most` keeps the
    identity for a basis (section 4.1). Matrices are not cut into blocks. `adam_rate` multiplies the
    rate of AdamW's leaves.

    In a fleet every member decomposes at every step, because members of one program branch alike.
    On a mesh moments stay split over `fsdp` like their matrix; GGᵀ, GᵀG and the bases are whole on
    every device, since a decomposition is not split.
    """

    b1: float = 0.95
    b2: float = 0.95
    b_square: float = 0.95
    epsilon: float = 1e-8
    every: int = 10
    most: int = 10_000
    adam_rate: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2", "b_square")
        self.positive("epsilon", "every", "most", "adam_rate")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Adam in the eigenbasis for hidden matrices, each by itself; else Adam as it is."""
        if not is_matrix(leaf):
            return rest(self)
        return Rule(transformation=by_matrix(self.in_bases(), leaf), flops=self.flops(leaf))

    def in_bases(self) -> optax.GradientTransformation:
        """Returns the rule of one matrix [m, n]."""

        def init(value):
            side = lambda k: Side(jnp.zeros((k, k)), jnp.eye(k)) if k <= self.most else None
            zero = jnp.zeros_like(value)
            return Soap(jnp.zeros((), jnp.int32), zero, zero, *map(side, value.shape))

        def step(gradient, state, value=None):
            first, sides = state.count == 0, (state.left, state.right)
            mu = self.b1 * state.mu + (1 - self.b1) * gradient
            nu = self.b2 * state.nu + (1 - self.b2) * jnp.square(turned(gradient, *sides))
            steps = jnp.maximum(state.count, 1)
            corrected = optax.tree.bias_correction
            root = jnp.sqrt(corrected(nu, self.b2, steps))
            inside = turned(corrected(mu, self.b1, steps), *sides) / (root + self.epsilon)
            moved = (turned_back(inside, *sides), mu, nu)
            direction, mu, nu = (jnp.where(first, 0.0, x) for x in moved)
            left = self.renewed(state.left, gradient @ gradient.T, state.count)
            right = self.renewed(state.right, gradient.T @ gradient, state.count)
            return direction, Soap(state.count + 1, mu, nu, left, right)

        return optax.GradientTransformation(init, step)

    def renewed(self, side: Side | None, square: Array, count: Array) -> Side | None:
        """Takes a gradient's products into a side, and turns its basis when it is due."""
        if side is None:
            return None
        square = self.b_square * side.square + (1 - self.b_square) * square
        exact = lambda: jnp.linalg.eigh(square)[1][:, ::-1]  # Largest first, as QR keeps them.
        turn = lambda: jnp.linalg.qr(square @ side.basis)[0]
        later = lambda: jax.lax.cond(count % self.every == 0, turn, lambda: side.basis)
        return Side(square, jax.lax.cond(count == 0, exact, later))

    def flops(self, leaf: Leaf) -> float:
        """Counts a step's products: turning there twice and back, GGᵀ, GᵀG; and QR by its share.

        A QR decomposition of [k, k] with its Q takes 8/3·k³ (Golub & Van Loan 2013, section 5.2),
        the power step before it 2·k³.
        """
        total = 0.0
        for k, other in (leaf.shape[-2:], leaf.shape[:-3:-1]):
            if k <= self.most:
                total += 4 * 2 * k * k * other + (2 + 8 / 3) * k**3 / self.every
        return math.prod(leaf.shape[:-2]) * total


def turned(matrix: Array, left: Side | None, right: Side | None) -> Array:
    """Returns a matrix in its bases: Q_Lᵀ G Q_R."""
    matrix = matrix if left is None else left.basis.T @ matrix
    return matrix if right is None else matrix @ right.basis


def turned_back(matrix: Array, left: Side | None, right: Side | None) -> Array:
    """Returns a matrix out of its bases: Q_L G Q_Rᵀ."""
    matrix = matrix if left is None else left.basis @ matrix
    return matrix if right is None else matrix @ right.basis.T
