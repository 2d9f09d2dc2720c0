"""The state of training and one optimizer step, leaf by leaf, by the groups that parts declare."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from models import ModelConfig, skeleton
from models.accounting import is_frozen
from scaling.runs import Optimizer


class State(NamedTuple):
    """Everything that training carries from step to step, keyed by parameter path.

    `moments` holds one optimizer state per trained leaf, each with its own step count, so that a
    leaf added in mid-training starts with its own bias correction.
    """

    params: dict[str, Array]
    buffers: dict[str, Array]
    moments: dict[str, optax.OptState]


def adam(optimizer: Optimizer) -> optax.GradientTransformation:
    """Adam's direction (Kingma & Ba 2015, algorithm 1), without rate and decay."""
    return optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.epsilon)


def lazy_adam(optimizer: Optimizer) -> optax.GradientTransformation:
    """Adam on each row of a table by itself: a row of zero gradient keeps value and moments.

    Every row has a step count of its own, the number of batches that it took part in, so that a
    rare row's first steps are corrected for bias like any other's. (With one count for all, the
    convention of sparse Adam elsewhere, a row first met late would start at
    (1 − b1)/√(1 − b2) of a full step.) Weight decay skips the same rows (`update`).
    """
    rows = adam(optimizer)

    def step(gradient, state, value=None):
        direction, after = jax.vmap(rows.update)(gradient, state)
        moves = present(gradient)
        keep = lambda new, old: jnp.where(moves.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
        zero = jnp.zeros_like(direction)
        return keep(direction, zero), jax.tree.map(keep, after, state)

    return optax.GradientTransformation(jax.vmap(rows.init), step)


def present(gradient: Float[Array, "V F"]) -> Bool[Array, " V"]:
    """Says which rows of a table the batch read: those whose gradient is not all zero."""
    return jnp.any(gradient != 0, axis=1)


# Update rules by name: optimizer settings → transformation of one leaf's gradient.
RULES = {"adam": adam, "lazy_adam": lazy_adam}


def trainable(config: ModelConfig) -> tuple[str, ...]:
    """Lists the paths of the parameters that are trained, in the skeleton's order."""
    return tuple(path for path in skeleton(config).params if not is_frozen(config, path))


def moments_like(config: ModelConfig, params: dict[str, Array]) -> dict[str, optax.OptState]:
    """Returns the shapes of the optimizer states of some leaves."""
    leaves = skeleton(config).params
    # The settings do not enter a rule's first state.
    init = {path: RULES[leaves[path].group.rule](Optimizer(1.0)).init for path in params}
    return {path: jax.eval_shape(init[path], params[path]) for path in params}


def fresh(config: ModelConfig, params: dict[str, Array]) -> dict[str, optax.OptState]:
    """Returns zero moments and step counts for some leaves, as numpy arrays."""
    zeros = lambda x: np.zeros(x.shape, x.dtype)
    return jax.tree.map(zeros, moments_like(config, params))


def abstract(config: ModelConfig) -> State:
    """Returns the shapes and types of a configuration's state."""
    shape = lambda leaves: {
        path: jax.ShapeDtypeStruct(leaf.shape, np.float32) for path, leaf in leaves.items()
    }
    params, buffers = shape(skeleton(config).params), shape(skeleton(config).buffers)
    trained = {path: params[path] for path in trainable(config)}
    return State(params, buffers, moments_like(config, trained))


def initial(config: ModelConfig, seed: int) -> State:
    """Returns the state before the first step, as numpy arrays."""
    params, buffers = skeleton(config).initialise(seed)
    return State(params, buffers, fresh(config, {path: params[path] for path in trainable(config)}))


def update(
    config: ModelConfig,
    optimizer: Optimizer,
    state: State,
    gradients: dict[str, Array],
    rate: Float[Array, ""],
    decay: Float[Array, ""],
) -> tuple[State, Float[Array, ""]]:
    """Applies one clipped step and returns the state and the gradient norm before clipping.

    `rate` and `decay` are traced scalars, so one program serves every schedule and sweep.
    """
    norm = optax.tree.norm(gradients)
    scale = jnp.minimum(1.0, optimizer.clip / jnp.maximum(norm, 1e-30))
    params, moments = dict(state.params), {}
    leaves = skeleton(config).params
    for path, gradient in gradients.items():
        group, value = leaves[path].group, state.params[path]
        rule = RULES[group.rule](optimizer)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer count with floats.
            direction, moments[path] = rule.update(gradient * scale, state.moments[path], value)
        if group.decay:
            shrunk = value
            if group.rule == "lazy_adam":
                shrunk = jnp.where(present(gradient)[:, None], value, 0.0)
            direction = direction + decay * shrunk
        params[path] = value - (rate * group.rate) * direction
    return State(params, state.buffers, moments), norm
