"""Scion against its polynomial, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import skeleton
from scaling.optimizers import named
from tests.corpora import model
from tests.scaling.optimizers.test_muon import polynomial, uneven

SCION = named("scion", learning_rate=0.01)


@pytest.mark.parametrize("name", ["up", "down"])
def test_the_update_is_the_polynomial_of_the_mean_gradient(name):
    leaf = skeleton(model(ff_width=48)).params[f"layers.0.feed_forward.{name}"]
    rule = SCION.rule("", leaf).transformation
    state, mean, step = rule.init(jnp.zeros(leaf.shape)), 0.0, jax.jit(rule.update)
    scale = np.sqrt(max(1, leaf.shape[1] / leaf.shape[0]))
    assert scale == (np.sqrt(3) if name == "up" else 1)
    for seed in range(1, 3):
        gradient = uneven(leaf.shape, seed)
        with jax.numpy_dtype_promotion("standard"):
            found, state = step(gradient, state)
        mean = 0.95 * mean + 0.05 * gradient.astype(np.float64)
        found, expected = np.asarray(found, np.float64) / scale, polynomial(mean)
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
        left, values, right = np.linalg.svd(mean, full_matrices=False)
        large = values >= 0.01 * np.linalg.norm(mean)
        along = np.abs(np.diag(left.T @ found @ right.T))[large]
        assert large.sum() > 3 and (along >= 0.65).all() and (along <= 1.25).all()


def test_everything_but_hidden_matrices_moves_by_a_quarter_of_the_rate():
    for path in ("embedding.table", "head.kernel", "final_norm.gain"):
        leaf = skeleton(model()).params[path]
        rule = SCION.rule(path, leaf)
        gradient = uneven((8, 4), 0)
        found, _ = rule.transformation.update(gradient, rule.transformation.init(gradient))
        np.testing.assert_array_equal(found, np.sign(gradient))
        assert rule.rate == 0.25
