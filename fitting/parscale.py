"""The parallel-scaling law: P streams act like a logarithmic factor on the parameters."""

import numpy as np

from fitting.law import Law, Parameter, Use, exponent


def _terms(columns, alpha, k):
    effective = columns["params_non_embedding"] * (1 + k * np.log(columns["streams"]))
    return 1.0, effective**-alpha


def _gradient(columns, terms, alpha, k):
    logs = np.log(columns["streams"])
    by_alpha = -np.log(columns["params_non_embedding"] * (1 + k * logs)) * terms[1]
    by_k = -alpha * logs / (1 + k * logs) * terms[1]
    return (None, by_alpha), (None, by_k)


def _derived(values):
    return {"A": values["A_alpha"] ** (1 / values["alpha"])}


def _effective(law, parameters, settings):
    factor = 1 + np.asarray(parameters["k"]) * np.log(settings["streams"])
    return {"params": settings["params_non_embedding"] * factor, "factor": factor}


PARSCALE = Law(
    name="parscale",
    formula="L = E + (A / (params (1 + k ln P)))^alpha, A = A_alpha^(1/alpha)",
    predictors=("params_non_embedding", "streams"),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("A_alpha", "nats/token x params^alpha"),
        exponent("alpha"),
        Parameter("k", "1", 1e-4, 30.0, (0.05, 2.0)),
    ),
    terms=_terms,
    gradient=_gradient,
    derived=_derived,
    uses={
        "effective_params": Use(
            about="parameters of the one-stream model with the same loss",
            settings={"params_non_embedding": "count", "streams": "P"},
            outputs={"params": "count", "factor": "1"},
            answer=_effective,
        )
    },
    identified_by="several sizes, each with one stream and with several",
    source="Chen et al. 2025 (arXiv:2505.10475) eq. 5",
    published={
        "stack": {"E": 0.6912, "A": 1.131e7, "alpha": 0.1894, "k": 0.3935},
        "pile": {"E": 1.2888, "A": 1.974e8, "alpha": 0.1963, "k": 0.3345},
    },
)
