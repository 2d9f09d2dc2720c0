"""COSMOS: SOAP in a leading subspace, Muon beside it (Liu et al. 2025, arXiv:2502.17410)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models import Leaf
from scaling.optimizers.adamw import rest
from scaling.optimizers.muon import newton_schulz, newton_schulz_flops
from scaling.optimizers.rule import Optimizer, Rule, by_matrix, is_matrix

# A remainder below this share of the momentum's norm is rounding, and would be blown up.
ROUNDING = 1e-5


class Cosmos(NamedTuple):
    """State of one matrix G [m, n]: steps so far, momentum, and the subspace of rank r.

    `basis` is P, `inside` the running mean of (GP)ᵀGP in it, `square` of the entries of GP squared.
    """

    count: Int[Array, ""]
    momentum: Float[Array, "m n"]
    basis: Float[Array, "n r"]
    inside: Float[Array, "r r"]
    square: Float[Array, "m r"]


@dataclass(frozen=True, kw_only=True)
class COSMOS(Optimizer):
    """COSMOS (algorithm 1) for hidden matrices, AdamW for embeddings, head and vectors, as the
    authors say.

    The input dimension is projected on `rank` directions that follow the leading eigenvectors of
    GᵀG by one power step and a QR decomposition a step. Inside, the momentum is divided by the root
    of its second moment; what is left outside is orthogonalised by Newton–Schulz steps and added
    `gamma` times. The sum has a root mean square of `scale`. At full rank nothing is left outside.
    The subspace starts at the first `rank` coordinates. `adam_rate` multiplies the rate of AdamW's
    leaves.

    In a fleet nothing changes. On a mesh the momentum stays split over `fsdp` like its matrix; the
    subspace's arrays are whole on every device, since QR is not split.
    """

    rank: int = 64
    gamma: float = 0.2
    scale: float = 0.2
    b1: float = 0.95
    b2: float = 0.95
    epsilon: float = 1e-8
    steps: int = 5
    adam_rate: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.fractions("b1", "b2")
        self.positive("rank", "gamma", "scale", "epsilon", "steps", "adam_rate")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Both parts for hidden matrices [in, out], each by itself; else Adam."""
        if not is_matrix(leaf):
            return rest(self)
        fan_in, fan_out = leaf.shape[-2:]
        rank = min(self.rank, fan_in)

        def init(value):
            zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
            basis, square = jnp.eye(fan_in, rank), zeros(fan_out, rank)
            return Cosmos(
                jnp.zeros((), jnp.int32), zeros(*value.shape), basis, zeros(rank, rank), square
            )

        def step(gradient, state, value=None):
            direction, after = self.moved(gradient.T, state)  # As published, [out, in].
            return direction.T, after

        whole = optax.GradientTransformation(init, step)
        return Rule(transformation=by_matrix(whole, leaf), flops=self.flops(leaf, rank))

    def moved(self, gradient: Float[Array, "m n"], state: Cosmos) -> tuple[Array, Cosmos]:
        """Returns one matrix's direction [m, n] and its state after a step."""
        count, (b1, b2) = state.count + 1, (self.b1, self.b2)
        momentum = b1 * state.momentum + gradient.T
        basis, inside, square = self.followed(gradient, state)
        seen = (1 - b1**count) / (1 - b1)
        ahead = (gradient + b1 * momentum.T) / (1 + b1 * seen)
        within = ahead @ basis
        scaled = within / (jnp.sqrt(square / (1 - b2**count)) + self.epsilon)
        direction = scaled @ basis.T + self.gamma * self.outside(ahead, within, basis)
        size = jnp.sqrt(jnp.mean(jnp.square(direction)))
        direction = self.scale * direction / jnp.where(size > 0, size, 1.0)
        return direction, Cosmos(count, momentum, basis, inside, square)

    def followed(self, gradient: Array, state: Cosmos) -> tuple[Array, Array, Array]:
        """Turns the subspace by a power step; returns P, (GP)ᵀGP and (GP)² of it."""
        before = gradient.T @ (gradient @ state.basis)
        power = self.b2 * state.basis @ state.inside + (1 - self.b2) * before
        basis = jnp.linalg.qr(power)[0]
        turn, seen = state.basis.T @ basis, gradient @ basis
        inside = self.b2 * turn.T @ state.inside @ turn + (1 - self.b2) * seen.T @ seen
        return basis, inside, self.b2 * state.square + (1 - self.b2) * jnp.square(seen)

    def outside(self, ahead: Array, within: Array, basis: Array) -> Array:
        """Returns what the subspace leaves of the momentum, near orthogonal, of norm √(m·n)."""
        left = ahead - within @ basis.T
        if basis.shape[0] == basis.shape[1]:
            return jnp.zeros_like(left)
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x)))
        found = newton_schulz(left, self.steps)
        size = norm(found)
        found = found * math.sqrt(left.size) / jnp.where(size > 0, size, 1.0)
        return jnp.where(norm(left) > ROUNDING * norm(ahead), found, 0.0)

    def flops(self, leaf: Leaf, rank: int) -> float:
        """Counts a step's products with the subspace, its QR decomposition, and Newton–Schulz's."""
        n, m = leaf.shape[-2:]
        thin = 2.0 * n * rank * rank
        # GP and Gᵀ(GP), GP again, NP, and two products back; PS, PᵀP, two r×r and (GP)ᵀGP; QR.
        one = 6 * 2.0 * m * n * rank + 2 * thin + 4.0 * rank**3 + 2.0 * m * rank * rank
        one += 4.0 * n * rank * rank - 4 / 3 * rank**3
        total = math.prod(leaf.shape[:-2]) * one
        return total if rank == n else total + newton_schulz_flops(leaf, self.steps)
