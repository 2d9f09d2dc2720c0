"""One optimizer step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import Stem
from scaling import AdamW
from scaling.optimizers.rule import by_row
from scaling.state import fresh, initial, trainable, update
from tests.corpora import model, recipe


def gradients(state, seed=0):
    rng = np.random.default_rng(seed)
    return {
        p: jnp.asarray(rng.standard_normal(x.shape, np.float32)) for p, x in state.params.items()
    }


def test_steps_equal_those_of_optax_adamw():
    config, optimizer = model(), AdamW(learning_rate=0.01, weight_decay=0.1, clip=1.0)
    state = initial(recipe(config), 0)
    decayed = lambda tree: {p: "norm" not in p for p in tree}
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(0.01, 0.9, 0.98, 1e-8, weight_decay=0.1, mask=decayed),
    )
    params = jax.tree.map(jnp.asarray, state.params)
    other = reference.init(params)
    step = jax.jit(
        lambda s, g: update(recipe(config, optimizer), s, g, jnp.float32(0.01), jnp.float32(0.1))
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
    state = initial(recipe(config), 0)
    assert set(state.moments) == set(trainable(config))
    assert not any("norm" in path or "embedding" in path for path in state.moments)
    some = {path: g for path, g in gradients(state).items() if path in state.moments}
    after, _ = jax.jit(
        lambda s, g: update(
            recipe(config, AdamW(learning_rate=0.1, weight_decay=1.0)),
            s,
            g,
            jnp.float32(0.1),
            jnp.float32(1.0),
        )
    )(state, some)
    for path, value in state.params.items():
        same = np.array_equal(value, after.params[path])
        assert same == (path not in state.moments), path


def test_a_zero_rate_moves_nothing_and_gains_never_decay():
    config, state = model(), initial(recipe(model()), 0)
    zero = {path: jnp.zeros_like(x) for path, x in state.params.items()}
    step = jax.jit(lambda r, d: update(recipe(config, AdamW(learning_rate=0.1)), state, zero, r, d))
    still, _ = step(jnp.float32(0.0), jnp.float32(1.0))
    shrunk, _ = step(jnp.float32(0.1), jnp.float32(1.0))
    for path, value in state.params.items():
        np.testing.assert_array_equal(still.params[path], value)
        expected = value if "norm" in path else 0.9 * value
        np.testing.assert_allclose(shrunk.params[path], expected, rtol=1e-6)


def test_new_leaves_count_their_own_steps():
    config = model()
    state = initial(recipe(config), 0)
    step = jax.jit(
        lambda s, g: update(
            recipe(config, AdamW(learning_rate=0.1)), s, g, jnp.float32(0.1), jnp.float32(0.0)
        )
    )
    after, _ = step(state, gradients(state))
    young = "head.kernel"
    mixed = after.replace(
        moments=after.moments | fresh(recipe(config), {young: after.params[young]})
    )
    both, _ = step(mixed, gradients(state, 1))
    counts = {path: int(m.count) for path, m in both.moments.items()}
    assert counts.pop(young) == 1
    assert set(counts.values()) == {2}


def test_lazy_adam_is_adam_on_each_row_over_the_batches_that_read_it():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((5, 3), np.float32)
    reads = [[0, 1, 2], [0, 2], [], [1, 2, 3], [0]]  # Row 4 is never read.
    gradients = [rng.standard_normal((5, 3), np.float32) for _ in reads]
    rule = by_row(optax.scale_by_adam(0.8, 0.9))
    state, found = rule.init(table), []
    for rows, gradient in zip(reads, gradients, strict=True):
        masked = np.where(np.isin(np.arange(5), rows)[:, None], gradient, 0)
        with jax.numpy_dtype_promotion("standard"):
            direction, state = rule.update(jnp.asarray(masked), state, table)
        found.append(direction)
    for row in range(5):
        mean = square = np.zeros(3)
        count = 0
        for step, rows in enumerate(reads):
            if row not in rows:
                np.testing.assert_array_equal(found[step][row], 0)
                continue
            count += 1
            gradient = gradients[step][row].astype(np.float64)
            mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
            unbiased = mean / (1 - 0.8**count), square / (1 - 0.9**count)
            expected = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
            np.testing.assert_allclose(found[step][row], expected, rtol=1e-5)
        assert int(state.count[row]) == count
        np.testing.assert_allclose(state.mu[row], mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(state.nu[row], square, rtol=1e-5, atol=1e-7)


def test_lazy_tables_decay_only_in_the_rows_that_were_read():
    config = model(feed_forward=Stem())
    path = "layers.1.feed_forward.table"
    state = initial(recipe(config), 0)
    gradient = np.zeros_like(state.params[path])
    read = np.array([3, 9])
    gradient[read] = 1.0
    step = jax.jit(
        lambda d: update(
            recipe(config, AdamW(learning_rate=1.0)), state, {path: gradient}, 0.1 * d, d
        )
    )
    kept = np.setdiff1d(np.arange(256), read)
    after, norm = step(jnp.float32(1.0))
    assert float(norm) == pytest.approx(np.sqrt(gradient.sum()))
    np.testing.assert_array_equal(after.params[path][kept], state.params[path][kept])
    # A first step of Adam has size one: rate · (1 + decay · value).
    expected = state.params[path][read] * 0.9 - 0.1
    np.testing.assert_allclose(after.params[path][read], expected, rtol=1e-4)
