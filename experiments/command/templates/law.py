"""Loss falls as a power of the logarithm of the tokens: a law to be refuted.

Import this file, and the law is there by its name: `fitting.fit("example", table)`.
"""

import numpy as np

from fitting.law import Law, Parameter, exponent
from fitting.laws import LAWS


def terms(columns, beta):
    """A floor, and a power of log tokens: what the linear parameters, in their order, multiply."""
    return 1.0, np.exp(-beta * np.log(np.log(columns["tokens"])))


EXAMPLE = Law(
    name="example",
    formula="L = E + B (log tokens)^-beta",
    # Columns of a run table; any column that the table has will do.
    predictors=("tokens",),
    # Those that the loss is linear in come first; those with a box of starts are searched.
    parameters=(
        Parameter("E", "nats/token"),
        Parameter("B", "nats/token"),
        exponent("beta"),
    ),
    terms=terms,
    identified_by="tokens that span several decades",
    source="your paper, its equation",
)

# In a checkout of Espalier a law is an import in `fitting/laws.py` instead.
LAWS[EXAMPLE.name] = EXAMPLE
