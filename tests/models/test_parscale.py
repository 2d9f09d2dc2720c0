"""Parallel streams against the backbone they share (ParScale, arXiv:2505.10475)."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ModelConfig, Streams, count, loss, skeleton
from models.attention import attend, attend_with_prefix, rotate, visible
from models.cache import Cache
from models.parscale import kept
from models.parts import Count
from models.sample import extend
from models.transformer import PARTS, Inputs
from refused import Refused
from scaling import make_mesh
from scaling.mesh import batched, replicated
from tests.corpora import model
from tests.models.test_transformer import windows
from tests.zoo import CONFIGS

P = 3
CONFIG = CONFIGS["streams"]
GROUPED = replace(CONFIGS["streams_neutral"], streams=Streams(2, prefix=4))
TOKENS = windows(CONFIG)[:, :-1]


def values(config: ModelConfig, std: float = 0.5, seed: int = 0) -> dict:
    """Initial parameters with those of the streams drawn large, as after training."""
    params, _ = skeleton(config).initialise(seed)
    rng = np.random.default_rng(seed)
    own = [path for path in params if ".prefix." in path or path.startswith("aggregation.")]
    drawn = {path: rng.standard_normal(params[path].shape, np.float32) * std for path in own}
    return params | drawn


@jax.jit
def hidden(params, tokens=TOKENS):
    return skeleton(CONFIG).merge(params, {}).hidden(tokens)[0]


@jax.jit
def logits(params, tokens=TOKENS):
    return skeleton(CONFIG).merge(params, {})(tokens)


def backbone(params: dict) -> dict:
    return kept(params, 1)


class Fixed:
    """One stream's prefix, as the attention reads it."""

    def __init__(self, key, value):
        self.key, self.value = key, value

    def rows(self, batch, dtype):
        spread = lambda x: jnp.broadcast_to(x.astype(dtype), (batch, *x.shape))
        return spread(self.key), spread(self.value)

    def gates(self, batch):
        return None


def alone(config: ModelConfig, params: dict, tokens, stream: int):
    """Final hidden states of the backbone with the prefixes of one stream."""
    model_ = skeleton(replace(config, streams=None)).merge(backbone(params), {})
    inputs = Inputs(tokens, visible(tokens, config.separator, tokens.shape[1]))
    x = model_.embedding(tokens, jnp.float32)
    for index, layer in enumerate(model_.layers):
        own = (params[f"layers.{index}.prefix.{name}"][stream] for name in ("key", "value"))
        layer.prefix = Fixed(*map(jnp.asarray, own))
        x, _ = layer(x, inputs)
    return model_.final_norm(x)


def mixture_weights(config: ModelConfig, params: dict, states) -> np.ndarray:
    """The weights [B, L, P] of states [P, B, L, D], in numpy, from the formula."""
    streams = config.streams.count
    states = np.asarray(states, np.float64)
    kernel = np.asarray(params["aggregation.hidden"], np.float64)
    first = sum(states[p] @ kernel[p::streams] for p in range(streams))
    first = first + np.asarray(params["aggregation.hidden_bias"])
    first = first / (1 + np.exp(-first))
    scores = first @ np.asarray(params["aggregation.score"], np.float64)
    scores = np.exp(scores + np.asarray(params["aggregation.score_bias"]))
    smoothing = config.streams.smoothing
    return (1 - smoothing) * scores / scores.sum(-1, keepdims=True) + smoothing / streams


def test_one_stream_is_the_backbone():
    plain, one = model(), model(streams=Streams(1))
    assert one == plain and one.streams is None
    before, one_params = (skeleton(c).initialise(3)[0] for c in (plain, one))
    assert before.keys() == one_params.keys()
    several, _ = skeleton(CONFIG).initialise(3)
    for path, value in before.items():
        np.testing.assert_array_equal(one_params[path], value)
        np.testing.assert_array_equal(several[path], value)
    batch = windows(plain)
    both = [jax.jit(lambda p, c=c: loss(c, p, {}, batch)[0])(before) for c in (plain, one)]
    assert float(both[0]) == float(both[1])
    assert count(one) == count(plain)


def test_equal_prefixes_make_the_mixture_one_stream_whatever_the_weights():
    params = values(CONFIG)
    same = lambda x: np.broadcast_to(x[:1], x.shape).copy()
    params = {path: same(x) if ".prefix." in path else x for path, x in params.items()}
    found = hidden(params)
    np.testing.assert_allclose(found, alone(CONFIG, params, TOKENS, 0), rtol=1e-5, atol=1e-5)
    other = params | {"aggregation.score_bias": np.asarray([9.0, -3.0, 0.5], np.float32)}
    np.testing.assert_array_equal(found, hidden(other))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_weights_sum_to_one_within_the_bounds_of_smoothing(smoothing):
    config = replace(CONFIG, streams=replace(CONFIG.streams, smoothing=smoothing))
    model_ = skeleton(config).merge(values(config, 3.0), {})
    states = np.random.default_rng(0).standard_normal((2, P, 5, 16), np.float32)
    weights = np.asarray(model_.aggregation.weights(jnp.asarray(states)))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert weights.min() >= smoothing / P - 1e-6
    assert weights.max() <= 1 - smoothing + smoothing / P + 1e-6
    mixed, _ = model_.aggregation(jnp.asarray(states.reshape(6, 5, 16)))
    if smoothing == 1:
        np.testing.assert_allclose(mixed, states.mean(axis=1), rtol=1e-5, atol=1e-6)
    else:
        assert weights.std() > 0.1
    expected = mixture_weights(config, values(config, 3.0), np.moveaxis(states, 1, 0))
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_streams_does_not_matter():
    params, order = values(CONFIG), [2, 0, 1]
    shape = (CONFIG.width, P, CONFIG.width)
    permuted = {p: x[order] if ".prefix." in p else x for p, x in params.items()}
    columns = params["aggregation.hidden"].reshape(shape)[:, order]
    permuted["aggregation.hidden"] = columns.reshape(-1, CONFIG.width)
    for name in ("score", "score_bias"):
        permuted[f"aggregation.{name}"] = params[f"aggregation.{name}"][..., order]
    np.testing.assert_allclose(hidden(params), hidden(permuted), rtol=1e-4, atol=1e-5)
    halfway = params | {"aggregation.score": permuted["aggregation.score"]}
    assert not np.allclose(hidden(params), hidden(halfway), atol=1e-3)


@pytest.mark.parametrize("config", [CONFIG, GROUPED], ids=["plain", "grouped, normed, documents"])
def test_the_batched_pass_equals_a_loop_over_streams(config):
    params, tokens = values(config), windows(config)[:, :-1]
    tokens[0, 9] = tokens[1, 20] = 0
    states = [alone(config, params, tokens, p) for p in range(config.streams.count)]
    weights = mixture_weights(config, params, states)
    expected = sum(weights[..., p, None] * np.asarray(x) for p, x in enumerate(states))
    found = jax.jit(lambda p: skeleton(config).merge(p, {}).hidden(tokens)[0])(params)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert np.abs(np.asarray(states[0]) - np.asarray(states[1])).max() > 0.1


def test_prefix_keys_are_not_rotated_and_take_no_position():
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, 2, 6, 4), np.float32) for _ in range(3))
    prefix = [rng.standard_normal((2, 3, 4), np.float32) for _ in range(2)]
    mask = visible(jnp.zeros((1, 6), jnp.int32), None, 6)
    inputs = Inputs(None, mask, Fixed(*map(jnp.asarray, prefix)))
    turned = [rotate(jnp.asarray(x), 1e4) for x in (query, key)]
    found = attend_with_prefix(*turned, jnp.asarray(value), inputs)
    for head in range(2):
        for at in range(6):
            # Token keys have the angles of their own positions, which the prefix does not shift.
            keys = np.concatenate([prefix[0][head], turned[1][0, head, : at + 1]])
            scores = keys @ np.asarray(turned[0][0, head, at]) / np.sqrt(4)
            weights = np.exp(scores) / np.exp(scores).sum()
            seen = np.concatenate([prefix[1][head], value[0, head, : at + 1]])
            np.testing.assert_allclose(found[0, head, at], weights @ seen, rtol=1e-4, atol=1e-5)


def test_a_shorter_sequence_gives_the_first_logits_of_a_longer_one():
    params = values(CONFIG)
    whole = logits(params)
    np.testing.assert_allclose(logits(params, TOKENS[:, :7]), whole[:, :7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, GROUPED], ids=["plain", "grouped, normed, documents"])
def test_decoding_with_a_cache_equals_the_whole_pass(config):
    params, tokens = values(config), windows(config)[:, :10]
    tokens[0, 4] = tokens[1, 6] = 0
    step = jax.jit(lambda cache, some: extend(config, params, {}, cache, some))
    cache, found = Cache.empty(config, *tokens.shape), []
    for at in range(tokens.shape[1]):
        some, cache = step(cache, tokens[:, at : at + 1])
        found.append(some)
        assert int(cache.length) == at + 1  # Positions are those of tokens: no prefix among them.
    streams, heads = config.streams.count, config.group_heads
    rows = (tokens.shape[0] * streams, heads, tokens.shape[1], config.key_size)
    assert {x.shape for layer in cache.layers for x in layer} == {rows}
    whole = jax.jit(lambda p: skeleton(config).merge(p, {})(tokens))(params)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=2e-4, atol=2e-5)


def test_a_masked_prefix_is_none_and_a_prefix_of_zeros_is_not():
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.standard_normal((2, 2, 8, 4), np.float32)) for _ in "qkv")
    mask = visible(jnp.zeros((2, 8), jnp.int32), None, 8)
    plain = attend(query, key, value, mask)
    rows = jnp.asarray(rng.standard_normal((2, 2, 3, 4), np.float32))
    join = lambda x: jnp.concatenate([rows, x], axis=2)
    hidden_ = jnp.concatenate([jnp.zeros((1, 1, 8, 3), bool), mask], axis=3)
    masked = attend(query, join(key), join(value), hidden_)
    np.testing.assert_allclose(masked, plain, rtol=1e-5, atol=1e-6)
    zeros = jnp.zeros((2, 3, 4), jnp.float32)
    found = attend_with_prefix(query, key, value, Inputs(None, mask, Fixed(zeros, zeros)))
    assert np.linalg.norm(found - plain) > 0.3 * np.linalg.norm(plain)


def test_gated_streams_start_as_the_backbone_and_learn():
    config = CONFIGS["streams_neutral"]
    params, _ = skeleton(config).initialise(0)
    batch = windows(config)
    batch[0, 9] = 0
    score = lambda c: jax.jit(lambda p: skeleton(c).merge(p, {})(batch[:, :-1]))
    plain = score(replace(config, streams=None))(backbone(params))
    # Two programs, which compilers may sum in other orders.
    np.testing.assert_allclose(score(config)(params), plain, rtol=0, atol=1e-6)
    ungated = replace(config, streams=replace(config.streams, neutral=False))
    own = {path: x for path, x in params.items() if not path.endswith("prefix.gate")}
    assert not np.allclose(score(ungated)(own), plain, atol=1e-3)
    gradients = jax.jit(jax.grad(lambda p: loss(config, p, {}, batch)[0]))(params)
    gates = [x for path, x in gradients.items() if path.endswith("prefix.gate")]
    assert len(gates) == config.depth and all((np.abs(x) > 0).all() for x in gates)
    assert not any(gradients[path].any() for path in gradients if "prefix.key" in path)
    opened = params | {p: np.ones_like(x) for p, x in params.items() if p.endswith("prefix.gate")}
    assert not np.allclose(score(config)(opened), plain, atol=1e-3)


def test_logits_mix_as_hidden_states_do_and_the_head_is_passed_once():
    params = values(CONFIG)
    states = [alone(CONFIG, params, TOKENS, p) for p in range(P)]
    weights = mixture_weights(CONFIG, params, states)
    each = [np.asarray(x, np.float64) @ params["head.kernel"] for x in states]
    expected = sum(weights[..., p, None] * each[p] for p in range(P))
    np.testing.assert_allclose(logits(params), expected, rtol=2e-4, atol=2e-5)


# Chen et al. 2025 (arXiv:2505.10475), the released parametric fit: non-embedding
# parameters at P = 1, 2, 4, 8 of models with 36 layers, 16 query and 2 key/value heads.
PUBLISHED = {  # (width, feed-forward width)
    (896, 4864): (535813376, 538195842, 540577412, 545340552),
    (1024, 5504): (693753856, 696738818, 699722756, 705690632),
    (1280, 6912): (1088376320, 1092762882, 1097148164, 1105918728),
    (1536, 8320): (1571472384, 1577522690, 1583571460, 1595669000),
    (2048, 11008): (2774773760, 2784937986, 2795100164, 2815424520),
    (2560, 13824): (4353203200, 4368529922, 4383854084, 4414502408),
}


@pytest.mark.parametrize("shape", PUBLISHED)
def test_backbones_and_added_parameters_have_the_published_sizes(shape):
    width, inner = shape
    config = ModelConfig(
        vocabulary=151_936, width=width, depth=36, heads=16, kv_heads=2, ff_width=inner, tied=True
    )
    # Qwen2's biases of queries, keys and values, which we do not have.
    biases = 36 * (16 + 2 * 2) * config.key_size
    single, *more = PUBLISHED[shape]
    assert count(config).params_non_embedding + biases == single
    for streams, published in zip((2, 4, 8), more, strict=True):
        several = count(replace(config, streams=Streams(streams)))
        assert several.params_non_embedding + biases == published
        assert several.params_active == several.params_total


@pytest.mark.parametrize("streams", [2, 4])
def test_a_token_costs_the_layers_per_stream_and_the_head_once(streams):
    config = model(width=128, heads=4, kv_heads=2, context=64, streams=Streams(streams, prefix=16))
    plain, several = count(replace(config, streams=None)), count(config)
    width, depth, length = config.width, config.depth, config.context
    head = 2 * config.vocabulary * width
    between = 4 * depth * width * (length + 1) / 2
    assert plain.flops_forward == plain.flops_forward_body + between + head
    aggregation = 2 * (streams * width * width + width * streams)
    body = streams * plain.flops_forward_body + aggregation
    assert several.flops_forward_body == body
    prefix = 4 * depth * width * config.streams.prefix
    assert several.flops_forward == body + streams * (between + prefix) + head
    # XLA multiplies whole score matrices, and counts what is elementwise as well.
    expected = body + streams * (4 * depth * width * length + prefix) + head
    params, _ = skeleton(config).initialise(0)
    forward = jax.jit(lambda p, t: skeleton(config).merge(p, {})(t))
    compiled = forward.lower(params, np.zeros((1, length), np.int32)).compile()
    assert expected * length <= compiled.cost_analysis()["flops"] <= 1.05 * expected * length


def test_a_frozen_backbone_saves_its_weight_gradients_in_every_stream():
    frozen = replace(CONFIG, frozen=("layers.*.feed_forward.*", "head.*"))
    inner = CONFIG.depth * 3 * CONFIG.width * CONFIG.inner_width
    saved = 2 * (P * inner + CONFIG.vocabulary * CONFIG.width)
    assert count(CONFIG).flops_train - count(frozen).flops_train == saved


def test_gradients_reach_every_stream_from_the_start():
    params, _ = skeleton(CONFIG).initialise(0)
    batch = windows(CONFIG)
    value = lambda p: loss(CONFIG, p, {}, batch)
    gradients, (_, metrics) = jax.jit(jax.grad(value, has_aux=True))(params)
    for path in gradients:
        if ".prefix." in path:
            assert (np.abs(gradients[path]).max(axis=(1, 2, 3)) > 0).all(), path
    assert 1 / P <= metrics["streams.largest_weight"] < 1 - CONFIG.streams.smoothing
    collapsed = params | {"aggregation.score_bias": np.asarray([50.0, 0, 0], np.float32)}
    largest = jax.jit(value)(collapsed)[1][1]["streams.largest_weight"]
    assert largest == pytest.approx(1 - 0.1 + 0.1 / P, rel=1e-5)


@pytest.mark.parametrize("fewer", [1, 2])
def test_streams_left_out_change_nothing_while_streams_agree(fewer):
    params = values(CONFIG)
    same = lambda x: np.broadcast_to(x[:1], x.shape).copy()
    agree = {path: same(x) if ".prefix." in path else x for path, x in params.items()}
    config = replace(CONFIG, streams=replace(CONFIG.streams, count=fewer))
    score = jax.jit(lambda p: skeleton(config).merge(p, {}).hidden(TOKENS)[0])
    some = kept(agree, fewer)
    assert some.keys() == skeleton(config).params.keys()
    if fewer == 1:
        plain, _ = skeleton(model()).initialise(0)
        assert all(np.array_equal(some[path], plain[path]) for path in plain)
        return
    np.testing.assert_allclose(score(some), hidden(agree), rtol=1e-4, atol=1e-5)
    states = [alone(CONFIG, params, TOKENS, p) for p in range(fewer)]
    filled = [*states, sum(states) / fewer]
    weights = mixture_weights(CONFIG, params, filled)[..., :fewer] - CONFIG.streams.smoothing / P
    weights = 0.9 * weights / weights.sum(-1, keepdims=True) + 0.1 / fewer
    expected = sum(weights[..., p, None] * np.asarray(x) for p, x in enumerate(states))
    np.testing.assert_allclose(score(kept(params, fewer)), expected, rtol=2e-4, atol=2e-5)


def test_a_part_that_reads_tokens_sees_those_of_every_stream(monkeypatch):
    from flax import nnx

    from models.parts import normal, parameter

    class ByToken(nnx.Module):
        """Adds a vector per token, as a table in the place of a feed-forward would."""

        def __init__(self, config):
            self.table = parameter((config.vocabulary, config.width), normal(1.0))

        def __call__(self, x, inputs):
            return x * jnp.take(self.table[...], inputs.tokens, axis=0), {}

        @staticmethod
        def count(config):
            return Count()

    monkeypatch.setitem(PARTS["feed_forward"], "by_token", ByToken)
    config = replace(CONFIG, feed_forward="by_token")
    params = values(config)
    states = [alone(config, params, TOKENS, p) for p in range(P)]
    weights = mixture_weights(config, params, states)
    expected = sum(weights[..., p, None] * np.asarray(x) for p, x in enumerate(states))
    found = jax.jit(lambda p: skeleton(config).merge(p, {}).hidden(TOKENS)[0])(params)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


# One configuration of the zoo for every attention in it: a new one must read prefixes as well.
ATTENTIONS = {str(c.attention): c for c in CONFIGS.values() if c.streams is None}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_reads_the_prefixes(attention):
    config = replace(ATTENTIONS[attention], streams=Streams(2, prefix=2))
    params, buffers = skeleton(config).initialise(0)
    gradients = jax.jit(jax.grad(lambda p: loss(config, p, buffers, windows(config))[0]))(params)
    found = {path: np.abs(x).max() for path, x in gradients.items() if ".prefix." in path}
    assert len(found) == 2 * config.depth and min(found.values()) > 0


def test_on_a_mesh_the_streams_of_a_sequence_stay_on_its_device():
    mesh = make_mesh("data:8")
    params = jax.device_put(skeleton(CONFIG).initialise(0)[0], replicated(mesh))
    batch = jax.device_put(windows(CONFIG, 16), batched(mesh, 2, 0))
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(lambda p, w: loss(CONFIG, p, {}, w)[0]))
        text = gradient.lower(params, batch).compile().as_text()
    found = set(re.findall(r" (all-\w+|collective-permute|reduce-scatter)\(", text))
    assert found == {"all-reduce"}  # Of gradients and loss: no activation is sent.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "streams.count: got 0; accepted: 1 or more"),
        ({"count": 2, "prefix": 0}, "streams.prefix: got 0; accepted: 1 or more"),
        ({"count": 2, "smoothing": 1.5}, "streams.smoothing: got 1.5"),
        ({"count": 2, "std": 0.0}, "streams.std: got 0.0"),
    ],
)
def test_impossible_streams_are_refused_by_name(fields, message):
    with pytest.raises(Refused, match=message):
        Streams(**fields)


def test_keeping_more_streams_than_there_are_is_refused():
    params, _ = skeleton(CONFIG).initialise(0)
    with pytest.raises(Refused, match="streams: got 4; accepted: 1 to 3"):
        kept(params, 4)
    with pytest.raises(Refused, match="streams: got 1"):
        kept(backbone(params), 1)
