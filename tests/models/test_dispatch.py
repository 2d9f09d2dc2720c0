"""Back ends of mixtures of experts against an oracle, alone and on a mesh."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Experts, dispatch, loss, skeleton
from models.dispatch import COMPUTE, pick, rows_at
from models.experts import BACK_ENDS
from models.routing import route
from scaling import make_mesh
from tests.corpora import model
from tests.models.test_moe import B, L, layer, oracle
from tests.models.test_routing import random_logits
from tests.tiers import mostly


@pytest.mark.parametrize(
    ("router", "factor"),
    mostly(
        [("softmax", None), ("sigmoid", 2.0), ("softmax", 2.0), ("sigmoid", 0.6)],
        [("sigmoid", 0.6)],
    ),
)
def test_back_ends_equal_an_oracle_in_value_and_gradient(router, factor):
    settings = Experts(4, 2, 1, granularity=4.0, router=router, capacity_factor=factor)
    config, params, x = layer(settings)
    expected = oracle(settings, x, params)
    results = {}
    for name in BACK_ENDS:
        part = replace(config, feed_forward=replace(settings, back_end=name))

        def out(params, x, part=part):
            values = {f"layers.1.feed_forward.{k}": v for k, v in params.items()}
            buffers = skeleton(part).initialise(0)[1]
            whole = skeleton(part).initialise(0)[0] | values
            y, _ = skeleton(part).merge(whole, buffers).layers[1].feed_forward(x, None)
            return jnp.sum(y**2), y

        gradient, y = jax.jit(jax.grad(out, argnums=(0, 1), has_aux=True))(params, x)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        results[name] = gradient
    for name in BACK_ENDS:
        for path, value in results["dense"][0].items():
            np.testing.assert_allclose(
                results[name][0][path], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {path}"
            )
        np.testing.assert_allclose(results[name][1], results["dense"][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", mostly(COMPUTE, ["capacity"]))
def test_back_ends_on_a_mesh_give_the_loss_and_gradient_of_one_device(name):
    settings = Experts(8, 2, 1, granularity=4.0, capacity_factor=1.0, back_end=name)
    config = model(feed_forward=settings, depth=1)
    params, buffers = skeleton(config).initialise(0)
    windows = np.random.default_rng(0).integers(0, 256, (8, config.context + 1)).astype(np.int32)

    def gradient(spec):
        of = lambda params: loss(config, params, buffers, windows)[0]
        with jax.set_mesh(make_mesh(spec)):
            return jax.jit(jax.value_and_grad(of))(params)

    (one, ours), (many, theirs) = gradient("data:1"), gradient("expert:4,data:2")
    np.testing.assert_allclose(many, one, rtol=1e-6)
    for path, value in ours.items():
        np.testing.assert_allclose(theirs[path], value, rtol=1e-3, atol=1e-6, err_msg=path)


def test_gpus_multiply_blocks_of_rows_and_tpus_ragged_groups(monkeypatch):
    settings = Experts(4, 2, 1, granularity=4.0, back_end="ragged")
    config = model(depth=1, feed_forward=settings)
    plain = model(depth=1, feed_forward=replace(settings, back_end="dense"))
    windows = np.random.default_rng(0).integers(0, 256, (2, config.context + 1)).astype(np.int32)
    params, buffers = skeleton(config).initialise(0)
    of = lambda config: lambda params: loss(config, params, buffers, windows)[0]
    trace = lambda: str(jax.make_jaxpr(of(config))(params))
    monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
    assert "ragged_dot" in trace()
    monkeypatch.setattr(dispatch, "platform", lambda: "cuda")
    assert "ragged_dot" not in trace()
    blocks, expected = jax.grad(of(config))(params), jax.grad(of(plain))(params)
    for path, value in expected.items():
        np.testing.assert_allclose(blocks[path], value, rtol=1e-4, atol=1e-6, err_msg=path)


def test_the_router_learns_only_through_gates_and_the_bias_not_at_all():
    _, params, x = layer(Experts(4, 2, 0, capacity_factor=None))
    kernels = [jnp.asarray(params[k]) for k in ("gate", "up", "down")]
    logits = jnp.asarray(random_logits(4))

    def gradient(settings):
        def out(logits, bias):
            routes, _ = route(settings, logits, bias)
            return jnp.sum(COMPUTE["dense"](x, routes, *kernels) ** 2)

        return jax.jit(jax.grad(out, argnums=(0, 1)))(logits, jnp.zeros(4))

    two, bias = gradient(Experts(4, 2, 0, capacity_factor=None))
    assert float(jnp.abs(two).max()) > 0.01 and not np.any(bias)
    one, _ = gradient(Experts(4, 1, 0, renormalise=True, capacity_factor=None))
    assert float(jnp.abs(one).max()) < 1e-5  # A single renormalised gate is constantly one.
    free, _ = gradient(Experts(4, 1, 0, capacity_factor=None))
    assert float(jnp.abs(free).max()) > 0.01


def test_copies_of_one_expert_with_equal_scores_change_nothing():
    settings = Experts(1, 1, 0, renormalise=True, capacity_factor=None)
    _, params, x = layer(settings)
    twins = {k: jnp.concatenate([jnp.asarray(params[k])] * 2) for k in ("gate", "up", "down")}
    kernels = [jnp.asarray(params[k]) for k in ("gate", "up", "down")]
    for name, compute in COMPUTE.items():

        def out(kernels, experts, compute=compute):
            same = jnp.zeros((B, L, experts))
            routes, _ = route(replace(settings, routed=experts), same, None)
            return compute(x, routes, *kernels)

        one, two = (
            jax.jit(out, static_argnums=1)(values, count)
            for count, values in ((1, kernels), (2, list(twins.values())))
        )
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_gradient_of_picking_rows_is_that_of_a_gather():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 3)).astype(np.float32))
    index = jnp.asarray([[4, 0, 5, 2], [1, 5, 3, 0]])  # Five is beyond the end: a row of zeros.
    back = np.full((2, 5, 1), 4)
    for b, row in enumerate(np.asarray(index)):
        for place, source in enumerate(row):
            if source < 5:
                back[b, source] = place
    weigh = jnp.asarray(rng.standard_normal((2, 4, 3)).astype(np.float32))
    ours = jax.grad(lambda x: jnp.sum(weigh * pick(x, index, jnp.asarray(back)) ** 2))(x)
    plain = jax.grad(lambda x: jnp.sum(weigh * rows_at(x, index) ** 2))(x)
    np.testing.assert_allclose(ours, plain, rtol=1e-6)
    assert not np.any(pick(x, index, jnp.asarray(back))[0, 2])
