"""The optimizer example: a step written out by hand."""

import example  # noqa: F401 — its name is known then.
import jax.numpy as jnp
import numpy as np

from models import ModelConfig
from scaling import Recipe
from scaling.optimizers import named
from scaling.state import initial, update

MODEL = ModelConfig(vocabulary=32, width=16, depth=1, heads=2, context=8)


def test_every_entry_moves_by_the_rate_against_its_gradients_sign():
    recipe = Recipe(model=MODEL, optimizer=named("example", learning_rate=0.1, clip=1e9))
    state, rng = initial(recipe, seed=0), np.random.default_rng(0)
    draws = {path: rng.standard_normal(x.shape, np.float32) for path, x in state.params.items()}
    after, _ = update(recipe, state, draws, rate=jnp.float32(0.1), settings=jnp.float32(0.0))
    for path, gradient in draws.items():
        moved = np.asarray(after.params[path]) - np.asarray(state.params[path])
        np.testing.assert_allclose(moved, -0.1 * np.sign(gradient), atol=1e-6)
