"""The Skaling law: the Chinchilla terms under one power, so that size and data interact."""

import numpy as np

from fitting.chinchilla import IDENTIFIED_BY, SIZE_EXPONENT
from fitting.chinchilla import allocation as chinchilla_allocation
from fitting.law import Law, Parameter, exponent

# Units of the search: they keep both terms near one, and cancel in A and B.
PARAMS, TOKENS = 1e8, 1e10


def _parts(columns, ratio, alpha, beta):
    size, data = np.log(columns["params"] / PARAMS), np.log(columns["tokens"] / TOKENS)
    return size, data, np.exp(-alpha * size), ratio * np.exp(-beta * data)


def _terms(columns, ratio, alpha, beta, k):
    _, _, by_size, by_data = _parts(columns, ratio, alpha, beta)
    return 1.0, (by_size + by_data) ** k


def _gradient(columns, terms, ratio, alpha, beta, k):
    size, data, by_size, by_data = _parts(columns, ratio, alpha, beta)
    total = by_size + by_data
    slope = k * terms[1] / total
    moves = (slope * by_data / ratio, -slope * by_size * size, -slope * by_data * data)
    return tuple((None, move) for move in (*moves, terms[1] * np.log(total)))


def inner(parameters) -> dict:
    """A and B of the law as it is printed, L = E + (A params^-alpha + B tokens^-beta)^k."""
    scale = parameters["S"] ** (1 / parameters["k"])
    return {
        "A": scale * PARAMS ** parameters["alpha"],
        "B": scale * parameters["ratio"] * TOKENS ** parameters["beta"],
    }


def searched(printed) -> dict:
    """The fitted parameters E, S, ratio, alpha, beta, k from E, A, B, alpha, beta, k."""
    by_size = printed["A"] * PARAMS ** -printed["alpha"]
    by_data = printed["B"] * TOKENS ** -printed["beta"]
    rest = {name: printed[name] for name in ("alpha", "beta", "k")}
    return {"E": printed["E"], "S": by_size ** printed["k"], "ratio": by_data / by_size, **rest}


def _allocation(parameters, flops, settings):
    # A power and a floor do not move the place of the minimum (arXiv:2608.07222).
    exponents = {name: parameters[name] for name in ("alpha", "beta")}
    return chinchilla_allocation({**exponents, **inner(parameters)}, flops)


SKALING = Law(
    name="skaling",
    formula=(
        "L = E + (A params^-alpha + B tokens^-beta)^k "
        "= E + S ((params/1e8)^-alpha + ratio (tokens/1e10)^-beta)^k"
    ),
    predictors=("params", "tokens"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("S", "nats/token"),
        Parameter("ratio", "1", 1e-8, 1e8, (0.03, 30.0)),
        exponent("alpha"),
        exponent("beta"),
        Parameter("k", "1", 0.02, 20.0, (0.2, 2.0)),
    ),
    terms=_terms,
    gradient=_gradient,
    derived=inner,
    allocation=_allocation,
    uses={"exponent": SIZE_EXPONENT},
    identified_by=IDENTIFIED_BY,
    source="Skaling 2026 (arXiv:2608.07222); k = 1 is the Chinchilla law",
)
