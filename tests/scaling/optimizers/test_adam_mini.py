"""Adam-mini's blocks."""

import jax
import numpy as np
import pytest

from models import Stem, skeleton
from scaling.optimizers import named
from scaling.state import optimizer_bytes
from tests.corpora import model, recipe

MINI = named("adam_mini", learning_rate=0.1)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("embedding.table", (256, 1)),
        ("head.kernel", (1, 256)),
        ("layers.0.attention.query", (1, 16)),
        ("layers.0.feed_forward.down", (1, 16)),
        ("layers.1.feed_forward.table", (256, 1)),
        ("final_norm.gain", (1,)),
    ],
)
def test_blocks_are_tokens_neurons_or_whole_arrays(path, shape):
    config = model(feed_forward=Stem(lazy=False))
    leaf = skeleton(config).params[path]
    value = jax.ShapeDtypeStruct(leaf.shape, np.float32)
    state = jax.eval_shape(MINI.rule(path, leaf).transformation.init, value)
    assert state.nu.shape == shape and state.mu.shape == leaf.shape


def test_the_state_is_little_more_than_one_moment():
    mini, whole = (
        optimizer_bytes(recipe(model(width=64), named(name, learning_rate=0.1)))
        for name in ("adam_mini", "adamw")
    )
    assert 0.5 < mini / whole < 0.52
