"""StoSignSGD: its steps from its own draws, and what they are on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Stem, skeleton
from refused import Refused
from scaling.optimizers import named
from tests.corpora import model

RULE = named("stosignsgd", learning_rate=0.1, b1=0.5)
LEAF = skeleton(model()).params["head.kernel"]


def begun(value: np.ndarray, path: str = "a"):
    with jax.numpy_dtype_promotion("standard"):
        init, step = RULE.rule(path, LEAF).transformation
        return init(jnp.asarray(value)), jax.jit(step)


def test_two_steps_are_the_sign_of_momentum_and_noise():
    rng = np.random.default_rng(0)
    state, step = begun(rng.standard_normal((3, 5)).astype(np.float32))
    mu, largest = np.zeros((3, 5)), np.zeros((3, 5))
    for count in range(2):
        gradient = rng.standard_normal((3, 5)).astype(np.float32)
        mu = 0.5 * mu + 0.5 * gradient
        largest = np.maximum(largest, np.abs(mu))
        key = jax.random.fold_in(state.key, count)
        noise = np.asarray(jax.random.uniform(key, (3, 5), minval=-1, maxval=1), np.float64)
        with jax.numpy_dtype_promotion("standard"):
            direction, state = step(gradient, state)
        np.testing.assert_array_equal(direction, np.sign(mu + largest * noise))
        np.testing.assert_allclose(state.largest, largest, rtol=1e-6)


def test_the_expected_sign_is_the_momentum_over_its_largest():
    draws, entries = 20_000, np.array([-1.0, -0.6, -0.2, 0.0, 0.3, 0.8, 1.0], np.float32)
    state, step = begun(np.zeros((draws, 7), np.float32))
    with jax.numpy_dtype_promotion("standard"):
        _, state = step(np.ones((draws, 7), np.float32) * 2, state)  # m and G are 1.
        direction, state = step(np.tile(2 * entries - 1, (draws, 1)), state)  # m is `entries`.
    np.testing.assert_allclose(state.mu[0], entries, atol=1e-6)
    assert set(np.unique(direction)) <= {-1.0, 0.0, 1.0}
    # Five standard errors of a mean of signs.
    assert np.abs(np.mean(direction, axis=0) - entries).max() < 5 / np.sqrt(draws)


def test_draws_differ_by_leaf_and_by_initial_value():
    value = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    keys = [begun(v, p)[0].key for v, p in ((value, "a"), (value, "b"), (value[::-1], "a"))]
    assert len({tuple(np.asarray(key)) for key in keys}) == 3


def test_lazy_tables_are_refused_by_name():
    table = skeleton(model(feed_forward=Stem())).params["layers.1.feed_forward.table"]
    with pytest.raises(Refused, match="optimizer: got stosignsgd for the group stem; accepted: an"):
        RULE.rule_of("", table)
