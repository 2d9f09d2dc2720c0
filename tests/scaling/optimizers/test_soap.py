"""SOAP: steps that turn with the gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from models import skeleton
from scaling.optimizers import named
from tests.corpora import model

LEAF = skeleton(model()).params["layers.0.attention.query"]


def steps(gradients, **settings) -> np.ndarray:
    """Returns the directions of some steps, [steps, m, n]."""
    rule, found = named("soap", learning_rate=0.1, **settings).rule("", LEAF).transformation, []
    state, step = rule.init(jnp.zeros(gradients[0].shape)), jax.jit(rule.update)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            direction, state = step(gradient.astype(np.float32), state)
            found.append(np.asarray(direction))
    return np.stack(found)


def test_turned_gradients_give_turned_steps_and_adam_alone_does_not():
    rng = np.random.default_rng(0)
    turn, other = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2))
    rows = np.arange(1, 5.0)[:, None]
    gradients = [rows * rng.standard_normal((4, 4)) for _ in range(4)]
    both = [turn @ g @ other for g in gradients]
    for settings in (dict(every=1), dict(every=2)):
        np.testing.assert_allclose(
            steps(both, **settings), turn @ steps(gradients, **settings) @ other, atol=2e-4
        )
    plain = dict(most=3)  # Neither dimension has a basis.
    assert np.abs(steps(both, **plain) - turn @ steps(gradients, **plain) @ other).max() > 0.1


def test_the_first_gradient_sets_the_bases_only():
    gradients = [np.random.default_rng(seed).standard_normal((4, 4)) for seed in (0, 1)]
    found = steps(gradients)
    assert not found[0].any() and np.abs(found[1]).min() > 1e-3


def test_members_of_a_fleet_take_the_steps_that_they_take_alone():
    rule = named("soap", learning_rate=0.1, every=2).rule("", LEAF).transformation
    rng = np.random.default_rng(0)
    gradients = [[rng.standard_normal((4, 4)) for _ in range(4)] for _ in range(2)]
    state = jax.vmap(rule.init)(jnp.zeros((2, 4, 4)))
    both = jax.jit(lambda g, s: jax.vmap(lambda g, s: rule.update(g, s))(g, s))
    alone = [steps(some, every=2) for some in gradients]
    with jax.numpy_dtype_promotion("standard"):
        for count in range(4):
            found, state = both(np.float32([some[count] for some in gradients]), state)
            np.testing.assert_allclose(found, [one[count] for one in alone], atol=2e-4)
