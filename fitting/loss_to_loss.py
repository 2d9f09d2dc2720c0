"""From the loss on one corpus to the loss on another, of the same models."""

import numpy as np

from fitting.law import Law, Parameter

_NOTHING = 1e-12


def loss_to_loss(source: str = "loss", name: str = "loss_to_loss") -> Law:
    """L_b = E_b + K (L_a - E_a)^kappa, from the column `source`, nats/token.

    E_a and E_b may be held at the floors of fits on each corpus (`fixed`).
    """

    def terms(columns, floor, kappa):
        above = columns[source] - floor
        # At and below its floor the source tells nothing more: the target is at its own floor.
        return 1.0, np.exp(kappa * np.log(np.where(np.real(above) > 0, above, _NOTHING)))

    def starts(columns, target, count, rng):
        # Below the least loss of the source: above it the law says nothing.
        floors = columns[source].min() * rng.uniform(0.05, 0.98, count)
        return np.stack([floors, rng.uniform(0.6, 1.6, count)], axis=1)

    return Law(
        name=name,
        formula=f"target = E_b + K ({source} - E_a)^kappa",
        predictors=(source,),
        parameters=(
            Parameter("E_b", "nats/token"),
            Parameter("K", "1", 1e-6, 1e6),
            Parameter("E_a", "nats/token", 1e-6, 20.0, (0.3, 2.0)),
            Parameter("kappa", "1", 0.05, 10.0, (0.6, 1.6)),
        ),
        terms=terms,
        starts=starts,
        target="loss.target",
        identified_by="eight or more models whose losses span a factor of 1.5; floors if known",
        source="Brandfonbrener et al. 2024 (arXiv:2411.12925) eq. 3",
    )


LOSS_TO_LOSS = loss_to_loss()
