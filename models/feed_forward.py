"""Position-wise feed-forward layers: SwiGLU and GELU."""

import math

import jax
from flax import nnx
from jaxtyping import Array, Float

from models.config import ModelConfig
from models.parts import Count, normal, parameter, project


class SwiGLU(nnx.Module):
    """A gated unit, W_down(SiLU(W_gate x) ⊙ W_up x), without biases (Shazeer 2020, eq. 6)."""

    def __init__(self, config: ModelConfig):
        width, inner = config.width, config.inner_width
        self.gate = parameter((width, inner), normal(width**-0.5), fsdp=0)
        self.up = parameter((width, inner), normal(width**-0.5), fsdp=0)
        self.down = parameter((inner, width), residual(inner, config.depth), fsdp=1)

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        hidden = jax.nn.silu(project(x, self.gate)) * project(x, self.up)
        return project(hidden, self.down), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer's three matrices."""
        return Count.dense(3 * config.width * config.inner_width)


class GELU(nnx.Module):
    """A plain unit, W_down GELU(W_up x), without biases (Hendrycks & Gimpel 2016)."""

    def __init__(self, config: ModelConfig):
        width, inner = config.width, config.inner_width
        self.up = parameter((width, inner), normal(width**-0.5), fsdp=0)
        self.down = parameter((inner, width), residual(inner, config.depth), fsdp=1)

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        return project(jax.nn.gelu(project(x, self.up)), self.down), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer's two matrices."""
        return Count.dense(2 * config.width * config.inner_width)


def residual(fan_in: int, depth: int):
    """Starts a matrix that writes to the residual stream (Radford et al. 2019, section 2.3)."""
    return normal(fan_in**-0.5 / math.sqrt(2 * depth))
