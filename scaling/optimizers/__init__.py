"""Optimizers, one file each; a new one is a frozen dataclass with a `rule`, and one entry here."""

import dataclasses

from refused import Refused, listed
from scaling.optimizers.adafactor import Adafactor
from scaling.optimizers.adam_mini import AdamMini
from scaling.optimizers.adamw import AdamW
from scaling.optimizers.ademamix import AdEMAMix
from scaling.optimizers.adopt import ADOPT
from scaling.optimizers.cautious import CautiousAdamW
from scaling.optimizers.cosmos import COSMOS
from scaling.optimizers.kron import Kron
from scaling.optimizers.lion import Lion
from scaling.optimizers.mars import MARS
from scaling.optimizers.muon import Muon
from scaling.optimizers.nadamw import NAdamW
from scaling.optimizers.rule import Optimizer, Rule
from scaling.optimizers.schedule_free import ScheduleFreeAdamW
from scaling.optimizers.scion import Scion
from scaling.optimizers.sinkgd import SinkGD
from scaling.optimizers.soap import SOAP
from scaling.optimizers.stosignsgd import StoSignSGD

OPTIMIZERS = {
    "adamw": AdamW,
    "lion": Lion,
    "muon": Muon,
    "nadamw": NAdamW,
    "soap": SOAP,
    "cautious": CautiousAdamW,
    "sinkgd": SinkGD,
    "scion": Scion,
    "mars": MARS,
    "adam_mini": AdamMini,
    "kron": Kron,
    "cosmos": COSMOS,
    "stosignsgd": StoSignSGD,
    "adafactor": Adafactor,
    "adopt": ADOPT,
    "ademamix": AdEMAMix,
    "schedule_free": ScheduleFreeAdamW,
}

# Optimizers that one may look for here, and why they are not.
ABSENT = {
    "sophia": "its Hessian needs a second gradient, of drawn labels, every few steps",
}

__all__ = ["OPTIMIZERS", "AdamW", "Lion", "Muon", "Optimizer", "Rule", "chosen", "named"]


def chosen(name: str) -> type[Optimizer]:
    """Returns the optimizer of a name.

    Raises:
      Refused: no optimizer of this name.
    """
    if name not in OPTIMIZERS:
        why = f" ({name} is not among them: {ABSENT[name]})" if name in ABSENT else ""
        raise Refused("optimizer", name, f"one of {listed(OPTIMIZERS, name)}{why}")
    return OPTIMIZERS[name]


def named(name: str, *, learning_rate: float, **settings) -> Optimizer:
    """Returns an optimizer by name, with the settings given.

    Raises:
      Refused: no optimizer of this name, or a setting that it does not have.
    """
    kind = chosen(name)
    known = [field.name for field in dataclasses.fields(kind)]
    for key in settings.keys() - set(known):
        raise Refused(f"optimizer.{key}", settings[key], f"for {name} one of {', '.join(known)}")
    return kind(learning_rate=learning_rate, **settings)
