"""Who goes where: gates, capacity, the balancing loss and the bias."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Experts
from models.routing import balanced, route

L, B = 32, 3


def scores_of(experts: Experts, logits, bias=None):
    sent = jax.jit(lambda logits, bias: route(experts, logits, bias))
    routes, report = sent(np.asarray(logits, np.float32), bias)
    return routes, {k: float(v) for k, v in report.items()}


def random_logits(experts: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((B, L, experts)).astype(np.float32)


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
