"""Sparse mixtures in total parameters, tokens and the share of experts in use, with a floor."""

import numpy as np

from fitting.law import Law, Parameter, exponent


def _terms(columns, alpha, beta, lam, delta, gamma):
    size, data = np.log(columns["params_total"]), np.log(columns["tokens"])
    used = np.log(columns["activation_ratio"])
    return (
        1.0,
        np.exp(-alpha * size),
        np.exp(-beta * data),
        np.exp(-lam * used),
        np.exp(-delta * used - gamma * size),
    )


def _gradient(columns, terms, *shape):
    size, data = np.log(columns["params_total"]), np.log(columns["tokens"])
    used = np.log(columns["activation_ratio"])
    # Every term is a power, so each derivative is minus a logarithm times the term.
    moves = ((1, size), (2, data), (3, used), (4, used), (4, size))
    return tuple(
        tuple(-log * terms[k] if k == which else None for k in range(5)) for which, log in moves
    )


SPARSITY = Law(
    name="sparsity",
    formula=(
        "L = e + a N^-alpha + b D^-beta + c (1 - S)^-lambda + d (1 - S)^-delta N^-gamma, "
        "N = params_total, D = tokens, 1 - S = activation_ratio"
    ),
    predictors=("params_total", "tokens", "activation_ratio"),
    parameters=(
        Parameter("e", "nats/token"),
        Parameter("a", "nats/token x params^alpha"),
        Parameter("b", "nats/token x tokens^beta"),
        Parameter("c", "nats/token"),
        Parameter("d", "nats/token x params^gamma"),
        exponent("alpha"),
        exponent("beta"),
        # Of either sign: a negative lambda is a term that vanishes as the mixture grows sparser.
        Parameter("lambda", "1", 0.0, 3.0, (-0.5, 0.5), positive=False),
        exponent("delta"),
        exponent("gamma"),
    ),
    terms=_terms,
    gradient=_gradient,
    identified_by="several total sizes and tokens at each of several activation ratios",
    source="Abnar et al. 2025 (arXiv:2501.12370): optimal sparsity of mixtures of experts",
)
