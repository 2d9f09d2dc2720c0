"""Runs from what a store says they are: `spec.json` read back, and held to its identity."""

import dataclasses
import sys
import types
import typing

import models  # noqa: F401 — where the classes that a spec names are found.
from refused import Refused
from scaling import changes, growth, streams  # noqa: F401
from scaling.optimizers import AdamW, Optimizer
from scaling.runs import Run
from scaling.seals import Damaged
from scaling.store import Store

ROOMS = ("models", "scaling", "data")


def run_of(store: Store, id: str) -> Run:
    """Returns the run that ends where a segment of a store does.

    Raises:
      Refused: no such segment, one whose spec is damaged, or a run of parts that are not known
        here, such as those of a user's own file.
    """
    try:
        spec = store.spec(id)
    except Damaged as damaged:
        accepted = f"another, or the study trained again ({damaged})"
        raise Refused("--run", id, accepted) from None
    if spec is None:
        raise Refused("--run", id, f"a run that is in {store.path}")
    try:
        run = decoded(Run, spec["run"])
        found = run.identity
    except (KeyError, TypeError, ValueError, AttributeError):
        found = None
    if found != id:
        accepted = (
            "a run of this version's parts; or its study, with --config=STUDY or --study=NAME"
        )
        raise Refused("--run", id, accepted)
    return run


def decoded(kind, value):
    """Turns a value of `runs.canonical` back into one of a type."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType) or kind is object:
        return decoded(matching(inside, value), value)
    if origin is tuple:
        kinds = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return tuple(decoded(one, x) for one, x in zip(kinds, value, strict=True))
    if is_named(value):
        kind, value = classes()[value[0]], value[1]
    elif kind is Optimizer:
        kind = AdamW
    if not dataclasses.is_dataclass(kind):
        return value
    hints = {name: told(name, hint) for name, hint in typing.get_type_hints(kind).items()}
    return kind(**{name: decoded(hints[name], x) for name, x in value.items()})


def told(name: str, hint):
    """Returns the type of a field: where it says any object, the class of the field's name."""
    return classes().get(name.title(), hint) if object in typing.get_args(hint) else hint


def matching(kinds: tuple, value):
    """Returns which of several types a value is of."""
    if is_named(value):
        return classes()[value[0]]
    for kind in kinds:
        is_tuple = typing.get_origin(kind) is tuple
        if (is_tuple and isinstance(value, list)) or (
            dataclasses.is_dataclass(kind) and isinstance(value, dict)
        ):
            return kind
    return type(value)


def is_named(value) -> bool:
    """Says whether a value is a dataclass with the name of its class."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], dict)
    )


def classes() -> dict[str, type]:
    """Returns the dataclasses of our rooms by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ROOMS:
            for value in vars(module).values():
                if isinstance(value, type) and dataclasses.is_dataclass(value):
                    found[value.__name__] = value
    return found
