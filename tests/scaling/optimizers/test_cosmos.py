"""COSMOS: what is inside its subspace and what is beside it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import skeleton
from scaling.optimizers import named
from tests.corpora import model
from tests.scaling.optimizers.test_muon import uneven

LEAF = skeleton(model()).params["layers.0.attention.query"]


@functools.cache
def compiled(rank: int):
    """Returns the first state, and a step (gradient, state, settings) of a rank."""
    swept = named("cosmos", learning_rate=0.1, swept=True, rank=rank)
    init = swept.rule("", LEAF).transformation.init

    def step(gradient, state, settings):
        return swept.given(settings)[0].rule("", LEAF).transformation.update(gradient, state)

    return swept, init(jnp.zeros(LEAF.shape)), jax.jit(step)


def steps(gradients, rank: int, **settings) -> np.ndarray:
    """Returns the directions of some steps, [steps, in, out]."""
    (swept, state, step), found = compiled(rank), []
    settings = dataclasses.replace(swept, **settings).settings
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            direction, state = step(gradient, state, settings)
            found.append(np.asarray(direction))
    return np.stack(found)


def test_at_full_rank_nothing_is_left_outside():
    gradients = [uneven(LEAF.shape, seed) for seed in (1, 2)]
    for rank, same in ((16, True), (4, False)):
        one, other = (steps(gradients, rank=rank, gamma=gamma) for gamma in (0.2, 5.0))
        assert (one == other).all() == same
    # Of gradients of rank two a subspace of four directions leaves nothing but rounding.
    low = [uneven((16, 2), seed) @ uneven((2, 16), 0) for seed in (1, 2)]
    np.testing.assert_array_equal(*(steps(low, rank=4, gamma=gamma) for gamma in (0.2, 5.0)))


def test_the_root_mean_square_of_every_update_is_the_scale():
    gradients = [uneven(LEAF.shape, seed) for seed in (1, 2, 3)]
    found = steps(gradients, rank=4, scale=0.1)
    size = np.sqrt((found.astype(np.float64) ** 2).mean(axis=(1, 2)))
    assert size == pytest.approx(0.1, rel=1e-5)
