"""The part example: it is counted as it is, and every parameter learns."""

import example  # noqa: F401 — its name is known then.
import jax
import numpy as np

import models
from models import ModelConfig, skeleton

CONFIG = ModelConfig(vocabulary=32, width=16, depth=1, heads=2, context=8, feed_forward="example")


def test_parameters_are_counted_and_every_one_has_a_gradient():
    params, buffers = skeleton(CONFIG).initialise(0)
    assert sum(x.size for x in params.values()) == models.count(CONFIG).params_total
    tokens = np.random.default_rng(0).integers(0, 32, (2, 8)).astype(np.int32)
    value = lambda params: models.loss(CONFIG, params, buffers, tokens)[0]
    gradients = jax.grad(value)(params)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())
