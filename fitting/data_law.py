"""Loss against tokens alone, at a fixed model."""

import numpy as np

from fitting.law import Law, Parameter, exponent


def _terms(columns, beta):
    return 1.0, columns["tokens"] ** -beta


def _gradient(columns, terms, beta):
    return ((None, -np.log(columns["tokens"]) * terms[1]),)


DATA = Law(
    name="data",
    formula="L = E + B tokens^-beta",
    predictors=("tokens",),
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("B", "nats/token x tokens^beta"),
        exponent("beta", start=(0.03, 1.2)),
    ),
    terms=_terms,
    gradient=_gradient,
    identified_by="three or more numbers of tokens that span a decade, at one size",
    source="Hestness et al. 2017 (arXiv:1712.00409) sec. 3; the Chinchilla law at one model size",
)
