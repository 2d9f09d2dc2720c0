"""The Chinchilla law in parameters and tokens, and its compute-optimal allocation."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fitting.law import Law, Parameter, Use, exponent


def _terms(columns, alpha, beta):
    size, data = np.log(columns["params"]), np.log(columns["tokens"])
    return 1.0, np.exp(-alpha * size), np.exp(-beta * data)


def _gradient(columns, terms, alpha, beta):
    by_alpha = -np.log(columns["params"]) * terms[1]
    by_beta = -np.log(columns["tokens"]) * terms[2]
    return (None, by_alpha, None), (None, None, by_beta)


def allocation(parameters: Mapping, flops: ArrayLike) -> dict:
    """Parameters and tokens that minimise the Chinchilla law at a compute budget.

    Args:
      parameters: {name: number or array (draws,)} of the law.
      flops: training FLOP, counted as 6 x params x tokens.

    Returns:
      {"params", "tokens", "loss"}; counts and nats/token. Source: Hoffmann et al. 2022 eq. 4.
    """
    alpha, beta = np.asarray(parameters["alpha"]), np.asarray(parameters["beta"])
    scale, coefficient = np.asarray(parameters["A"]), np.asarray(parameters["B"])
    ratio = (alpha * scale / (beta * coefficient)) ** (1 / (alpha + beta))
    budget = np.divide(flops, 6)
    params = ratio * budget ** (beta / (alpha + beta))
    tokens = budget ** (alpha / (alpha + beta)) / ratio
    loss = parameters.get("E", 0.0) + scale * params**-alpha + coefficient * tokens**-beta
    return {"params": params, "tokens": tokens, "loss": loss}


def exponent_of_size(law, parameters, settings) -> dict:
    """Exponent of the compute-optimal params in compute, beta / (alpha + beta)."""
    alpha, beta = np.asarray(parameters["alpha"]), np.asarray(parameters["beta"])
    return {"exponent": beta / (alpha + beta)}


SIZE_EXPONENT = Use(
    about="params that minimise the loss at a compute budget grow as compute to this power",
    settings={},
    outputs={"exponent": "1"},
    answer=exponent_of_size,
)
IDENTIFIED_BY = "several sizes at the same tokens and several tokens at the same size"


CHINCHILLA = Law(
    name="chinchilla",
    formula="L = E + A params^-alpha + B tokens^-beta",
    predictors=("params", "tokens"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("A", "nats/token x params^alpha"),
        Parameter("B", "nats/token x tokens^beta"),
        exponent("alpha"),
        exponent("beta"),
    ),
    terms=_terms,
    gradient=_gradient,
    allocation=lambda parameters, flops, settings: allocation(parameters, flops),
    uses={"exponent": SIZE_EXPONENT},
    identified_by=IDENTIFIED_BY,
    source="Hoffmann et al. 2022 (arXiv:2203.15556) eq. 2; Besiroglu et al. (arXiv:2404.10102)",
    published={
        # Rounded and unrounded values of the same published fit differ by 275 log-likelihood units.
        "hoffmann rounded": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
        "hoffmann unrounded": {
            "E": float(np.exp(0.5267228)),
            "A": float(np.exp(6.0073404)),
            "B": float(np.exp(6.0179186)),
            "alpha": 0.33917084,
            "beta": 0.2849083,
        },
        # E belongs to the Huber(1e-3) fit, the other four to the least-absolute-deviation fit.
        "besiroglu table": {
            "E": 1.8172,
            "A": 482.01,
            "B": 2085.43,
            "alpha": 0.3478,
            "beta": 0.3658,
        },
    },
)


def _terms_without_floor(columns, alpha, beta):
    return _terms(columns, alpha, beta)[1:]


CHINCHILLA_NO_FLOOR = Law(
    name="chinchilla_no_floor",
    formula="L = A params^-alpha + B tokens^-beta",
    predictors=("params", "tokens"),
    parameters=CHINCHILLA.parameters[1:],
    terms=_terms_without_floor,
    allocation=lambda parameters, flops, settings: allocation(parameters, flops),
    uses={"exponent": SIZE_EXPONENT},
    identified_by=IDENTIFIED_BY,
    source="the Chinchilla law with E = 0, a baseline",
)
