"""A feed-forward with a squared ReLU (So et al. 2021, arXiv:2109.08668, section 3).

Import this file, and a model has it by its name: `ModelConfig(..., feed_forward="example")`.
"""

import jax
from flax import nnx

from models.config import ModelConfig
from models.feed_forward import residual
from models.parts import Count, normal, parameter, project
from models.transformer import PARTS


class Example(nnx.Module):
    """A plain unit, W_down max(W_up x, 0)², without biases."""

    def __init__(self, config: ModelConfig):
        width, inner = config.width, config.inner_width
        # `fsdp` is the axis along which a mesh splits the matrix.
        self.up = parameter((width, inner), normal(width**-0.5), fsdp=0)
        self.down = parameter((inner, width), residual(inner, config.depth), fsdp=1)

    def __call__(self, x, inputs):
        """Returns what is added to the residual stream, and losses and metrics of its own."""
        return project(jax.nn.relu(project(x, self.up)) ** 2, self.down), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer's parameters and products."""
        return Count.dense(2 * config.width * config.inner_width)


# A place of the Transformer: embedding, attention or feed_forward. In a checkout of Espalier a part
# is an entry of `PARTS` in `models/transformer.py` instead.
PARTS["feed_forward"]["example"] = Example
