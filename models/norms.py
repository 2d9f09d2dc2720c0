"""The norms of the residual stream: one before each part of a block, one before the head."""

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig
from models.parts import VECTOR, Count, RMSNorm, constant, parameter


class LayerNorm(nnx.Module):
    """Subtracts the mean and divides by the standard deviation (Ba et al. 2016, eq. 4).

    With `affine`, a gain and a bias follow. A constant input gives zeros (or the bias).
    """

    def __init__(self, size: int, epsilon: float, affine: bool):
        self.epsilon, self.affine = epsilon, affine
        if affine:
            self.gain = parameter((size,), constant(1.0), VECTOR)
            self.bias = parameter((size,), constant(0.0), VECTOR)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        if self.affine:
            flat = (1,) * (x.ndim - 1) + (-1,)
            normed = normed * jnp.reshape(self.gain[...], flat) + jnp.reshape(self.bias[...], flat)
        return normed.astype(x.dtype)


def block_norm(config: ModelConfig) -> nnx.Module:
    """Returns the norm before an attention or a feed-forward."""
    if config.block_norm == "layer_norm":
        return LayerNorm(config.width, config.norm_epsilon, affine=False)
    return RMSNorm(config.width, config.norm_epsilon)


def final_norm(config: ModelConfig) -> nnx.Module:
    """Returns the norm before the head."""
    if config.block_norm == "layer_norm":
        return LayerNorm(config.width, config.norm_epsilon, affine=True)
    return RMSNorm(config.width, config.norm_epsilon)


def count_block(config: ModelConfig) -> Count:
    """Counts one norm of a block."""
    return Count.vector(0 if config.block_norm == "layer_norm" else config.width)


def count_final(config: ModelConfig) -> Count:
    """Counts the norm before the head."""
    return Count.vector((2 if config.block_norm == "layer_norm" else 1) * config.width)
