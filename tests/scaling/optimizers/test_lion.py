"""Lion's steps by hand (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

import jax
import jax.numpy as jnp
import numpy as np

from scaling import Lion
from scaling.state import initial, update
from tests.corpora import model, recipe


def test_two_steps_are_those_of_the_algorithm():
    plan = recipe(model(), Lion(learning_rate=0.1, clip=1e9))
    state = initial(plan, 0)
    step = jax.jit(lambda s, g: update(plan, s, g, jnp.float32(0.1), jnp.float32(0.5)))
    rng = np.random.default_rng(0)
    momentum = dict.fromkeys(state.params, 0.0)
    for _ in range(2):
        draws = {p: rng.standard_normal(x.shape, np.float32) for p, x in state.params.items()}
        after, _ = step(state, draws)
        for path, gradient in draws.items():
            value = np.asarray(state.params[path])
            sign = np.sign(0.9 * momentum[path] + 0.1 * gradient)
            decayed = 0.0 if "norm" in path else 0.5 * value
            expected = value - 0.1 * (sign + decayed)
            np.testing.assert_allclose(after.params[path], expected, rtol=1e-5, atol=1e-6)
            momentum[path] = 0.99 * momentum[path] + 0.01 * gradient
            np.testing.assert_allclose(after.moments[path].mu, momentum[path], rtol=1e-4, atol=1e-6)
        state = after
