"""What an optimizer is: one optax transformation per leaf, with its share of rate and decay."""

import copy
import dataclasses
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, UInt32

from models import Leaf
from models.ladder import weight_decay
from refused import Refused


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one leaf is updated: value −= rate · (direction + decay · value).

    `transformation` turns the leaf's clipped gradient into the direction and sees nothing but this
    leaf. `rate` and `decay` are multiples of the run's rate at the step and of its weight decay.
    With `lazy`, rows of zero gradient keep value, state and step count (`by_row`). `flops` are the
    FLOPs of the rule's matrix products a step, on average, a multiply-add being 2; what is done
    entry by entry is not counted, as nowhere.

    With `whole` the transformation is given the step's `rate` and `decay` too, and its direction
    has the decay in it. `evaluated(state, value)` gives the weights that are evaluated and exported
    where these are not those that are trained.
    """

    transformation: optax.GradientTransformation
    rate: float = 1.0
    decay: float = 1.0
    lazy: bool = False
    flops: float = 0.0
    whole: bool = False
    evaluated: Callable[[optax.OptState, Array], Array] | None = None

    @property
    def shares(self) -> tuple:
        """What is a number of the rule, or true of it."""
        return self.rate, self.decay, self.lazy, self.flops, self.whole


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What all optimizers share; one of them is a frozen dataclass with a `rule`.

    `learning_rate` is the peak that all rates are multiples of; decay is multiplied by the learning
    rate (Loshchilov & Hutter 2019, algorithm 2). `clip` is the largest global gradient norm.

    With `swept` every setting that is a float enters the program as an array, as rate and decay
    always do: all values of a sweep share one compiled program. (Its results differ in rounding
    from those of the program that has the settings as constants, so it is in a run's identity.)
    """

    # Fields that always enter the program as arrays, and what stands for them in it. Others are
    # static unless swept: two values are two programs.
    TRACED: ClassVar[dict[str, float]] = {"learning_rate": 1.0, "weight_decay": 0.0}

    learning_rate: float
    weight_decay: float = 0.0
    clip: float = 1.0
    swept: bool = False

    def __post_init__(self):
        self.positive("learning_rate", "clip")

    def positive(self, *names: str) -> None:
        """Refuses fields that are not positive numbers."""
        for name in names:
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise Refused(f"optimizer.{name}", getattr(self, name), "a positive number")

    def fractions(self, *names: str) -> None:
        """Refuses fields that are not numbers from 0 to below 1."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise Refused(f"optimizer.{name}", getattr(self, name), "from 0 to below 1")

    @classmethod
    def at(cls, rate: float, **settings):
        """Returns the optimizer of a peak rate with the weight decay that the ladder gives it."""
        return cls(learning_rate=rate, weight_decay=weight_decay(rate), **settings)

    @property
    def arrays(self) -> dict[str, dataclasses.Field]:
        """The fields that enter the program as arrays because the optimizer is swept."""
        if not self.swept:
            return {}
        floats = {f.name: f for f in dataclasses.fields(self) if f.type in (float, "float")}
        return {name: field for name, field in floats.items() if name not in self.TRACED}

    @property
    def settings(self) -> np.ndarray:
        """What the program is given beside rates, float32: the decay; if swept a vector from it."""
        if not self.swept:
            return np.float32(self.weight_decay)
        return np.array([self.weight_decay, *(getattr(self, f) for f in self.arrays)], np.float32)

    def given(self, settings: Float[Array, "..."]) -> tuple["Optimizer", Float[Array, ""]]:
        """Returns the optimizer with the values of `settings`, and the decay, inside a program."""
        if not self.swept:
            return self, settings
        decay, *values = settings
        other = copy.copy(self)
        for name, value in zip(self.arrays, values, strict=True):
            object.__setattr__(other, name, value)  # Not `replace`, whose checks need numbers.
        return other, decay

    @property
    def static(self):
        """The same optimizer without what enters the program as arrays."""
        standing = {name: field.default for name, field in self.arrays.items()}
        return dataclasses.replace(self, **self.TRACED, **standing)

    def rule(self, path: str, leaf: Leaf) -> Rule:
        """Says how a leaf is updated, by its group and shape; the group's own wishes come later.

        Layers that are scanned are updated together by the rule of the first: of the path only the
        start of the optimizer's state may depend.
        """
        raise NotImplementedError

    def rule_of(self, path: str, leaf: Leaf) -> Rule:
        """Returns the rule in force: the optimizer's, with what the leaf's group asks for."""
        rule, group = self.rule(path, leaf), leaf.group
        transformation = by_row(rule.transformation) if group.lazy else rule.transformation
        return dataclasses.replace(
            rule,
            transformation=transformation,
            rate=rule.rate * group.rate,
            decay=rule.decay * group.decay,
            lazy=group.lazy,
        )


def is_matrix(leaf: Leaf) -> bool:
    """Says whether hidden states are multiplied by a leaf's last two dimensions, in and out."""
    return leaf.group.hidden and len(leaf.shape) >= 2


def by_matrix(transformation: optax.GradientTransformation, leaf: Leaf):
    """Applies a rule for matrices [in, out] to each of a leaf's matrices, such as experts, apart.

    Their states lie along the leaf's leading dimensions.
    """
    init, update = transformation
    for _ in leaf.shape[:-2]:
        init, update = jax.vmap(init), jax.vmap(update)
    return optax.GradientTransformation(init, update)


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


def key_of(path: str, value: Float[Array, "..."]) -> UInt32[Array, "2"]:
    """Returns a key for draws, of a leaf's path and of the bits of its initial values.

    So draws differ by leaf and by seed, and are the same on every device.
    """
    bits = jax.lax.bitcast_convert_type(value, jnp.uint32)
    weights = 2 * jnp.arange(bits.size, dtype=jnp.uint32).reshape(bits.shape) + 1
    name = jnp.uint32(zlib.crc32(path.encode()))
    return jnp.stack([name, jnp.sum(bits * weights, dtype=jnp.uint32)])
