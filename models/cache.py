"""What a decoder keeps of the tokens before: keys and values of every layer, by position."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.attention import visible
from models.config import ModelConfig


class Cache(NamedTuple):
    """Keys and values of up to S positions, of which the first `length` are filled.

    Rows are sequences × streams. A stream's prefix takes no position: it is a parameter, and the
    same at every step.
    """

    tokens: Int[Array, "B S"]
    layers: tuple[tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]], ...]
    length: Int[Array, ""]

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, positions: int) -> "Cache":
        """Returns a cache of no token yet, with room for some."""
        rows = batch * (config.streams.count if config.streams else 1)
        shape = (rows, config.group_heads, positions, config.key_size)
        zeros = jnp.zeros(shape, jnp.dtype(config.dtype))
        return cls(
            jnp.zeros((rows, positions), jnp.int32),
            tuple((zeros, zeros) for _ in range(config.depth)),
            jnp.int32(0),
        )


class Past:
    """A cache while the layers run over the tokens that come next, one layer after the other.

    Each layer's attention takes up what is kept of it and leaves it longer; `after` is the cache
    with the new tokens.
    """

    def __init__(self, cache: Cache):
        self.cache, self.length = cache, cache.length
        self.tokens, self.layers = cache.tokens, []

    def mask(self, tokens: Int[Array, "B L"], separator: int | None) -> Bool[Array, "#B 1 L S"]:
        """Takes up the next tokens and says which positions, old and new, each of them may read."""
        self.tokens = jax.lax.dynamic_update_slice(self.tokens, tokens, (0, self.length))
        whole = visible(self.tokens, separator, self.tokens.shape[1])
        return jax.lax.dynamic_slice_in_dim(whole, self.length, tokens.shape[1], axis=2)

    def joined(self, key: Array, value: Array) -> tuple[Array, Array]:
        """Writes the next layer's new keys and values [B, G, L, K] behind its old ones."""
        write = lambda old, new: jax.lax.dynamic_update_slice(old, new, (0, 0, self.length, 0))
        old = self.cache.layers[len(self.layers)]
        self.layers.append(tuple(map(write, old, (key, value))))
        return self.layers[-1]

    def after(self, count: int) -> Cache:
        """Returns the cache with `count` more tokens."""
        return Cache(self.tokens, tuple(self.layers), self.length + jnp.int32(count))
