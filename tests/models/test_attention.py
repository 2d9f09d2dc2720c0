"""Properties of attention."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import count, skeleton
from models.attention import attend, rotate, visible
from models.transformer import Inputs
from refused import Refused
from tests.corpora import model, tokenformer


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_rotation_keeps_lengths_and_depends_on_differences():
    x = jnp.broadcast_to(random((1, 1, 1, 8)), (1, 1, 16, 8))
    y = jnp.broadcast_to(random((1, 1, 1, 8), 1), (1, 1, 16, 8))
    turned, other = rotate(x, 1e4), rotate(y, 1e4)
    np.testing.assert_allclose(
        jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
    )
    scores = jnp.einsum("bhlk,bhsk->bhls", turned, other)[0, 0]
    for offset in range(-3, 4):
        diagonal = np.diagonal(scores, offset)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)


def test_grouped_heads_equal_repeated_keys():
    query, key, value = (random((2, h, 8, 4), i) for i, h in enumerate((4, 2, 2)))
    mask = visible(jnp.zeros((2, 8), jnp.int32), None, 8)
    grouped = attend(query, key, value, mask)
    full = attend(query, jnp.repeat(key, 2, axis=1), jnp.repeat(value, 2, axis=1), mask)
    np.testing.assert_allclose(grouped, full, rtol=1e-5, atol=1e-6)


def test_explicit_products_equal_the_library_call():
    query, key, value = (random((2, 2, 8, 4), i) for i in range(3))
    mask = visible(jnp.zeros((2, 8), jnp.int32), None, 8)
    swap = lambda x: jnp.swapaxes(x, 1, 2)
    library = jax.nn.dot_product_attention(swap(query), swap(key), swap(value), is_causal=True)
    np.testing.assert_allclose(attend(query, key, value, mask), swap(library), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_gradient_is_that_of_the_plain_formula(groups):
    query, key, value, weigh = (
        random((2, h, 8, 4), i) for i, h in enumerate((4, groups, groups, 4))
    )
    mask = visible(jnp.asarray([[0, 5, 0, 7, 8, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]]), 0, 8)

    def plain(query, key, value, mask):
        key, value = (jnp.repeat(x, 4 // groups, axis=1) for x in (key, value))
        scores = jnp.where(mask, jnp.einsum("bhlk,bhsk->bhls", query, key) / 2, -jnp.inf)
        return jnp.einsum("bhls,bhsk->bhlk", jax.nn.softmax(scores, axis=-1), value)

    gradient = lambda f: jax.grad(
        lambda *inputs: jnp.sum(weigh * f(*inputs, mask)), argnums=(0, 1, 2)
    )(query, key, value)
    for ours, theirs in zip(gradient(attend), gradient(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("separator", [None, 0])
def test_every_position_sees_itself_and_nothing_later(separator):
    tokens = jnp.asarray([[0, 5, 0, 7, 8, 0]])
    mask = np.asarray(visible(tokens, separator, 6))[0, 0]
    assert mask.diagonal().all()
    assert not np.triu(mask, 1).any()
    assert mask.sum() == (21 if separator is None else 3 + 6 + 1)


def test_biases_are_added_to_queries_keys_and_values_before_positions():
    config = model(qkv_bias=True, depth=1)
    bones = skeleton(config)
    params, _ = bones.initialise(0)
    assert count(config).params_total == sum(leaf.size for leaf in bones.params.values())
    tokens = np.arange(8)[None]
    logits = lambda config, params: np.asarray(skeleton(config).merge(params, {})(tokens))
    bias = {path for path in params if path.endswith("_bias")}
    plain = {path: value for path, value in params.items() if path not in bias}
    np.testing.assert_array_equal(
        logits(config, params), logits(replace(config, qkv_bias=False), plain)
    )
    assert len(bias) == 3
    # A value's bias reaches every output alike, since a token's weights add up to one.
    value = "layers.0.attention.value_bias"
    shift = np.random.default_rng(0).standard_normal(params[value].shape, np.float32)
    x = random((1, 8, config.width))
    inputs = Inputs(jnp.asarray(tokens), visible(jnp.asarray(tokens), None, 8))
    attention = lambda params: bones.merge(params, {}).layers[0].attention
    before, after = (attention(p)(x, inputs)[0] for p in (params, params | {value: shift}))
    moved = shift @ params["layers.0.attention.output"]
    np.testing.assert_allclose(after - before, jnp.broadcast_to(moved, x.shape), atol=1e-5)
    # A key's changes no weight but for its rotation: at one position there is none.
    key = "layers.0.attention.key_bias"
    one = Inputs(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1, 1), bool))
    for bias, same in ((key, True), (value, False)):
        outs = [attention(p)(x[:, :1], one)[0] for p in (params, params | {bias: shift})]
        assert np.allclose(*outs, atol=1e-6) == same
    with pytest.raises(Refused, match="model.qkv_bias: got True"):
        tokenformer(qkv_bias=True)
