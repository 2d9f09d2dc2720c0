"""The joint mixture-of-experts law in active parameters, tokens and experts."""

import numpy as np

from fitting.chinchilla import allocation
from fitting.law import Law, Parameter
from fitting.routed import effective_experts


def _terms(columns, alpha, delta, gamma, beta, omega, zeta, start, most):
    routed = np.log(effective_experts(columns["experts"], start, most))
    size, data = np.log(columns["params_active"]), np.log(columns["tokens"])
    by_size = np.exp(delta * routed + (alpha + gamma * routed) * size)
    by_data = np.exp(omega * routed + (beta + zeta * routed) * data)
    return 1.0, by_size, by_data


def _gradient(columns, terms, alpha, delta, gamma, beta, omega, zeta, start, most):
    size, data = np.log(columns["params_active"]), np.log(columns["tokens"])
    grown = effective_experts(columns["experts"], start, most)
    routed = np.log(grown)
    first = 1 / (1 / start - 1 / most)
    # d ln E' in E_start and in E_max; `kept` is how much of the first expert's count is left.
    kept = (first / (columns["experts"] - 1 + first)) ** 2
    by_start, by_most = grown * kept / start**2, grown * (1 - kept) / most**2
    in_size, in_data = (delta + gamma * size) * terms[1], (omega + zeta * data) * terms[2]
    return (
        (None, size * terms[1], None),
        (None, routed * terms[1], None),
        (None, routed * size * terms[1], None),
        (None, None, data * terms[2]),
        (None, None, routed * terms[2]),
        (None, None, routed * data * terms[2]),
        (None, in_size * by_start, in_data * by_start),
        (None, in_size * by_most, in_data * by_most),
    )


def _signed(name, low, high):
    return Parameter(name, "1", 0.0, 3.0, (low, high), positive=False)


def at_experts(parameters, experts) -> dict:
    """The Chinchilla law that the joint law becomes at one expert count: E, A, B, alpha, beta."""
    grown = effective_experts(experts, parameters["E_start"], parameters["E_max"])
    routed = np.log(grown)
    return {
        "E": parameters["c"],
        "A": parameters["a"] * grown ** parameters["delta"],
        "B": parameters["b"] * grown ** parameters["omega"],
        "alpha": -(parameters["alpha"] + parameters["gamma"] * routed),
        "beta": -(parameters["beta"] + parameters["zeta"] * routed),
    }


def _allocation(parameters, flops, settings):
    return allocation(at_experts(parameters, settings["experts"]), flops)


JOINT_MOE = Law(
    name="joint_moe",
    formula=(
        "L = c + a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E'), "
        "N = params_active, D = tokens, E' as in the routed law"
    ),
    predictors=("params_active", "tokens", "experts"),
    parameters=(
        Parameter("c", "nats/token"),
        Parameter("a", "nats/token x params^-alpha"),
        Parameter("b", "nats/token x tokens^-beta"),
        _signed("alpha", -0.4, -0.05),
        _signed("delta", -0.8, 0.2),
        _signed("gamma", -0.03, 0.03),
        _signed("beta", -0.4, -0.05),
        _signed("omega", -0.2, 1.0),
        _signed("zeta", -0.05, 0.03),
        Parameter("E_start", "experts", 1.0, 20.0, (1.05, 6.0)),
        Parameter("E_max", "experts", 30.0, 1e5, (50.0, 1500.0)),
    ),
    terms=_terms,
    gradient=_gradient,
    allocation=_allocation,
    identified_by="several sizes and tokens at each of several expert counts, dense ones included",
    source="Ludziejewski et al. 2025 (arXiv:2502.05172) eq. 6, table 3",
    published={
        "paper": {
            **{"a": 35.91, "alpha": -0.1889, "delta": -0.2285, "gamma": 0.0098, "c": 1.3637},
            **{"b": 35.98, "beta": -0.1775, "omega": 0.5529, "zeta": -0.0259},
            **{"E_start": 2.0732, "E_max": 290.4521},
        }
    },
)
