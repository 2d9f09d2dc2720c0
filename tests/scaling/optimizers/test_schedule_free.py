"""Schedule-free AdamW: its three sequences by hand, and the one that is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Stem, skeleton
from refused import Refused
from scaling.optimizers import named
from scaling.state import evaluated, initial, update
from tests.corpora import model, recipe

FREE = named("schedule_free", learning_rate=0.1, b1=0.8, b2=0.9, clip=1e9)
PATHS = ("head.kernel", "final_norm.gain")


def test_three_steps_are_those_of_the_algorithm_and_evaluation_is_at_the_mean():
    plan = recipe(model(depth=1), FREE)
    whole = initial(plan, 0)
    some = lambda by_path: {path: by_path[path] for path in PATHS}
    state = whole.replace(params=some(whole.params), moments=some(whole.moments))
    step = jax.jit(lambda s, g, rate: update(plan, s, g, rate, jnp.float32(0.5))[0])
    z = {path: value.astype(np.float64) for path, value in state.params.items()}
    x, total, v = dict(z), dict.fromkeys(z, 0.0), dict.fromkeys(z, 0.0)
    rng = np.random.default_rng(0)
    for count, rate in enumerate((0.1, 0.3, 0.2), start=1):
        drawn = {p: rng.standard_normal(a.shape).astype(np.float32) for p, a in z.items()}
        state = step(state, drawn, jnp.float32(rate))
        for path, g in drawn.items():
            y, decay = 0.2 * z[path] + 0.8 * x[path], 0.0 if "norm" in path else 0.5
            v[path] = 0.9 * v[path] + 0.1 * g.astype(np.float64) ** 2
            adam = g / (np.sqrt(v[path] / (1 - 0.9**count)) + 1e-8)
            z[path] = z[path] - rate * adam - rate * decay * y
            total[path] += rate**2
            share = rate**2 / total[path]
            x[path] = (1 - share) * x[path] + share * z[path]
            expected = 0.2 * z[path] + 0.8 * x[path]
            np.testing.assert_allclose(state.params[path], expected, atol=1e-6)
            np.testing.assert_allclose(state.moments[path].z, z[path], atol=1e-6)
        found = evaluated(plan, state)
        for path in PATHS:
            np.testing.assert_allclose(found.params[path], x[path], atol=1e-6)
            apart = np.abs(np.asarray(found.params[path]) - state.params[path]).max()
            assert (apart > 1e-4) == (count > 1)
    plain = recipe(model(depth=1))
    assert evaluated(plain, initial(plain, 0)).params.keys() == whole.params.keys()


def test_a_step_at_rate_zero_goes_nowhere():
    rule = FREE.rule("", skeleton(model()).params["head.kernel"]).transformation
    value = jnp.ones((2, 3))
    zero, decay = jnp.float32(0), jnp.float32(0.1)
    with jax.numpy_dtype_promotion("standard"):
        direction, after = rule.update(value, rule.init(value), value, rate=zero, decay=decay)
    assert np.isfinite(direction).all() and after.total == 0
    np.testing.assert_array_equal(after.z, value)


def test_lazy_tables_are_refused_by_name():
    table = skeleton(model(feed_forward=Stem())).params["layers.1.feed_forward.table"]
    with pytest.raises(Refused, match="optimizer: got schedule_free for the group stem; accepted"):
        FREE.rule_of("", table)
