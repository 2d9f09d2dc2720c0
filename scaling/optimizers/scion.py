"""Scion: steepest descent under a norm per layer (Pethick et al. 2025, arXiv:2502.07529)."""

import math
from dataclasses import dataclass

import optax
from optax.contrib import scale_by_muon

from models import Leaf
from scaling.optimizers.muon import AXES, newton_schulz_flops
from scaling.optimizers.rule import Optimizer, Rule, is_matrix


@dataclass(frozen=True, kw_only=True)
class Scion(Optimizer):
    """The direction that falls most within a norm's ball, for a mean of gradients (algorithm 1).

    Hidden matrices have the spectral norm: the mean brought near the closest orthogonal matrix by
    `steps` Newton–Schulz steps, times √max(1, out/in). All else, embeddings, head, vectors and
    tables, has the largest entry: the mean's sign, at `sign_rate` of the rate. So rates are of its
    own, larger than AdamW's, such as 0.02. One mean of gradients, `momentum`, is all the state.
    (Without decay it is the paper's unconstrained algorithm, with decay the constrained one.)

    On a mesh a matrix and its mean stay split over `fsdp`; the iteration gathers as Muon's does.
    """

    momentum: float = 0.95
    steps: int = 5
    sign_rate: float = 0.25

    def __post_init__(self):
        super().__post_init__()
        self.fractions("momentum")
        self.positive("steps", "sign_rate")

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """The spectral norm's direction for hidden matrices, each by itself; else the sign."""
        if not is_matrix(leaf):
            sign = optax.chain(optax.ema(self.momentum, debias=False), optax.scale_by_sign())
            return Rule(transformation=sign, rate=self.sign_rate)
        orthogonal = scale_by_muon(
            ns_steps=self.steps, beta=self.momentum, nesterov=False, weight_dimension_numbers=AXES
        )
        fan_in, fan_out = leaf.shape[-2:]
        scale = optax.scale(math.sqrt(max(1.0, fan_out / fan_in)))
        flops = newton_schulz_flops(leaf, self.steps)
        return Rule(transformation=optax.chain(orthogonal, scale), flops=flops)
