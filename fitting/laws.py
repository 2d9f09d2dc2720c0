"""Every law by name."""

from fitting.chinchilla import CHINCHILLA, CHINCHILLA_NO_FLOOR
from fitting.data_law import DATA
from fitting.law import Law
from fitting.observations import Refused
from fitting.over_training import OVER_TRAINING, OVER_TRAINING_EXACT

LAWS: dict[str, Law] = {
    law.name: law for law in (CHINCHILLA, CHINCHILLA_NO_FLOOR, OVER_TRAINING, OVER_TRAINING_EXACT, DATA)
}


def law_named(law) -> Law:
    """A `Law` as it is, or the one with that name; Refused with the list for an unknown name."""
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise Refused("law", law, ", ".join(LAWS))
    return LAWS[law]
