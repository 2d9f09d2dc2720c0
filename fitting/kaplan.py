"""Kaplan's law of parameters and tokens, without a floor."""

import numpy as np

from fitting.chinchilla import IDENTIFIED_BY
from fitting.chinchilla import allocation as chinchilla_allocation
from fitting.law import Law, Parameter, exponent

# Units of the search: they keep both terms near one, and cancel in N_c and D_c.
_PARAMS, _TOKENS = 1e8, 1e10


def _terms(columns, ratio, alpha_params, alpha_tokens):
    size, data = np.log(columns["params"] / _PARAMS), np.log(columns["tokens"] / _TOKENS)
    inner = np.exp(-alpha_params / alpha_tokens * size) + ratio * np.exp(-data)
    return (inner**alpha_tokens,)


def _starts(columns, target, count, rng):
    """Shapes near those that published and refitted tables have: N's power over D's is near one."""
    ratio = np.exp(rng.uniform(np.log(0.02), np.log(5.0), count))
    by_tokens = np.exp(rng.uniform(np.log(0.04), np.log(0.5), count))
    power = np.exp(rng.uniform(np.log(0.2), np.log(1.5), count))
    return np.stack([ratio, power * by_tokens, by_tokens], axis=1)


def scales(parameters) -> dict:
    """N_c and D_c, the parameters and tokens at which either alone gives one nat."""
    by_params = parameters["S"] ** (1 / parameters["alpha_N"])
    by_tokens = parameters["ratio"] * parameters["S"] ** (1 / parameters["alpha_D"])
    return {"N_c": _PARAMS * by_params, "D_c": _TOKENS * by_tokens}


def searched(printed) -> dict:
    """The fitted parameters S, ratio, alpha_N, alpha_D from N_c, D_c, alpha_N, alpha_D."""
    size = (printed["N_c"] / _PARAMS) ** (printed["alpha_N"] / printed["alpha_D"])
    rest = {name: printed[name] for name in ("alpha_N", "alpha_D")}
    ratio = printed["D_c"] / _TOKENS / size
    return {"S": size ** printed["alpha_D"], "ratio": ratio, **rest}


def _allocation(parameters, flops, settings):
    scale = scales(parameters)
    power = parameters["alpha_N"] / parameters["alpha_D"]
    inner = {"A": scale["N_c"] ** power, "B": scale["D_c"], "alpha": power, "beta": 1.0}
    return chinchilla_allocation(inner, flops)


KAPLAN = Law(
    name="kaplan",
    formula="L = ((N_c / params)^(alpha_N / alpha_D) + D_c / tokens)^alpha_D",
    predictors=("params", "tokens"),
    parameters=(
        Parameter("S", "nats/token"),
        Parameter("ratio", "1", 1e-8, 1e8, (0.01, 100.0)),
        exponent("alpha_N", start=(0.02, 0.5)),
        exponent("alpha_D", start=(0.02, 0.5)),
    ),
    terms=_terms,
    derived=scales,
    starts=_starts,
    allocation=_allocation,
    identified_by=IDENTIFIED_BY,
    source="Kaplan et al. 2020 (arXiv:2001.08361) eq. 1.5; params without embeddings",
    published={"paper": {"alpha_N": 0.076, "alpha_D": 0.103, "N_c": 6.4e13, "D_c": 1.8e13}},
)
