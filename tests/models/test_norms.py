"""Norms of the residual stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import count, skeleton
from models.norms import LayerNorm
from refused import Refused
from tests.corpora import model


def test_layer_norm_leaves_mean_zero_and_variance_one_in_every_row():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 64), np.float32) * 7 + 2)
    normed = LayerNorm(64, 1e-6, affine=True)
    normed.gain[...] = jnp.ones(64)  # Declared parameters are zeros until a start is drawn.
    for norm in (LayerNorm(64, 1e-6, affine=False), normed):
        y = np.asarray(norm(x))
        np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-6)
        np.testing.assert_allclose(y.var(axis=-1), 1, rtol=1e-4)
    normed.gain[...], normed.bias[...] = jnp.full(64, 3.0), jnp.full(64, 5.0)
    np.testing.assert_allclose(normed(x), 3 * y + 5, rtol=1e-5, atol=1e-5)


def test_a_constant_row_gives_zeros_and_a_finite_gradient():
    norm = LayerNorm(8, 1e-5, affine=False)
    x = jnp.stack([jnp.zeros(8), jnp.full(8, 3.0)])
    np.testing.assert_array_equal(norm(x), np.zeros((2, 8)))
    gradient = jax.grad(lambda x: jnp.sum(norm(x) ** 3))(x)
    assert np.isfinite(gradient).all()


def test_layer_norm_keeps_the_type_and_computes_in_float32():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64)), jnp.bfloat16)
    norm = LayerNorm(64, 1e-6, affine=False)
    assert norm(x).dtype == jnp.bfloat16
    wide = norm(x.astype(jnp.float32))
    np.testing.assert_array_equal(norm(x), wide.astype(jnp.bfloat16))


def test_the_kind_of_norm_sets_which_parameters_there_are():
    norms = lambda config: {p: x.size for p, x in skeleton(config).params.items() if "norm" in p}
    plain = model(block_norm="layer_norm")
    assert norms(plain) == {"final_norm.gain": 16, "final_norm.bias": 16}
    assert sum(norms(model()).values()) == 5 * 16
    assert count(model()).params_total - count(plain).params_total == 5 * 16 - 2 * 16
    with pytest.raises(Refused, match="model.block_norm: got batch_norm; accepted: rms_norm or"):
        model(block_norm="batch_norm")
