"""Muon: an orthogonalised momentum for hidden matrices (Jordan et al. 2024), AdamW for the rest.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon/).
"""

import math
from dataclasses import dataclass

import optax
from jaxtyping import Array, Float
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from models import Leaf
from scaling.optimizers.adamw import rest
from scaling.optimizers.rule import Optimizer, Rule, is_matrix

AXES = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Muon where a hidden state is multiplied by a matrix, AdamW everywhere else.

    Embeddings, head, gains, biases, prefixes, token tables and learned scales are AdamW's, as the
    authors say. Matrices of attention, feed-forward, router and aggregation are Muon's, each by
    itself; so are stacked experts [E, D, F], expert by expert, and the parameter tokens of
    TokenFormer, whose keys and values are multiplied by like any two layers. (Growth appends rows
    to a matrix that is orthogonalised as a whole, so the next step of old rows is not that of the
    model that was not grown, as it is under AdamW.)

    The direction is Nesterov's momentum (`momentum`), corrected for bias, brought near the closest
    orthogonal matrix by `steps` Newton–Schulz steps in the momentum's type, float32, multiplied as
    the device multiplies that type by default. With `rms` the direction is scaled by
    rms·√max(in, out): its root mean square is then that of AdamW's, whose rates and decays fit
    (Liu et al. 2025, arXiv:2502.16982, section 2.2); None scales by √max(1, out/in), as released by
    Jordan, for rates of its own, such as 0.02 with `adam_rate` 0.015. `adam_rate` multiplies the
    rate of AdamW's leaves.

    On a mesh a matrix and its momentum stay split over `fsdp` as its part says. XLA splits every
    product of the iteration too and gathers its factors for it: three gathers of at most the
    matrix's size a step (counted in the program for fsdp:4,data:2), none of them saved yet.
    """

    momentum: float = 0.95
    steps: int = 5
    rms: float | None = 0.2
    adam_rate: float = 1.0
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-8

    def __post_init__(self):
        super().__post_init__()
        self.positive("steps", "adam_rate", "epsilon", *(["rms"] if self.rms is not None else []))

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Muon for hidden matrices, the last two dimensions of which are in and out; else Adam."""
        if not is_matrix(leaf):
            return rest(self)
        muon = scale_by_muon(ns_steps=self.steps, beta=self.momentum, weight_dimension_numbers=AXES)
        scaled = optax.chain(muon, optax.scale(self.scale(leaf)))
        return Rule(transformation=scaled, flops=newton_schulz_flops(leaf, self.steps))

    def scale(self, leaf: Leaf) -> float:
        """Returns what an orthogonal matrix of a leaf's shape is multiplied by."""
        fan_in, fan_out = leaf.shape[-2:]
        if self.rms is None:
            return math.sqrt(max(1.0, fan_out / fan_in))
        return self.rms * math.sqrt(max(fan_in, fan_out))


def newton_schulz(matrix: Float[Array, "m n"], steps: int) -> Float[Array, "m n"]:
    """Returns a matrix near the closest orthogonal one; of a zero matrix zero."""
    muon = scale_by_muon(ns_steps=steps, beta=0.0, nesterov=False)
    return muon.update(matrix, muon.init(matrix))[0]


def newton_schulz_flops(leaf: Leaf, steps: int) -> float:
    """Counts the FLOPs of the iteration: of a leaf's matrices [m, n], m ≤ n, 4m²n + 2m³ a step.

    A step multiplies XXᵀ, its square, and a polynomial of it with X.
    """
    m, n = sorted(leaf.shape[-2:])
    return float(steps * math.prod(leaf.shape[:-2]) * (4 * m * m * n + 2 * m**3))
