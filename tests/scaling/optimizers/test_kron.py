"""Kron: its factors by hand, and the gradients that they whiten."""

import jax
import jax.numpy as jnp
import numpy as np

from models import skeleton
from scaling.optimizers import named
from tests.corpora import model

LEAF = skeleton(model()).params["layers.0.attention.query"]
KRON = named("kron", learning_rate=0.1)
RULE = KRON.rule("layers.0.attention.query", LEAF).transformation


def bound(square: np.ndarray) -> float:
    longest = square[:, np.argmax((square**2).sum(axis=0))]
    return np.linalg.norm(square @ longest) / np.linalg.norm(longest)


def test_two_steps_are_the_whitening_descent_in_float64():
    rng = np.random.default_rng(0)
    value = rng.standard_normal((5, 3)).astype(np.float32)
    state, step = RULE.init(value), jax.jit(RULE.update)
    left, right, mu = np.eye(5), np.eye(3), 0.0
    for count in range(2):
        gradient = rng.standard_normal((5, 3)).astype(np.float32)
        mu = 0.9 * mu + 0.1 * gradient.astype(np.float64)
        ahead = mu / (1 - 0.9 ** (count + 1))
        _, probe = jax.random.split(jax.random.fold_in(state.key, count))
        probe = np.asarray(jax.random.normal(probe, (5, 3)), np.float64)
        a, b = left @ ahead @ right.T, np.linalg.inv(left).T @ probe @ np.linalg.inv(right)
        terms = [(a @ a.T, b @ b.T), (a.T @ a, b.T @ b)]
        left, right = (
            q - 0.1 / bound(one + other) * np.triu(one - other) @ q
            for q, (one, other) in zip((left, right), terms, strict=True)
        )
        expected = left.T @ left @ ahead @ right.T @ right
        expected /= max(1, np.sqrt((expected**2).mean()) / 1.1)
        with jax.numpy_dtype_promotion("standard"):
            found, state = step(gradient, state, value)
        # At a rate of 0.1, as in `test_steps.py`, that is 1e-6 of a parameter.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert not np.tril(state.left, -1).any() and not np.tril(state.right, -1).any()


def test_gradients_of_uneven_rows_and_columns_come_out_white():
    rows, columns = 10.0 ** np.linspace(-2, 0, 6)[:, None], 10.0 ** np.linspace(0, -1, 4)
    draws = rows * np.random.default_rng(0).standard_normal((800, 6, 4)) * columns
    plain = named("kron", learning_rate=0.1, b1=0.0).rule("", LEAF).transformation
    state = plain.init(np.ones((6, 4), np.float32))

    def step(state, gradient):
        direction, state = plain.update(gradient, state)
        return state, direction

    with jax.numpy_dtype_promotion("standard"):
        _, found = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(state, jnp.float32(draws))
    size = np.sqrt((np.asarray(found[400:]) ** 2).mean(axis=0))
    assert size.max() / size.min() < 4 and 0.5 < size.mean() < 1.5
    before = np.sqrt((draws**2).mean(axis=0))
    assert before.max() / before.min() > 500


def test_a_large_dimension_keeps_the_identity():
    state = (
        named("kron", learning_rate=0.1, most=8)
        .rule("", LEAF)
        .transformation.init(np.ones((4, 16), np.float32))
    )
    assert state.left.shape == (4, 4) and state.right is None
