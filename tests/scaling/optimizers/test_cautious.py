"""Cautious AdamW never goes against a gradient."""

import jax
import numpy as np

from models import skeleton
from scaling.optimizers import named
from tests.corpora import model


def test_no_entry_opposes_its_gradient_and_the_others_make_up_for_those_left_out():
    leaf = skeleton(model()).params["layers.0.feed_forward.up"]
    both = [
        named(n, learning_rate=0.1).rule("", leaf).transformation for n in ("cautious", "adamw")
    ]
    rng = np.random.default_rng(0)
    with jax.numpy_dtype_promotion("standard"):
        states = [rule.init(np.zeros(leaf.shape, np.float32)) for rule in both]
        steps = [jax.jit(rule.update) for rule in both]
        for _ in range(5):
            gradient = rng.standard_normal(leaf.shape).astype(np.float32)
            (found, states[0]), (plain, states[1]) = (
                step(gradient, state) for step, state in zip(steps, states, strict=True)
            )
            assert (np.asarray(found) * gradient >= 0).all()
            kept = np.asarray(plain) * gradient > 0
            np.testing.assert_allclose(found, np.where(kept, plain, 0) / kept.mean(), rtol=1e-5)
    assert 0.2 < kept.mean() < 1
