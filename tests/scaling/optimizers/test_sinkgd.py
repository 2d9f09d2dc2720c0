"""SinkGD: what five rounds make of a gradient."""

import jax
import numpy as np
import pytest

from models import skeleton
from refused import Refused
from scaling.optimizers import named
from scaling.optimizers.sinkgd import sinkhorn
from tests.corpora import model

GRADIENT = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
FIVE = jax.jit(lambda matrix: sinkhorn(matrix, 5))


def test_rows_and_columns_have_root_mean_square_one_after_five_rounds():
    found = np.asarray(FIVE(1e-12 * GRADIENT), np.float64)
    for axis in (0, 1):
        np.testing.assert_allclose(np.sqrt((found**2).mean(axis=axis)), 1, atol=1e-5)
    assert (np.sign(found) == np.sign(GRADIENT)).all()


def test_scaling_the_gradient_its_rows_or_its_columns_changes_nothing():
    np.testing.assert_allclose(FIVE(1e6 * GRADIENT), FIVE(GRADIENT), atol=1e-5)
    rng, fixed_point = np.random.default_rng(1), lambda matrix: FIVE(FIVE(matrix))
    rows, columns = (np.exp(rng.uniform(-3, 3, n)).astype(np.float32) for n in (64, 48))
    for scaled in (rows[:, None] * GRADIENT, columns * GRADIENT):
        # Up to e³-fold factors leave 1e-3 after five rounds, and nothing at the fixed point.
        np.testing.assert_allclose(FIVE(scaled), FIVE(GRADIENT), atol=1e-3)
        np.testing.assert_allclose(fixed_point(scaled), fixed_point(GRADIENT), atol=1e-5)


def test_matrices_have_no_state_and_zero_rows_stay():
    leaf = skeleton(model()).params["layers.0.feed_forward.up"]
    rule = named("sinkgd", learning_rate=0.1).rule("", leaf)
    assert not jax.tree.leaves(rule.transformation.init(np.ones(leaf.shape, np.float32)))
    some = GRADIENT.copy()
    some[3] = 0
    assert not FIVE(some)[3].any() and np.isfinite(FIVE(some)).all()
    with pytest.raises(Refused, match="optimizer.rounds: got 0"):
        named("sinkgd", learning_rate=0.1, rounds=0)
