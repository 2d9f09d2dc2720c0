"""What an optimizer is: one optax transformation per leaf, with its share of rate and decay."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from models import Leaf
from models.ladder import weight_decay
from refused import Refused


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one leaf is updated: value −= rate · (direction + decay · value).

    `transformation` turns the leaf's clipped gradient into the direction and sees nothing but this
    leaf. `rate` and `decay` are multiples of the run's rate at the step and of its weight decay.
    With `lazy`, rows of zero gradient keep value, state and step count (`by_row`).
    """

    transformation: optax.GradientTransformation
    rate: float = 1.0
    decay: float = 1.0
    lazy: bool = False


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all optimizers share; one of them is a frozen dataclass with a `rule`.

    `learning_rate` is the peak that all rates are multiples of; decay is multiplied by the learning
    rate (Loshchilov & Hutter 2019, algorithm 2). `clip` is the largest global gradient norm.
    """

    # Fields that enter the program as arrays, and what stands for them in it. All others are
    # static: two values are two programs.
    TRACED: ClassVar[dict[str, float]] = {"learning_rate": 1.0, "weight_decay": 0.0}

    learning_rate: float
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self):
        self.positive("learning_rate", "clip")

    def positive(self, *names: str) -> None:
        """Refuses fields that are not positive numbers."""
        for name in names:
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise Refused(f"optimizer.{name}", getattr(self, name), "a positive number")

    @classmethod
    def at(cls, rate: float, **settings):
        """Returns the optimizer of a peak rate with the weight decay that the ladder gives it."""
        return cls(learning_rate=rate, weight_decay=weight_decay(rate), **settings)

    @property
    def static(self):
        """The same optimizer without what enters the program as arrays."""
        return dataclasses.replace(self, **self.TRACED)

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Says how a leaf is updated, by its group and shape; the group's own wishes come later."""
        raise NotImplementedError

    def rule_of(self, path: str, leaf: Leaf) -> Rule:
        """Returns the rule in force: the optimizer's, with what the leaf's group asks for."""
        rule, group = self.rule(path, leaf), leaf.group
        transformation = by_row(rule.transformation) if group.lazy else rule.transformation
        return Rule(
            transformation=transformation,
            rate=rule.rate * group.rate,
            decay=rule.decay * group.decay,
            lazy=group.lazy,
        )


def by_row(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a rule to each row of a table by itself; a row of zero gradient keeps its state.

    Every row has a step count of its own, the number of batches that it took part in, so that a
    rare row's first steps are corrected for bias like any other's. (With one count for all, the
    convention of sparse Adam elsewhere, a row first met late would start at
    (1 − b1)/√(1 − b2) of a full step.)
    """

    def step(gradient, state, value=None):
        each = lambda g, s, v: transformation.update(g, s, v)
        direction, after = jax.vmap(each)(gradient, state, value)
        moves = present(gradient)
        keep = lambda new, old: jnp.where(moves.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
        zero = jnp.zeros_like(direction)
        return keep(direction, zero), jax.tree.map(keep, after, state)

    return optax.GradientTransformation(jax.vmap(transformation.init), step)


def present(gradient: Float[Array, "V F"]) -> Bool[Array, " V"]:
    """Says which rows of a table the batch read: those whose gradient is not all zero."""
    return jnp.any(gradient != 0, axis=1)
