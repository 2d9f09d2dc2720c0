"""MARS beside AdamW."""

import jax
import jax.numpy as jnp
import numpy as np

from models import skeleton
from scaling.optimizers import named
from tests.corpora import model

LEAF = skeleton(model()).params["layers.0.attention.query"]


def last_step(name: str, gradients, **settings) -> np.ndarray:
    rule = named(name, learning_rate=0.1, b1=0.9, b2=0.95, **settings).rule("", LEAF).transformation
    state, step = rule.init(jnp.zeros(gradients[0].shape)), jax.jit(rule.update)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            direction, state = step(gradient, state)
    return np.asarray(direction)


def test_without_gamma_it_is_adamw_and_with_it_changes_count():
    rng = np.random.default_rng(0)
    gradients = [0.1 * rng.standard_normal((4, 4)).astype(np.float32) for _ in range(3)]
    plain = last_step("adamw", gradients)
    np.testing.assert_allclose(last_step("mars", gradients, gamma=0.0), plain, rtol=1e-5)
    assert np.abs(last_step("mars", gradients) - plain).max() > 0.01
    # A gradient that does not change needs no correction.
    same = [gradients[0]] * 3
    np.testing.assert_allclose(last_step("mars", same), last_step("adamw", same), rtol=1e-5)
