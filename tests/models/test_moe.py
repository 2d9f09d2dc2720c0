"""The layer of mixed experts in a model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Experts, held_out_nll, loss, skeleton
from models import transformer as module
from models.moe import MixtureOfExperts
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


def test_evaluation_drops_no_token():
    tight, free = (
        model(feed_forward=Experts(4, 2, 1, granularity=4.0, capacity_factor=factor))
        for factor in (0.6, None)
    )
    params, buffers = skeleton(tight).initialise(0)
    read = lambda config: jax.jit(lambda w: held_out_nll(config, params, buffers, w))(WINDOWS)
    trained = jax.jit(lambda w: skeleton(tight).merge(params, buffers).nll(w)[0])(WINDOWS)
    np.testing.assert_allclose(read(tight), read(free), rtol=1e-5)
    assert not np.allclose(read(tight), trained, rtol=1e-4)


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


def test_xla_counts_the_same_products_when_no_slot_stays_empty():
    settings = Experts(4, 2, 1, capacity_factor=1.0, back_end="capacity", granularity=4.0)
    config = model(feed_forward=settings, width=128, heads=4, context=64)
    part = lambda params, x: skeleton(config).merge(params, {}).layers[1].feed_forward(x, None)[0]
    params = skeleton(config).initialise(0)[0]
    x = np.zeros((1, 64, 128), np.float32)
    found = jax.jit(part).lower(params, x).compile().cost_analysis()["flops"]
    expected = 64 * MixtureOfExperts.count(config).flops
    assert expected <= found <= 1.06 * expected  # Sorting and weighing are not counted by us.
