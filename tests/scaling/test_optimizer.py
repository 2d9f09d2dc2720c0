"""One optimizer step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling import Optimizer
from scaling.optimizer import State, fresh, initial, trainable, update
from tests.corpora import model


def gradients(state, seed=0):
    rng = np.random.default_rng(seed)
    return {
        p: jnp.asarray(rng.standard_normal(x.shape, np.float32)) for p, x in state.params.items()
    }


def test_steps_equal_those_of_optax_adamw():
    config, optimizer = model(), Optimizer(0.01, 0.1, clip=1.0)
    state = initial(config, 0)
    decayed = lambda tree: {p: "norm" not in p for p in tree}
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(0.01, 0.9, 0.98, 1e-8, weight_decay=0.1, mask=decayed),
    )
    params = jax.tree.map(jnp.asarray, state.params)
    other = reference.init(params)
    step = jax.jit(
        lambda s, g: update(config, optimizer, s, g, jnp.float32(0.01), jnp.float32(0.1))
    )
    for index in range(5):
        some = gradients(state, index)
        state, norm = step(state, some)
        with jax.numpy_dtype_promotion("standard"):
            change, other = reference.update(some, other, params)
        params = optax.apply_updates(params, change)
        assert float(norm) == pytest.approx(float(optax.tree.norm(some)), rel=1e-6)
    for path, value in params.items():
        np.testing.assert_allclose(state.params[path], value, rtol=1e-4, atol=1e-6, err_msg=path)


def test_frozen_leaves_have_no_moments_and_do_not_move():
    config = replace(model(), frozen=("embedding.*", "*norm*"))
    state = initial(config, 0)
    assert set(state.moments) == set(trainable(config))
    assert not any("norm" in path or "embedding" in path for path in state.moments)
    some = {path: g for path, g in gradients(state).items() if path in state.moments}
    after, _ = jax.jit(
        lambda s, g: update(config, Optimizer(0.1, 1.0), s, g, jnp.float32(0.1), jnp.float32(1.0))
    )(state, some)
    for path, value in state.params.items():
        same = np.array_equal(value, after.params[path])
        assert same == (path not in state.moments), path


def test_a_zero_rate_moves_nothing_and_gains_never_decay():
    config, state = model(), initial(model(), 0)
    zero = {path: jnp.zeros_like(x) for path, x in state.params.items()}
    step = jax.jit(lambda r, d: update(config, Optimizer(0.1), state, zero, r, d))
    still, _ = step(jnp.float32(0.0), jnp.float32(1.0))
    shrunk, _ = step(jnp.float32(0.1), jnp.float32(1.0))
    for path, value in state.params.items():
        np.testing.assert_array_equal(still.params[path], value)
        expected = value if "norm" in path else 0.9 * value
        np.testing.assert_allclose(shrunk.params[path], expected, rtol=1e-6)


def test_new_leaves_count_their_own_steps():
    config = model()
    state = initial(config, 0)
    step = jax.jit(
        lambda s, g: update(config, Optimizer(0.1), s, g, jnp.float32(0.1), jnp.float32(0.0))
    )
    after, _ = step(state, gradients(state))
    young = "head.kernel"
    mixed = State(after.params, {}, after.moments | fresh(config, {young: after.params[young]}))
    both, _ = step(mixed, gradients(state, 1))
    counts = {path: int(m.count) for path, m in both.moments.items()}
    assert counts.pop(young) == 1
    assert set(counts.values()) == {2}
