"""Muon: an orthogonalised momentum for hidden matrices (Jordan et al. 2024), AdamW for the rest.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon/).
"""

import math
from dataclasses import dataclass

import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from models import Leaf
from scaling.optimizers.rule import Optimizer, Rule


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

    On a mesh a matrix split over `fsdp` stays split outside the update; inside, XLA gathers or sums
    what the products of the iteration need, and every device orthogonalises the same whole matrix.
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
        if not (leaf.group.hidden and len(leaf.shape) >= 2):
            adam = optax.scale_by_adam(self.b1, self.b2, self.epsilon)
            return Rule(transformation=adam, rate=self.adam_rate)
        axes = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
        muon = scale_by_muon(ns_steps=self.steps, beta=self.momentum, weight_dimension_numbers=axes)
        return Rule(transformation=optax.chain(muon, optax.scale(self.scale(leaf))))

    def scale(self, leaf: Leaf) -> float:
        """Returns what an orthogonal matrix of a leaf's shape is multiplied by."""
        fan_in, fan_out = leaf.shape[-2:]
        if self.rms is None:
            return math.sqrt(max(1.0, fan_out / fan_in))
        return self.rms * math.sqrt(max(fan_in, fan_out))
