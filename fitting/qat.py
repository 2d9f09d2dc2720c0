"""Quantisation-aware training: the loss law of four terms and the optimal share of its tokens."""

import numpy as np

from fitting.law import Law, Parameter, exponent
from fitting.qat_use import USES

# Scales that keep prefactors near one; they only choose the unit of zeta, phi and lambda.
_PARAMS, _TOKENS, _RATIO = 1e8, 1e10, 10.0


def tokens_per_byte(params, tokens, bits):
    """Training tokens per byte of quantised weights, S = tokens / (params bits / 8)."""
    return np.asarray(tokens) / (np.asarray(params) * np.asarray(bits) / 8)


def _logs(columns):
    """Logarithms that every term is a power in: data, size, bits, QAT and plain tokens per byte."""
    byte = columns["params"] * columns["bits"] / 8 * _RATIO
    by_qat, by_plain = (
        # Without tokens of a kind its terms vanish; the logarithm is 0 to stay finite.
        np.log(np.where(tokens > 0, tokens, byte) / byte)
        for tokens in (columns["tokens_qat"], columns["tokens_fp"])
    )
    data = np.log((columns["tokens_qat"] + columns["tokens_fp"]) / _TOKENS)
    return (
        data,
        np.log(columns["params"] / _PARAMS),
        np.log(2.0) * columns["bits"],
        by_qat,
        by_plain,
    )


def _terms(columns, gamma, eta, kappa, chi, psi, omega, mu, nu, xi, rho):
    data, size, bits, by_qat, by_plain = _logs(columns)
    used = columns["tokens_qat"] > 0
    both = used & (columns["tokens_fp"] > 0)
    # Powers as exponentials of sums: one exponential a term.
    return (
        1.0,
        np.exp(-gamma * data),
        np.exp(-eta * size),
        used * np.exp(-kappa * bits),
        used * np.exp(-chi * bits - psi * size - omega * by_qat),
        both * np.exp(-mu * bits - nu * size - xi * by_plain - rho * by_qat),
    )


def _gradient(columns, terms, *shape):
    data, size, bits, by_qat, by_plain = _logs(columns)
    # Every term is a power, so each derivative is minus a logarithm times the term.
    moves = ((1, data), (2, size), (3, bits), (4, bits), (4, size), (4, by_qat))
    moves += ((5, bits), (5, size), (5, by_plain), (5, by_qat))
    return tuple(
        tuple(-log * terms[k] if k == which else None for k in range(6)) for which, log in moves
    )


QAT = Law(
    name="qat",
    formula=(
        "L = alpha + beta D^-gamma + zeta N^-eta + theta 2^(-kappa bits) "
        "+ phi 2^(-chi bits) N^-psi S_qat^-omega + lambda 2^(-mu bits) N^-nu S_fp^-xi S_qat^-rho; "
        "D in 1e10 tokens, N in 1e8 params, S in 10 tokens per weight byte"
    ),
    predictors=("params", "tokens_qat", "tokens_fp", "bits"),
    parameters=(
        *(Parameter(name, "nats/token") for name in "alpha beta zeta theta phi lambda".split()),
        exponent("gamma"),
        exponent("eta"),
        *(Parameter(name, "1/bit", 1e-3, 6.0, (0.2, 2.0)) for name in ("kappa", "chi")),
        *(exponent(name) for name in ("psi", "omega")),
        Parameter("mu", "1/bit", 1e-3, 6.0, (0.2, 2.0)),
        exponent("nu"),
        Parameter("xi", "1", 0.0, 3.0, (-0.5, 0.5), positive=False),
        exponent("rho"),
    ),
    terms=_terms,
    gradient=_gradient,
    uses=USES,
    identified_by="hundreds of runs over sizes, tokens, bits and QAT shares, and some without QAT",
    source="Dremov et al. 2025 (arXiv:2509.22935): structure; their coefficients are not public",
)


def optimal_fraction(params, tokens, bits, a: float = 6.7297):
    """Share of the tokens best spent on QAT, exp(-a / ln S); 0 where S <= 1 and the law is void.

    Source: Dremov et al. 2025 (arXiv:2509.22935), a = 6.7297.
    """
    ratio = np.asarray(tokens_per_byte(params, tokens, bits), float)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(ratio > 1, np.exp(-a / np.log(np.maximum(ratio, 1.0))), 0.0)


def _fraction_terms(columns, a):
    ratio = tokens_per_byte(columns["params"], columns["tokens"], columns["bits"])
    return (np.exp(-a / np.log(np.maximum(ratio, 1 + 1e-9))),)


QAT_FRACTION = Law(
    name="qat_fraction",
    formula="f* = exp(-a / ln S), S = tokens / (params bits / 8), for S > 1",
    predictors=("params", "tokens", "bits"),
    parameters=(Parameter("a", "1", 1e-3, 1e3, (0.5, 30.0)),),
    terms=_fraction_terms,
    identified_by="measured best shares at several tokens per byte",
    target="optimal_fraction",
    source="Dremov et al. 2025 (arXiv:2509.22935)",
    published={"paper": {"a": 6.7297}},
)
