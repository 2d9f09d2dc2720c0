"""Mixtures of experts against an oracle, and the published sizes of arXiv:2507.17702."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Experts, ModelConfig, count, held_out_nll, loss, skeleton, sparsity
from models import transformer as module
from models.accounting import leverage_flops
from models.moe import BACK_ENDS, COMPUTE, MixtureOfExperts, balanced, pick, route, rows_at
from refused import Refused
from scaling import make_mesh
from tests.corpora import model
from tests.zoo import CONFIGS

D, L, B = 16, 32, 3


def layer(experts: Experts, **fields):
    """Returns one layer's configuration, its parameters by name, and inputs [B, L, D]."""
    config = model(feed_forward=experts, **fields)
    params, _ = skeleton(config).initialise(0)
    prefix = "layers.1.feed_forward."
    mine = {p.removeprefix(prefix): v for p, v in params.items() if p.startswith(prefix)}
    x = np.random.default_rng(1).standard_normal((B, L, D)).astype(np.float32)
    return config, mine, jnp.asarray(x)


def scores_of(experts: Experts, logits, bias=None):
    sent = jax.jit(lambda logits, bias: route(experts, logits, bias))
    routes, report = sent(np.asarray(logits, np.float32), bias)
    return routes, {k: float(v) for k, v in report.items()}


def random_logits(experts: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((B, L, experts)).astype(np.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def oracle(experts: Experts, x, p) -> np.ndarray:
    """Computes the layer token by token in numpy, in float64."""
    x = np.asarray(x, np.float64)
    slots, out = experts.slots(L), np.zeros_like(x)
    feed = lambda v, g, u, d: (silu(v @ g) * (v @ u)) @ d
    for b in range(B):
        taken = np.zeros(experts.routed, int)
        for t in range(L):
            logits = x[b, t] @ p["router"]
            s = 1 / (1 + np.exp(-logits))
            if experts.router == "softmax":
                s = np.exp(logits - logits.max())
                s /= s.sum()
            chosen = np.argsort(-s, kind="stable")[: experts.active]
            gates = s[chosen] / (s[chosen].sum() if experts.renormalises() else 1.0)
            for e, g in zip(chosen, gates, strict=True):
                if taken[e] < slots:
                    out[b, t] += g * feed(x[b, t], p["gate"][e], p["up"][e], p["down"][e])
                taken[e] += 1
            if experts.shared:
                out[b, t] += feed(x[b, t], *(p[f"shared.{k}"] for k in ("gate", "up", "down")))
    return out


@pytest.mark.parametrize(
    ("router", "factor"), [("softmax", None), ("sigmoid", 2.0), ("softmax", 2.0), ("sigmoid", 0.6)]
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


@pytest.mark.parametrize("name", [name for name in BACK_ENDS if name != "auto"])
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


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_every_token_has_k_different_experts_and_gates_that_sum_to_one(router):
    settings = Experts(6, 3, router=router, capacity_factor=None)
    routes, report = scores_of(settings, random_logits(6))
    assert routes.experts.shape == (B, L, 3)
    assert all(len(set(row)) == 3 for row in np.asarray(routes.experts).reshape(-1, 3))
    np.testing.assert_allclose(np.sum(routes.gates, axis=-1), 1.0, rtol=1e-6)
    assert int(routes.counts.sum()) == 3 * B * L
    assert report["router.dropped"] == 0


def test_without_renormalising_gates_are_the_scores():
    logits = random_logits(6)
    routes, _ = scores_of(Experts(6, 2, renormalise=False, capacity_factor=None), logits)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(routes.gates, -np.sort(-p, axis=-1)[..., :2], rtol=1e-5)


def test_capacity_keeps_the_earlier_tokens_and_counts_what_it_drops():
    settings = Experts(4, 1, capacity_factor=0.5)  # Four slots each for a sequence of 32.
    logits = np.zeros((1, L, 4), np.float32)
    logits[:, :, 2] = 5.0  # All want expert 2.
    routes, report = scores_of(settings, logits)
    kept = np.asarray(routes.gates)[0, :, 0] > 0
    assert kept[:4].all() and not kept[4:].any()
    assert report["router.dropped"] == pytest.approx(28 / 32)
    assert report["router.load"] == pytest.approx(4.0)


def test_tokens_may_be_permuted_and_so_may_experts():
    settings = Experts(4, 2, 1, granularity=4.0, capacity_factor=None)
    config, params, x = layer(settings)
    base = oracle(settings, x, params)
    rng = np.random.default_rng(2)
    tokens, experts = rng.permutation(L), rng.permutation(4)
    swapped = params | {k: params[k][experts] for k in ("gate", "up", "down")}
    swapped["router"] = params["router"][:, experts]

    def y(params, x):
        values = {f"layers.1.feed_forward.{k}": v for k, v in params.items()}
        whole = skeleton(config).initialise(0)[0] | values
        return skeleton(config).merge(whole, {}).layers[1].feed_forward(x, None)[0]

    forward = jax.jit(y)
    moved = forward(params, x[:, tokens])
    np.testing.assert_allclose(moved, base[:, tokens], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(forward(swapped, x), base, rtol=1e-4, atol=1e-5)


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


def test_the_bias_moves_a_skewed_router_to_a_uniform_load_and_sums_to_zero():
    settings = Experts(8, 2, router="sigmoid", bias_rate=0.02, capacity_factor=None)
    logits = random_logits(8) + np.linspace(-2, 2, 8, dtype=np.float32)

    @jax.jit
    def step(bias):
        routes, report = route(settings, jnp.asarray(logits), bias)
        moved = balanced(bias, routes.counts.sum(axis=0), settings.bias_rate)
        return moved, report["router.load"]

    bias, loads = jnp.zeros(8), []
    for _ in range(150):
        bias, load = step(bias)
        loads.append(float(load))
    assert loads[0] > 2.5 and np.mean(loads[-20:]) < 1.25
    assert np.argmax(bias) == 0 and abs(float(bias.sum())) < 1e-5
    assert float(jnp.abs(bias).max()) > 0.2


def test_the_bias_moves_the_choice_not_the_gates():
    settings = Experts(4, 2, router="sigmoid", capacity_factor=None)
    logits = random_logits(4)
    bias = jnp.asarray([10.0, 10.0, 0.0, 0.0])
    routes, _ = scores_of(settings, logits, bias)
    assert set(np.asarray(routes.experts).ravel()) == {0, 1}
    s = 1 / (1 + np.exp(-logits[..., :2]))
    expected = np.sort(s / s.sum(axis=-1, keepdims=True), axis=-1)
    np.testing.assert_allclose(np.sort(routes.gates, axis=-1), expected, rtol=1e-5)


def test_one_expert_of_one_is_the_dense_feed_forward():
    wide = Experts(1, 1, 0, expert_width=24, balance=0.0, z_loss=0.0)
    dense = model(ff_width=24)
    params, _ = skeleton(dense).initialise(0)
    lone = model(feed_forward=wide)
    same = {
        path: params[path].reshape(leaf.shape) if path in params else np.ones(leaf.shape, "f")
        for path, leaf in skeleton(lone).params.items()
    }
    windows = np.random.default_rng(0).integers(0, 256, (2, 33)).astype(np.int32)
    value = lambda config, params: float(jax.jit(lambda p: loss(config, p, {}, windows)[0])(params))
    assert value(lone, same) == pytest.approx(value(dense, params), rel=1e-6)


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


def test_the_balance_loss_is_one_at_uniform_routing_and_more_when_skewed():
    settings = Experts(4, 1, balance=1.0, z_loss=1.0)
    logits = np.zeros((1, L, 4), np.float32)
    logits[0, np.arange(L), np.arange(L) % 4] = 1e-4  # Uniform, without ties.
    _, report = scores_of(settings, logits)
    assert report["loss.balance"] == pytest.approx(1.0, rel=1e-4)
    assert report["router.entropy"] == pytest.approx(math.log(4), rel=1e-4)
    assert report["loss.router_z"] == pytest.approx(math.log(4) ** 2, rel=1e-3)
    _, skewed = scores_of(settings, logits + np.array([3, 0, 0, 0], np.float32))
    assert skewed["loss.balance"] > 2 and skewed["router.load"] == pytest.approx(4.0)
    assert scores_of(settings, random_logits(4))[1]["loss.router_z"] >= 0
    _, silent = scores_of(Experts(4, 1, router="sigmoid"), logits)
    assert not any(key.startswith("loss.") for key in silent)


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


def test_who_is_dropped_depends_on_no_later_token_and_no_other_sequence():
    config = model(feed_forward=Experts(4, 2, 0, capacity_factor=0.6))
    params, buffers = skeleton(config).initialise(0)
    tokens = np.random.default_rng(0).integers(0, 256, (2, 32)).astype(np.int32)
    forward = jax.jit(lambda t: skeleton(config).merge(params, buffers)(t))
    other = tokens.copy()
    other[0, 20:] = (other[0, 20:] + 5) % 256
    other[1] = other[1, ::-1]
    first, second = forward(tokens), forward(other)
    np.testing.assert_allclose(first[0, :20], second[0, :20], rtol=1e-5, atol=1e-6)
    assert not np.allclose(first[0, 20:], second[0, 20:], atol=1e-3)


WINDOWS = np.random.default_rng(3).integers(0, 256, (4, 33)).astype(np.int32)


def test_a_scan_updates_buffers_and_reports_as_the_loop_does(monkeypatch):
    config = replace(CONFIGS["experts_bias"], depth=3)
    params, buffers = skeleton(config).initialise(0)
    value = lambda p: loss(config, p, buffers, WINDOWS)
    looped = jax.jit(value)(params)
    monkeypatch.setattr(module, "LOOPED_LAYERS", 1)
    scanned = jax.jit(lambda p: value(p))(params)
    assert float(looped[0]) == pytest.approx(float(scanned[0]), rel=1e-6)
    assert len(looped[1][0]) == 3
    for path, bias in looped[1][0].items():
        assert np.any(bias) and abs(float(jnp.sum(bias))) < 1e-6
        np.testing.assert_array_equal(bias, scanned[1][0][path])
    for name, metric in looped[1][1].items():
        assert float(metric) == pytest.approx(float(scanned[1][1][name]), rel=1e-5), name
    assert 1 <= looped[1][1]["router.load"] <= 4  # A mean over layers, not a sum.


def test_only_training_moves_the_bias():
    config = CONFIGS["experts_bias"]
    params, buffers = skeleton(config).initialise(0)
    before = {path: value.copy() for path, value in buffers.items()}
    first = jax.jit(lambda b: held_out_nll(config, params, b, WINDOWS))(buffers)
    for path, value in buffers.items():
        np.testing.assert_array_equal(value, before[path])
    _, (after, _) = jax.jit(lambda b: loss(config, params, b, WINDOWS))(buffers)
    assert all(np.any(after[path] != before[path]) for path in before)
    # Evaluation reads it: another bias, another loss.
    pushed = {path: np.array([5, 0, 0, 0], np.float32) for path in before}
    second = jax.jit(lambda b: held_out_nll(config, params, b, WINDOWS))(pushed)
    assert not np.allclose(first, second)


def test_the_first_layers_are_dense_when_asked():
    config = CONFIGS["experts"]
    assert config.layer(0).feed_forward == "swiglu"
    paths = skeleton(config).params
    assert "layers.0.feed_forward.router" not in paths and "layers.1.feed_forward.router" in paths
    assert paths["layers.0.feed_forward.up"].shape == (config.width, config.inner_width)


def test_expert_kernels_keep_what_is_contracted_second_to_last():
    # What rules on paths, such as quantisation's, rely on.
    config = CONFIGS["experts"]
    width, inner = config.width, config.feed_forward.width_in(config)
    leaves = skeleton(config).params
    shapes = {n: leaves[f"layers.1.feed_forward.{n}"].shape for n in ("gate", "up", "down")}
    assert shapes == {"gate": (4, width, inner), "up": (4, width, inner), "down": (4, inner, width)}
    assert leaves["layers.1.feed_forward.router"].group.name == "router"


def ling_mini_beta(**fields) -> ModelConfig:
    # Tian et al. 2025 (arXiv:2507.17702), section 5.2 and table 1.
    experts = Experts(384, 12, 1, expert_width=384, first_dense=1)
    shape = dict(width=2048, depth=20, heads=16, kv_heads=4, ff_width=5120, context=8192)
    return ModelConfig(**shape | {"vocabulary": 126_464, "feed_forward": experts} | fields)


def dense_6b() -> ModelConfig:
    shape = dict(width=4096, depth=28, heads=32, kv_heads=8, ff_width=14_336, context=8192)
    return ModelConfig(vocabulary=126_464, **shape)


def test_sizes_are_those_of_ling_mini_beta_and_its_dense_peer():
    # 17.5B with 0.85B active, against 6.1B, less the norms' gains, which are not counted there:
    # attention d²(2 + 2/(heads/kv)), router d·E, experts 3·d·d_expert, over 19 of 20 layers.
    gains = lambda config: (2 * config.depth + 1) * config.width
    mixture, dense = count(ling_mini_beta()), count(dense_6b())
    everywhere = 20 * 2048**2 * 5 // 2 + 3 * 2048 * 5120 + 19 * 2048 * 384
    expert = 19 * 3 * 2048 * 384
    total = mixture.params_non_embedding - gains(ling_mini_beta())
    assert total == everywhere + 385 * expert == 17_514_364_928
    active = mixture.params_active - 2 * 126_464 * 2048 - gains(ling_mini_beta())
    assert active == everywhere + 13 * expert == 838_860_800
    found = dense.params_non_embedding - gains(dense_6b())
    assert found == 28 * (4096**2 * 5 // 2 + 3 * 4096 * 14_336) == 6_106_906_624
    assert sparsity(ling_mini_beta()) == {
        "experts": 384,
        "activation_ratio": 13 / 385,
        "granularity": pytest.approx(2 * 2048 / 384),
    }


def test_flops_in_the_published_convention_are_those_of_the_paper():
    # 1T tokens cost 8.3e21 FLOPs without the head and 9.9e21 with it; at a context of 8,192 the
    # dense model takes 5.3 times the FLOPs per token.
    mixture, dense = leverage_flops(ling_mini_beta()), leverage_flops(dense_6b())
    assert mixture * 1e12 == pytest.approx(8.34e21, rel=1e-3)
    assert leverage_flops(ling_mini_beta(), head=True) * 1e12 == pytest.approx(9.90e21, rel=1e-3)
    assert dense / mixture == pytest.approx(5.32, rel=1e-3)
    with pytest.raises(Refused, match="model.feed_forward: got gelu"):
        leverage_flops(model(feed_forward="gelu"))


def test_all_experts_active_cost_what_a_dense_feed_forward_does():
    full = model(feed_forward=Experts(4, 4, 0, expert_width=12))
    dense = model(ff_width=48)
    router = 2 * 2 * D * 4
    assert count(full).flops_forward - router == count(dense).flops_forward
    assert leverage_flops(full) == leverage_flops(dense)


def test_flops_do_not_depend_on_the_number_of_experts_but_bytes_do():
    costs = [count(model(feed_forward=Experts(e, 2, 1))) for e in (4, 8, 12)]
    per_expert = 3 * D * D
    for few, more in zip(costs, costs[1:], strict=False):
        assert more.flops_forward - few.flops_forward == 2 * (2 * D * 4)  # The router alone.
        assert more.params_active - few.params_active == 2 * D * 4
        assert more.bytes - few.bytes == 4 * 2 * 4 * (per_expert + D)


def test_freezing_experts_saves_the_gradients_of_the_active_ones():
    config = model(feed_forward=Experts(8, 2, 1, expert_width=12))
    frozen = replace(config, frozen=("layers.*.feed_forward.down",))
    saved = count(config).flops_train - count(frozen).flops_train
    assert saved == pytest.approx(2 * 2 * 2 * 12 * D)


def test_xla_counts_the_same_products_when_no_slot_stays_empty():
    settings = Experts(4, 2, 1, capacity_factor=1.0, back_end="capacity", granularity=4.0)
    config = model(feed_forward=settings, width=128, heads=4, context=64)
    part = lambda params, x: skeleton(config).merge(params, {}).layers[1].feed_forward(x, None)[0]
    params = skeleton(config).initialise(0)[0]
    x = np.zeros((1, 64, 128), np.float32)
    found = jax.jit(part).lower(params, x).compile().cost_analysis()["flops"]
    expected = 64 * MixtureOfExperts.count(config).flops
    assert expected <= found <= 1.06 * expected  # Sorting and weighing are not counted by us.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Experts(2, 3), "model.feed_forward.active: got 3; accepted: 1 to routed=2"),
        (
            Experts(64, 1, capacity_factor=0.5),
            "model.feed_forward.capacity_factor: got 0.5; accepted: 2 or more",
        ),
        (Experts(capacity_factor=0.0), "model.feed_forward.capacity_factor: got 0.0"),
        (Experts(routed=0, active=0), "model.feed_forward.routed: got 0"),
        (Experts(router="hash"), "model.feed_forward.router: got hash; accepted: one of softmax"),
        (Experts(back_end="gpu"), "model.feed_forward.back_end: got gpu"),
        (Experts(granularity=3.0), "model.feed_forward.granularity: got 3.0; accepted: a divisor"),
        (Experts(granularity=2.0, expert_width=8), "model.feed_forward.granularity: got 2.0"),
        (Experts(first_dense=2), "model.feed_forward.first_dense: got 2; accepted: 0 to 1"),
        (Experts(balance=-1.0), "model.feed_forward.balance: got -1.0"),
    ],
)
def test_impossible_experts_are_refused_by_name(settings, message):
    with pytest.raises(Refused) as refused:
        model(feed_forward=settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)
