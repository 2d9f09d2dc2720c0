"""Decoding with kept keys and values: the same logits as all at once, and draws from them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from models import Experts, sample, skeleton
from models.cache import Cache
from models.sample import extend
from refused import Refused
from tests.models.test_transformer import windows
from tests.tiers import mostly
from tests.zoo import CONFIGS, COVER


def decoded(config, params, buffers, tokens, cuts) -> np.ndarray:
    """Logits of tokens that come in pieces of these lengths."""
    step = jax.jit(lambda cache, some: extend(config, params, buffers, cache, some))
    cache, found = Cache.empty(config, *tokens.shape), []
    for piece in np.split(tokens, np.cumsum(cuts)[:-1], axis=1):
        logits, cache = step(cache, piece)
        found.append(logits)
    assert int(cache.length) == tokens.shape[1] == sum(cuts)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("name", mostly(COVER, ("default", "experts_bias")))
def test_tokens_one_by_one_give_the_logits_of_all_at_once(name):
    config = CONFIGS[name]
    if isinstance(config.feed_forward, Experts):  # A capacity that drops; a decoder has none.
        config = replace(config, feed_forward=replace(config.feed_forward, capacity_factor=0.5))
    params, buffers = skeleton(config).initialise(0)
    tokens = windows(config)[:, :12]
    tokens[0, 4] = tokens[1, 7] = 0  # Documents begin in the middle, where the model knows of them.
    bones = skeleton(config.evaluated)
    whole = jax.jit(lambda t: bones.merge(params, buffers)(t))(tokens)
    found = decoded(config, params, buffers, tokens, [5] + [1] * 7)
    np.testing.assert_allclose(found, whole, rtol=2e-4, atol=2e-5)


def test_a_deep_model_decodes_as_it_trains():
    config = replace(CONFIGS["default"], depth=13)  # Its layers are scanned in training.
    params, buffers = skeleton(config).initialise(0)
    tokens = windows(config)[:, :6]
    whole = jax.jit(lambda t: skeleton(config).merge(params, buffers)(t))(tokens)
    found = decoded(config, params, buffers, tokens, [4, 2])
    np.testing.assert_allclose(found, whole, rtol=2e-4, atol=2e-5)


@pytest.fixture(scope="module")
def model():
    """A configuration and values whose logits are far from equal."""
    config = CONFIGS["default"]
    params, buffers = skeleton(config).initialise(0)
    return config, params | {"head.kernel": 30 * params["head.kernel"]}, buffers


def test_at_temperature_zero_the_likeliest_token_follows(model):
    config, params, buffers = model
    prompt = windows(config)[:, :3]
    found = sample(*model, prompt, 6, temperature=0.0)
    assert found.shape == (len(prompt), 6)
    text = np.concatenate([prompt, found], axis=1)
    logits = jax.jit(lambda t: skeleton(config).merge(params, buffers)(t))(text)
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1)[:, 2:-1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_have_the_distribution_of_the_logits(model, temperature):
    config, params, buffers = model
    count = 20_000
    prompt = np.broadcast_to(windows(config)[:1, :3], (count, 3))
    logits = jax.jit(lambda t: skeleton(config).merge(params, buffers)(t))(prompt[:1])[0, -1]
    found = np.bincount(sample(*model, prompt, 1, temperature)[:, 0], minlength=256) / count

    def distance(temperature):
        """In units of what chance alone gives: Σ|found − expected| has mean 0.8 Σ√(p/n)."""
        expected = np.asarray(jax.nn.softmax(logits / np.float32(temperature)), np.float64)
        return np.abs(found - expected).sum() / np.sqrt(expected / count).sum()

    assert distance(temperature) < 1
    assert distance(0.8 * temperature) > 2 and distance(1.25 * temperature) > 2


def test_a_seed_gives_the_same_text_and_another_one_another(model):
    prompt = windows(model[0])[:, :3]
    first, again, other = (sample(*model, prompt, 8, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": np.zeros((1, 0), np.int32)}, "prompt: got 0 tokens; accepted: 1 to 31 tokens"),
        ({"prompt": np.zeros((1, 32), np.int32)}, "prompt: got 32 tokens; accepted: 1 to 31"),
        ({"prompt": np.full((1, 3), 256)}, "prompt: got ids 256 to 256; accepted: ids of the voc"),
        ({"count": 30}, "tokens: got 30; accepted: 1 to 29: model.context=32 less the prompt's 3"),
        ({"count": 0}, "tokens: got 0"),
        ({"temperature": -1.0}, "temperature: got -1.0; accepted: 0 or more"),
        ({"temperature": float("nan")}, "temperature: got nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, change, message):
    given = {"prompt": windows(model[0])[:1, :3], "count": 4} | change
    with pytest.raises(Refused, match=message):
        sample(*model, **given)
