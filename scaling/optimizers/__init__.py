"""Optimizers, one file each; a new one is a frozen dataclass with a `rule`, and one entry here."""

import dataclasses

from refused import Refused
from scaling.optimizers.adamw import AdamW
from scaling.optimizers.lion import Lion
from scaling.optimizers.muon import Muon
from scaling.optimizers.rule import Optimizer, Rule

OPTIMIZERS = {
    "adamw": AdamW,
    "lion": Lion,
    "muon": Muon,
}

__all__ = ["OPTIMIZERS", "AdamW", "Lion", "Muon", "Optimizer", "Rule", "chosen", "named"]


def chosen(name: str) -> type[Optimizer]:
    """Returns the optimizer of a name.

    Raises:
      Refused: no optimizer of this name.
    """
    if name not in OPTIMIZERS:
        raise Refused("optimizer", name, f"one of {', '.join(OPTIMIZERS)}")
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
