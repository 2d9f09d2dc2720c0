"""Text from a model: token after token, with keys and values kept (`models.cache`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.cache import Cache, Past
from models.config import ModelConfig
from models.transformer import skeleton
from refused import Refused


def extend(
    config: ModelConfig, params: dict, buffers: dict, cache: Cache, tokens: Int[Array, "B L"]
) -> tuple[Float[Array, "B L V"], Cache]:
    """Returns the logits after each of the next L tokens, and the cache with them.

    They are those of the whole sequence at once, of the model as it is evaluated. All tokens
    together are at most as many as the cache has positions.
    """
    past = Past(cache)
    logits = skeleton(config.evaluated).merge(params, buffers)(tokens, past)
    return logits, past.after(tokens.shape[1])


@functools.partial(jax.jit, static_argnames=("config", "count"))
def drawn(
    config: ModelConfig,
    params: dict,
    buffers: dict,
    prompt: Int[Array, "B L"],
    count: int,
    temperature: Float[Array, ""],
    key: Array,
) -> Int[Array, "B count"]:
    """Draws `count` tokens after each prompt."""
    cache = Cache.empty(config, prompt.shape[0], prompt.shape[1] + count)
    logits, cache = extend(config, params, buffers, cache, prompt)

    def choose(logits: Float[Array, "B V"], step: Array) -> Int[Array, " B"]:
        noise = jax.random.gumbel(jax.random.fold_in(key, step), logits.shape)
        return jnp.argmax(logits + temperature * noise, axis=-1).astype(jnp.int32)

    def one(carried, step):
        last, cache = carried
        token = choose(last, step)
        logits, cache = extend(config, params, buffers, cache, token[:, None])
        return (logits[:, -1], cache), token

    _, tokens = jax.lax.scan(one, (logits[:, -1], cache), jnp.arange(count))
    return tokens.T


def sample(
    config: ModelConfig,
    params: dict,
    buffers: dict,
    prompt: Int[np.ndarray, "B L"],
    count: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Int[np.ndarray, "B count"]:
    """Draws tokens that go on after each prompt of B, from softmax(logits / temperature).

    At temperature 0 it is the likeliest token. The draw adds temperature × Gumbel noise to the
    logits and takes the largest, which has that distribution (Gumbel 1954; Maddison et al. 2014,
    arXiv:1411.0030, section 2).

    Raises:
      Refused: no prompt, nothing to draw, more tokens than the context the model was trained on,
        ids outside the vocabulary, or a negative temperature.
    """
    prompt = np.asarray(prompt)
    length, room = prompt.shape[1], config.context - prompt.shape[1]
    if length < 1 or room < 1:
        accepted = f"1 to {config.context - 1} tokens, fewer than model.context={config.context}"
        raise Refused("prompt", f"{length} tokens", accepted)
    if not 1 <= count <= room:
        accepted = f"1 to {room}: model.context={config.context} less the prompt's {length} tokens"
        raise Refused("tokens", count, accepted)
    if not 0 <= prompt.min() <= prompt.max() < config.vocabulary:
        raise Refused("prompt", f"ids {prompt.min()} to {prompt.max()}", "ids of the vocabulary")
    if not 0 <= temperature < np.inf:
        raise Refused("temperature", temperature, "0 or more")
    args = prompt.astype(np.int32), count, np.float32(temperature), jax.random.key(seed)
    return np.asarray(drawn(config, params, buffers, *args))
