"""The over-training law: parallel lines in compute, one per token multiplier."""

import numpy as np

from fitting.chinchilla import IDENTIFIED_BY, allocation
from fitting.law import Law, Parameter, exponent


def _compute_and_multiplier(columns):
    params, tokens = columns["params"], columns["tokens"]
    return 6.0 * params * tokens, tokens / params


def _terms(columns, eta):
    flops, multiplier = _compute_and_multiplier(columns)
    return 1.0, (flops / multiplier) ** -eta, (flops * multiplier) ** -eta


def _gradient(columns, terms, eta):
    flops, multiplier = _compute_and_multiplier(columns)
    by_a = -np.log(flops / multiplier) * terms[1]
    by_b = -np.log(flops * multiplier) * terms[2]
    return ((None, by_a, by_b),)


def as_chinchilla(parameters) -> dict:
    """The same law as E, A, B, alpha, beta: Chinchilla with both exponents equal to 2 eta."""
    eta = np.asarray(parameters["eta"])
    scaled = {"A": parameters["a"] * 6.0**-eta, "B": parameters["b"] * 6.0**-eta}
    return {"E": parameters["E"], **scaled, "alpha": 2 * eta, "beta": 2 * eta}


OVER_TRAINING = Law(
    name="over_training",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, C = 6 params tokens, M = tokens / params",
    predictors=("params", "tokens"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("a", "nats/token x FLOP^eta"),
        Parameter("b", "nats/token x FLOP^eta"),
        exponent("eta", start=(0.02, 0.6)),
    ),
    terms=_terms,
    gradient=_gradient,
    allocation=lambda parameters, flops, settings: allocation(as_chinchilla(parameters), flops),
    identified_by=IDENTIFIED_BY,
    source="Gadre et al. 2024 (arXiv:2403.08540) eq. 4; values refitted to mlfoundations/scaling",
    published={
        "c4": {"E": 1.508261, "a": 141.2773, "b": 189.5155, "eta": 0.121236},
        "redpajama": {"E": 1.836648, "a": 212.2361, "b": 366.6872, "eta": 0.136425},
        "refinedweb": {"E": 1.734462, "a": 157.1163, "b": 246.2067, "eta": 0.127197},
    },
)


def _exact_terms(columns, eta):
    multiplier = columns["tokens"] / columns["params"]
    return 1.0, (columns["flops"] / multiplier) ** -eta, (columns["flops"] * multiplier) ** -eta


OVER_TRAINING_EXACT = Law(
    name="over_training_exact",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, C = flops, M = tokens / params",
    predictors=("params", "tokens", "flops"),
    parameters=OVER_TRAINING.parameters,
    terms=_exact_terms,
    identified_by=IDENTIFIED_BY,
    source="the form of Gadre et al. 2024 (arXiv:2403.08540) eq. 4 with training FLOPs as counted",
)
