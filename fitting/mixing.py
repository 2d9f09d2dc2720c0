"""The log-linear data-mixing law in the form that `fit` takes, with intervals for its parameters.

`fitting.mixtures.log_linear` fits the same law in milliseconds, for predictions and proposals.
"""

import numpy as np

from fitting.law import Law, Parameter
from refused import Refused


def mixing_law(domains, target: str) -> Law:
    """The log-linear mixing law for the loss on one domain.

    Shares sum to one, so one rate is redundant with k: that of the last domain is zero.

    Args:
      domains: names of the training domains, columns `mixture.<domain>`; at least two.
      target: column of the loss, for instance `loss.pile_cc`.
    """
    domains = tuple(domains)
    if len(domains) < 2:
        raise Refused("domains", len(domains), "at least two")
    columns_of = tuple(f"mixture.{domain}" for domain in domains)

    def terms(columns, *rates):
        return 1.0, np.exp(
            sum(t * columns[name] for t, name in zip(rates, columns_of, strict=False))
        )

    def gradient(columns, found, *rates):
        return tuple((None, columns[name] * found[1]) for name in columns_of[: len(rates)])

    rates = (Parameter(f"t.{d}", "1", 0.0, 60.0, (-1.0, 1.0), positive=False) for d in domains[:-1])
    return Law(
        name=f"mixing for {target}",
        formula=f"{target} = c + k exp(sum of t.<domain> x share), t = 0 for {domains[-1]}",
        predictors=columns_of,
        parameters=(Parameter("c", "nats/token"), Parameter("k", "nats/token"), *rates),
        terms=terms,
        gradient=gradient,
        target=target,
        source="Ye et al. 2024 (arXiv:2403.16952) eq. 1",
    )
