"""The state of training and one optimizer step, leaf by leaf, by the rules of a recipe."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from models import ModelConfig, skeleton, stacks
from models.accounting import is_frozen
from refused import Refused
from scaling.optimizers import Rule
from scaling.optimizers.rule import present
from scaling.recipe import Averaging, Recipe


class Average(NamedTuple):
    """One leaf's average, corrected for its start, and the weight of all steps in it so far."""

    value: Array
    weight: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that training carries from step to step, keyed by parameter path.

    Programs that scan over layers have them stacked (`scaling.stacks`).

    `moments` holds one optimizer state per trained leaf, each with its own step count, so that a
    leaf added in mid-training starts with its own bias correction. `averages` holds trained leaves'
    moving averages, where the recipe asks for them.
    """

    params: dict[str, Array]
    buffers: dict[str, Array]
    moments: dict[str, optax.OptState]
    averages: dict[str, Average] = field(default_factory=dict)

    def replace(self, **fields) -> "State":
        """Returns the state with some fields replaced."""
        return dataclasses.replace(self, **fields)

    @property
    def averaged(self) -> "State":
        """The state with averages for parameters; leaves without one and buffers are the last."""
        averages = {path: average.value for path, average in self.averages.items()}
        return self.replace(params=self.params | averages)


def trainable(config: ModelConfig) -> tuple[str, ...]:
    """Lists the paths of the parameters that are trained, in the skeleton's order."""
    return tuple(path for path in skeleton(config).params if not is_frozen(config, path))


def rules(recipe: Recipe, names) -> dict[str, Rule]:
    """Returns how each of some leaves is updated, and each layer's of a stack (`models.stacks`).

    Raises:
      Refused: an optimizer whose rules differ within a stack.
    """
    leaves, optimizer = skeleton(recipe.model).params, recipe.optimizer
    for paths in map(stacks.paths, filter(stacks.is_stack, names)):
        first, *others = (optimizer.static.rule_of(path, leaves[path]).shares for path in paths)
        if any(other != first for other in others):
            accepted = f"one with the same rate and decay for all layers of {paths[0]}"
            raise Refused("optimizer", type(optimizer).__name__, accepted)
    firsts = {name: stacks.paths(name)[0] for name in names}
    return {name: optimizer.rule_of(path, leaves[path]) for name, path in firsts.items()}


def fresh(recipe: Recipe, params: dict[str, Array]) -> dict[str, optax.OptState]:
    """Returns the first optimizer states of some leaves, as numpy arrays."""
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        return {
            path: jax.tree.map(own, rule.transformation.init(params[path]))
            for path, rule in rules(recipe, params).items()
        }


def own(x: Array) -> Array:
    """Returns a copy of an array, which no other part of the state shares: states are donated."""
    here = getattr(x, "is_fully_addressable", True)
    return np.array(x) if here else jnp.copy(x)  # Of several processes' arrays where it is.


def fresh_averages(recipe: Recipe, params: dict[str, Array]) -> dict[str, Average]:
    """Returns averages of no step yet of some leaves; none where the recipe has none."""
    if recipe.averaging is None:
        return {}
    return {path: Average(own(x), np.zeros((), np.float32)) for path, x in params.items()}


def started(recipe: Recipe, params: dict[str, Array], buffers: dict[str, Array]) -> State:
    """Returns the state at which some parameters and buffers begin to be trained."""
    trained = {path: params[path] for path in trainable(recipe.model)}
    return State(
        params=params,
        buffers=buffers,
        moments=fresh(recipe, trained),
        averages=fresh_averages(recipe, trained),
    )


def abstract(recipe: Recipe) -> State:
    """Returns the shapes and types of a recipe's state."""
    return abstract_static(recipe.static)


@functools.cache
def abstract_static(recipe: Recipe) -> State:
    """Returns the shapes and types of a recipe's state, traced once per recipe."""
    bones = skeleton(recipe.model)
    shape = lambda leaves: {
        path: jax.ShapeDtypeStruct(leaf.shape, np.float32) for path, leaf in leaves.items()
    }
    params = shape(bones.params)
    trained = {path: params[path] for path in trainable(recipe.model)}
    every = rules(recipe, trained)
    first = lambda leaves: {path: every[path].transformation.init(x) for path, x in leaves.items()}
    with jax.numpy_dtype_promotion("standard"):  # Traced together: a plan asks for every size.
        moments = jax.eval_shape(first, trained)
    weight, averaged = jax.ShapeDtypeStruct((), np.float32), recipe.averaging is not None
    averages = {path: Average(x, weight) for path, x in trained.items() if averaged}
    return State(params=params, buffers=shape(bones.buffers), moments=moments, averages=averages)


def initial(recipe: Recipe, seed: int) -> State:
    """Returns the state before the first step, as numpy arrays."""
    return started(recipe, *skeleton(recipe.model).initialise(seed))


def array_bytes(tree) -> int:
    """Returns the bytes of all arrays of a tree."""
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def optimizer_bytes(recipe: Recipe) -> int:
    """Counts the bytes of the optimizer's state and of the averaged weights."""
    state = abstract(recipe)
    return array_bytes(state.moments) + array_bytes(state.averages)


def optimizer_flops(recipe: Recipe) -> float:
    """Counts the FLOPs of the optimizer's matrix products in a step; its batch does not matter."""
    return float(sum(rule.flops for rule in rules(recipe, trainable(recipe.model)).values()))


def update(
    recipe: Recipe,
    state: State,
    gradients: dict[str, Array],
    rate: Float[Array, ""],
    settings: Float[Array, "..."],
) -> tuple[State, Float[Array, ""]]:
    """Applies one clipped step and returns the state and the gradient norm before clipping.

    `rate` and the optimizer's `settings`, of which weight decay is the first or the only one, are
    traced, so one program serves every schedule and sweep.
    """
    optimizer, decay = recipe.optimizer.given(settings)
    recipe = dataclasses.replace(recipe, optimizer=optimizer)
    norm = optax.tree.norm(gradients)
    scale = jnp.minimum(1.0, optimizer.clip / jnp.maximum(norm, 1e-30))
    params, moments = dict(state.params), {}

    def moved(rule, gradient, before, value):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer count with floats.
            told = {"rate": rate * rule.rate, "decay": decay * rule.decay} if rule.whole else {}
            direction, after = rule.transformation.update(gradient * scale, before, value, **told)
        if rule.decay and not rule.whole:
            shrunk = jnp.where(present(gradient)[:, None], value, 0.0) if rule.lazy else value
            direction = direction + (decay * rule.decay) * shrunk
        return value - (rate * rule.rate) * direction, after

    for path, rule in rules(recipe, gradients).items():
        of = functools.partial(moved, rule)
        of = jax.vmap(of) if stacks.is_stack(path) else of
        leaf = gradients[path], state.moments[path], state.params[path]
        params[path], moments[path] = of(*leaf)
    return state.replace(params=params, moments=moments), norm


def evaluated(recipe: Recipe, state: State) -> State:
    """Returns the state with the weights that are evaluated and exported, by the optimizer's rules.

    They are those that are trained, but for optimizers whose rule says otherwise.
    """
    with jax.numpy_dtype_promotion("standard"):
        others = {
            path: rule.evaluated(state.moments[path], state.params[path])
            for path, rule in rules(recipe, state.moments).items()
            if rule.evaluated is not None
        }
    return state.replace(params=state.params | others) if others else state


def average(averaging: Averaging | None, batch_tokens: int, state: State) -> State:
    """Takes a step's parameters into the averages."""
    if averaging is None:
        return state
    decay = averaging.decay(batch_tokens)

    def one(before, value):
        weight = decay * before.weight + (1 - decay)
        step = ((1 - decay) / weight) * (value - before.value)
        return Average(before.value + step, weight)

    of = lambda path: jax.vmap(one) if stacks.is_stack(path) else one
    averages = {path: of(path)(x, state.params[path]) for path, x in state.averages.items()}
    return state.replace(averages=averages)
