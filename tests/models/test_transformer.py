"""Properties of the Transformer."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import Experts, ModelConfig, held_out_nll, loss, skeleton
from models import transformer as module
from refused import Refused
from tests.corpora import model
from tests.rounding import NUDGES, assert_same_step, nudged
from tests.tiers import mostly
from tests.zoo import CONFIGS, FEW


def windows(config: ModelConfig, rows: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(1, config.vocabulary, (rows, config.context + 1)).astype(np.int32)


def logits(config, tokens, seed=0):
    values = skeleton(config).initialise(seed)
    return jax.jit(lambda p, b, t: skeleton(config).merge(p, b)(t))(*values, tokens)


@pytest.mark.parametrize("name", mostly(CONFIGS, FEW + ("experts_bias", "codes_stem_streams")))
def test_no_position_depends_on_later_tokens(name):
    config = CONFIGS[name]
    bones = skeleton(config)
    params, buffers = bones.initialise(0)
    tokens = windows(config)[:1, :-1]
    at = 11

    def score(embedded):
        model_ = bones.merge(params, buffers)
        model_.embedding = lambda tokens, dtype: embedded
        hidden, _ = model_.hidden(tokens)
        return jnp.sum(hidden[0, at] ** 2 * jnp.arange(1.0, config.width + 1))

    embedded = bones.merge(params, buffers).embedding(tokens, jnp.dtype(jnp.float32))
    gradient = np.abs(jax.jit(jax.grad(score))(embedded)[0]).sum(axis=-1)
    assert (gradient[at + 1 :] == 0).all()
    assert (gradient[: at + 1] > 0).all()


def test_a_uniform_model_has_a_loss_of_the_log_of_its_vocabulary():
    config = model()
    params, buffers = skeleton(config).initialise(0)
    params["head.kernel"] = np.zeros_like(params["head.kernel"])
    total, (_, metrics) = jax.jit(lambda p: loss(config, p, buffers, windows(config)))(params)
    assert total == pytest.approx(math.log(config.vocabulary), rel=1e-6)
    assert metrics["nll"] == total


def test_the_first_loss_is_near_uniform():
    config = model()
    params, buffers = skeleton(config).initialise(1)
    total, _ = jax.jit(lambda p: loss(config, p, buffers, windows(config)))(params)
    assert abs(float(total) - math.log(config.vocabulary)) < 0.05


def test_attention_stays_inside_documents():
    config = model(separator=0)
    tokens = windows(config)[:1, :-1]
    tokens[0, 12] = 0
    other = tokens.copy()
    other[0, :12] = (tokens[0, :12] + 7) % 255 + 1
    first, second = logits(config, tokens), logits(config, other)
    np.testing.assert_array_equal(first[0, 12:], second[0, 12:])
    assert not np.allclose(first[0, :12], second[0, :12])


def test_positions_enter_only_by_their_difference_within_a_document():
    config = model(separator=0)
    tokens = windows(config)[:1, :-1]
    shifted = np.full_like(tokens, 9)
    tokens[0, 0] = shifted[0, 5] = 0
    shifted[0, 6:] = tokens[0, 1:-5]
    np.testing.assert_allclose(
        logits(config, tokens)[0, :-5], logits(config, shifted)[0, 5:], rtol=1e-4, atol=1e-5
    )


@pytest.mark.equality
@pytest.mark.parametrize("name", mostly(["default", "grouped", "streams"], ["streams"]))
def test_a_scan_over_stacked_layers_equals_the_loop(name, monkeypatch):
    config = replace(CONFIGS[name], depth=3)
    params, buffers = skeleton(config).initialise(0)
    batch = windows(config)
    value = lambda p: loss(config, p, buffers, batch)[0]
    loop = jax.jit(jax.value_and_grad(value))
    looped = loop(params)
    monkeypatch.setattr(module, "LOOPED_LAYERS", 1)
    scanned = jax.jit(jax.value_and_grad(lambda p: value(p)))(params)
    moved = [loop(nudged(params, seed)) for seed in NUDGES]
    assert_same_step(scanned, looped, moved)


def test_layers_of_two_structures_are_scanned_in_groups(monkeypatch):
    config = replace(CONFIGS["default"], depth=5, feed_forward=Experts(4, 2, 1, first_dense=2))
    params, buffers = skeleton(config).initialise(0)
    value = lambda p: loss(config, p, buffers, windows(config))
    text = lambda: str(jax.make_jaxpr(lambda p: value(p)[0])(params))
    looped = jax.jit(value)(params)
    before = text()
    monkeypatch.setattr(module, "LOOPED_LAYERS", 1)
    assert text().count(" scan[") == before.count(" scan[") + 2
    scanned = jax.jit(lambda p: value(p))(params)
    for name, metric in looped[1][1].items():
        assert float(metric) == pytest.approx(float(scanned[1][1][name]), rel=1e-5), name


@pytest.mark.equality
def test_what_is_computed_again_is_kept_less_of_and_changes_nothing():
    config = model()
    params, buffers = skeleton(config).initialise(0)
    batch = windows(config)
    value = lambda recompute: lambda p: loss(config, p, buffers, batch, recompute)[0]
    kept = {}
    for recompute in ("auto", "none", "dots", "full"):
        residuals = jax.eval_shape(lambda p, r=recompute: jax.vjp(value(r), p)[1], params)
        kept[recompute] = sum(x.size for x in jax.tree.leaves(residuals))
    assert kept["auto"] == kept["none"] > 1.2 * kept["dots"] > 1.2 * kept["full"]
    plain = jax.jit(jax.value_and_grad(value("none")))
    again = jax.jit(jax.value_and_grad(value("dots")))(params)
    assert_same_step(again, plain(params), [plain(nudged(params, seed)) for seed in NUDGES])


def test_cross_entropy_in_chunks_equals_that_at_once():
    from models.embeddings import cross_entropy

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 6, 8), np.float32))
    kernel = jnp.asarray(rng.standard_normal((8, 32), np.float32))
    targets = jnp.asarray(rng.integers(0, 32, (4, 6)))
    both = [
        jax.value_and_grad(lambda x, n=n: jnp.sum(cross_entropy(x, kernel, targets, n)[0] ** 2))(x)
        for n in (1 << 24, 32 * 6)
    ]
    assert both[0][0] == pytest.approx(float(both[1][0]), rel=1e-6)
    np.testing.assert_allclose(both[0][1], both[1][1], rtol=1e-5)


def test_bfloat16_computes_the_same_loss_to_its_precision():
    config = model()
    params, buffers = skeleton(config).initialise(0)
    half = replace(config, dtype="bfloat16")
    batch = windows(config)
    full, rounded = (
        jax.jit(lambda p, c=c: loss(c, p, buffers, batch)[0])(params) for c in (config, half)
    )
    assert full.dtype == rounded.dtype == jnp.float32
    assert float(rounded) == pytest.approx(float(full), rel=2e-3)


def test_a_leaf_starts_the_same_whatever_else_the_model_has():
    small, _ = skeleton(model()).initialise(5)
    grown, _ = skeleton(model(qk_norm=True, depth=3)).initialise(5)
    same = [p for p in small if small[p].std() > 0 and p in grown and "output" not in p]
    same = [p for p in same if "down" not in p]  # Residual outputs start smaller in deeper models.
    assert len(same) >= 10
    for path in same:
        np.testing.assert_array_equal(small[path], grown[path])
    other, _ = skeleton(model()).initialise(6)
    assert not np.array_equal(small["head.kernel"], other["head.kernel"])


def test_held_out_losses_average_to_the_training_loss():
    config = model()
    params, buffers = skeleton(config).initialise(0)
    batch = windows(config)
    each = held_out_nll(config, params, buffers, jnp.asarray(batch))
    assert each.shape == (2, config.context)
    assert float(jnp.mean(each)) == pytest.approx(float(loss(config, params, buffers, batch)[0]))


def test_the_normaliser_is_penalised_when_asked():
    plain, penalised = model(), CONFIGS["z_loss"]
    params, buffers = skeleton(plain).initialise(0)
    difference = [float(loss(c, params, buffers, windows(plain))[0]) for c in (plain, penalised)]
    expected = 1e-3 * math.log(plain.vocabulary) ** 2
    assert difference[1] - difference[0] == pytest.approx(expected, rel=0.05)


def test_unknown_parts_are_refused_by_name():
    with pytest.raises(Refused, match="feed_forward: got relu; accepted: one of swiglu, gelu"):
        skeleton(model(feed_forward="relu"))


def test_numerics_is_a_number():
    assert isinstance(models.NUMERICS, int)
