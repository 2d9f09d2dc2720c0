"""ParScale: one backbone run as P parallel streams (Chen et al. 2025, arXiv:2505.10475).

Every sequence passes the same layers P times. What tells its streams apart are learned keys and
values before the tokens of every attention; a learned mixture makes one hidden state of the P.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.config import ModelConfig, Settings
from models.parts import MATRIX, VECTOR, Count, Group, constant, normal, parameter, project
from refused import Refused

PREFIX = Group("prefix")

# Standard deviation of the aggregation's start: `initializer_range` of Qwen2, the backbone of the
# published models, whose linear layers start from it with zero biases.
AGGREGATION_STD = 0.02


@dataclass(frozen=True)
class Streams(Settings):
    """How many streams a model runs, and how they are told apart and mixed.

    `count` is P; a model with one stream is its backbone, without a parameter more. `prefix` is
    the number of learned positions per stream and layer: 48 in the published models. `smoothing` ε
    mixes the weights with uniform ones: 0.1 in the paper (appendix A, eq. 7), 0.01 in the released
    configuration. `std` is that of the prefixes' start; the published prefixes came out of a
    re-parameterisation that is not released. `neutral` gates what a prefix adds, with gates that
    start at zero: added streams then leave the backbone's output as it was.

    Raises:
      Refused: fewer than one stream or prefix position, a smoothing outside 0 to 1.
    """

    part: ClassVar[str] = "parscale"
    count: int
    prefix: int = 48
    smoothing: float = 0.1
    std: float = 0.02
    neutral: bool = False

    def __post_init__(self):
        for field in ("count", "prefix"):
            if getattr(self, field) < 1:
                raise Refused(f"streams.{field}", getattr(self, field), "1 or more")
        if not 0 <= self.smoothing <= 1:
            raise Refused("streams.smoothing", self.smoothing, "a share from 0 to 1")
        if not self.std > 0:
            raise Refused("streams.std", self.std, "a positive number")


class Prefix(nnx.Module):
    """The learned keys and values that every query of a stream sees, in one layer.

    Keys carry no rotary position, and no QK-norm: they are learned where normed keys live. With
    `gate` the attention to a prefix is apart from that to the tokens and added to it times
    tanh(gate), by stream and head (Zhang et al. 2023, arXiv:2303.16199, section 3.2): at zero
    nothing is added, and yet the gate has a gradient. A bias of −∞ would add nothing either, but
    would never learn, and zero keys and values would take their share of the softmax.
    """

    def __init__(self, config: ModelConfig):
        streams = config.streams
        shape = (streams.count, config.group_heads, streams.prefix, config.key_size)
        self.key = parameter(shape, normal(streams.std), PREFIX)
        self.value = parameter(shape, normal(streams.std), PREFIX)
        if streams.neutral:
            self.gate = parameter((streams.count, config.heads, 1, 1), constant(0.0), VECTOR)

    def rows(self, batch: int, dtype) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]:
        """Returns keys and values for a batch of B sequences × streams, streams fastest."""
        return tuple(per_row(x, batch, dtype) for x in (self.key, self.value))

    def gates(self, batch: int) -> Float[Array, "B H 1 1"] | None:
        """Returns the float32 factor of what the prefix adds; None where it shares the softmax."""
        if not hasattr(self, "gate"):
            return None
        return jnp.tanh(per_row(self.gate, batch, jnp.float32))


def per_row(leaf: nnx.Param, batch: int, dtype) -> Array:
    """Repeats a leaf [P, ...] for every sequence of a batch of B sequences × streams."""
    values = leaf[...]  # Repeated before it is rounded, so that its gradient adds in float32.
    values = jnp.tile(values, (batch // values.shape[0], *(1,) * (values.ndim - 1)))
    return values.astype(dtype)


def per_stream(config: ModelConfig, x: Array) -> Array:
    """Repeats every row of [B, ...] for its streams: row b becomes rows b·P to b·P + P − 1.

    The streams of a sequence lie side by side, so that on a mesh they stay on the sequence's
    device; the released code has all sequences of a stream side by side, which computes the same.
    """
    return x if config.streams is None else jnp.repeat(x, config.streams.count, axis=0)


class Aggregation(nnx.Module):
    """Mixes the final hidden states of P streams into one, by weights that depend on all of them.

    weights = (1 − ε)·softmax(W₂ SiLU(W₁ [h₁ … h_P] + b₁) + b₂) + ε/P, the softmax in float32
    (appendix A; the smoothing is eq. 7). W₁ reads the streams' states interleaved, column
    feature·P + stream, as the released weights do. The mixture is of hidden states, so of logits.
    """

    def __init__(self, config: ModelConfig):
        self.config = config
        width, streams = config.width, config.streams.count
        start = normal(AGGREGATION_STD)
        self.hidden = parameter((streams * width, width), start, MATRIX, fsdp=0)
        self.hidden_bias = parameter((width,), constant(0.0), VECTOR)
        self.score = parameter((width, streams), start, MATRIX, fsdp=0)
        self.score_bias = parameter((streams,), constant(0.0), VECTOR)

    def weights(self, x_BPLD: Array) -> Float[Array, "B L P"]:
        """Returns the weight of every stream at every position; they sum to one."""
        batch, streams, length, width = x_BPLD.shape
        joined = jnp.moveaxis(x_BPLD, 1, 3).reshape(batch, length, width * streams)
        hidden = jax.nn.silu(with_bias(project(joined, self.hidden), self.hidden_bias))
        scores = with_bias(project(hidden, self.score), self.score_bias)
        smoothing = self.config.streams.smoothing
        softmax = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
        return (1 - smoothing) * softmax + smoothing / streams

    def __call__(self, x: Float[Array, "BP L D"]) -> tuple[Float[Array, "B L D"], dict]:
        """Returns the mixture, and the mean of the largest weight: 1 − ε + ε/P when collapsed."""
        streams = self.config.streams.count
        x_BPLD = x.reshape(-1, streams, *x.shape[1:])
        weights = self.weights(x_BPLD)
        # As a step from the first stream: equal streams give their common state to the last bit.
        wide = x_BPLD.astype(jnp.float32)
        first, rest = wide[:, 0], wide[:, 1:] - wide[:, :1]
        mixed = first + jnp.einsum("blp,bpld->bld", weights[..., 1:], rest)
        return mixed.astype(x.dtype), {"streams.largest_weight": jnp.mean(weights.max(axis=-1))}


def with_bias(x: Array, bias: nnx.Param) -> Array:
    """Adds a bias [D] to [B, L, D]; its gradient is summed in float32."""
    return (x.astype(jnp.float32) + bias[...][None, None]).astype(x.dtype)


def count_streams(config: ModelConfig, layers: Count) -> Count:
    """Counts layers that every stream passes, with their prefixes and the aggregation.

    Parameters do not grow with P but for prefixes and aggregation: 2·P·S·G·K a layer and
    (P·D + 1)·D + (D + 1)·P. A token's products are P times those of the layers, S keys more in
    every attention, and the aggregation's; embedding and head are passed once and not counted here.
    """
    if config.streams is None:
        return layers
    streams, size = config.streams.count, config.key_size
    gates = config.heads if config.streams.neutral else 0
    rows = 2 * config.streams.prefix * config.group_heads * size
    prefixes = Count.vector(config.depth * streams * (rows + gates))
    between = config.depth * 4.0 * config.heads * size * config.streams.prefix
    passed = replace(
        layers,
        flops=streams * layers.flops,
        flops_attention=streams * (layers.flops_attention + between),
    )
    matrices = Count.dense((streams * config.width + streams) * config.width)
    return passed + prefixes + matrices + Count.vector(config.width + streams)


def kept(params: dict[str, Array], streams: int) -> dict[str, Array]:
    """Returns the parameters of the same model run with its first streams alone.

    The aggregation reads, in the place of each stream left out, the mean of those kept, which is
    folded into its matrix; the softmax over the streams kept renormalises their weights. While
    streams agree, nothing changes. Down to one stream the backbone alone is left, without any
    prefix: what that is worth is a matter of how it was trained.

    Raises:
      Refused: a model without streams, or more streams than it has.
    """
    width, count = params["aggregation.score"].shape if "aggregation.score" in params else (0, 1)
    if count == 1 or not 1 <= streams <= count:
        raise Refused("streams", streams, f"1 to {count} of a model with several")

    def keep(path, x):
        if path == "aggregation.hidden":
            columns = jnp.reshape(x, (width, count, width))
            left_out = columns[:, streams:].sum(axis=1, keepdims=True)
            return (columns[:, :streams] + left_out / streams).reshape(streams * width, width)
        if path.startswith("aggregation.score"):
            return x[..., :streams]
        return x[:streams] if ".prefix." in path else x

    if streams == count:
        return params
    own = lambda path: path.startswith("aggregation.") or ".prefix." in path
    return {path: keep(path, x) for path, x in params.items() if streams > 1 or not own(path)}
