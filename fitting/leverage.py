"""Efficiency leverage: the compute a dense model needs for a mixture of experts' loss."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fitting.law import Law, Parameter, Use, exponent

A_MAX = 5.28e16  # published; so large that 1/A_max is zero next to the other term


def _terms(columns, start):
    saturated = 1 / (1 / (columns["activation_ratio"] + 1 / (1 / start - 1 / A_MAX)) + 1 / A_MAX)
    base = np.log10(saturated)
    # The paper names no bases: only log10 of compute and log2 of granularity give its numbers.
    fine = np.log2(columns["granularity"])
    return base, base * np.log10(columns["flops"]), base * fine**2, base * fine


def _signed(name, unit):
    return Parameter(name, unit, 0.0, 100.0, positive=False)


def _best_granularity(law, parameters, settings):
    return {"granularity": 2 ** (-parameters["beta"] / (2 * parameters["gamma"]))}


LEVERAGE = Law(
    name="leverage",
    formula=(
        "log10 EL = log10(A + A_start) (a + d log10 C + gamma (log2 G)^2 + beta log2 G), "
        "A = activation_ratio, G = granularity, C = flops"
    ),
    predictors=("activation_ratio", "granularity", "flops"),
    parameters=(
        _signed("a", "1"),
        _signed("d", "per decade of FLOP"),
        _signed("gamma", "per doubling squared"),
        _signed("beta", "per doubling"),
        Parameter("A_start", "activation ratio", 1e-4, 0.3, (1e-3, 0.1)),
    ),
    terms=_terms,
    link="log10",
    target="leverage",
    uses={
        "best_granularity": Use(
            about="granularity with the most leverage, at any compute and activation ratio",
            settings={},
            outputs={"granularity": "2 x width / expert width"},
            answer=_best_granularity,
        )
    },
    identified_by="several activation ratios and granularities at several compute budgets",
    source="Tian et al. 2025 (arXiv:2507.17702) eq. 8, table 2",
    published={
        "paper": {"a": 1.23, "d": -7.61e-2, "gamma": 1.67e-2, "beta": -1.17e-1, "A_start": 1.63e-2}
    },
    constants={"A_max": A_MAX},
)

COMPUTE = Law(
    name="compute",
    formula="L = alpha C^-beta, C = flops",
    predictors=("flops",),
    parameters=(Parameter("alpha", "nats/token x FLOP^beta"), exponent("beta", start=(0.01, 0.4))),
    terms=lambda columns, beta: (columns["flops"] ** -beta,),
    identified_by="two or more compute budgets",
    gradient=lambda columns, terms, beta: ((-np.log(columns["flops"]) * terms[0],),),
    source="Tian et al. 2025 (arXiv:2507.17702) sec. 3: one curve per architecture",
)


def measured_leverage(dense: Mapping, moe: Mapping, flops: ArrayLike) -> np.ndarray:
    """Leverage from two compute curves: dense compute with the mixture's loss / its compute.

    Args:
      dense: {"alpha", "beta"} of the `compute` law, numbers or draws.
      moe: the same of the mixture.
      flops: FLOP.
    """
    ratio = (dense["alpha"] / moe["alpha"]) ** (1 / dense["beta"])
    return ratio * np.asarray(flops, float) ** (moe["beta"] / dense["beta"] - 1)
