"""TokenFormer: matrices become attention over parameter tokens (Wang et al. 2024).

arXiv:2410.23168, ICLR 2025. A parameter token is a row of keys with its row of values; a model
grows by more rows, at the same width and depth (`scaling.growth`).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.attention import between_count, between_tokens, head_norms
from models.config import ModelConfig, Settings
from models.parts import Count, normal, parameter, project
from refused import Refused

# A row of scores whose squared length is below this counts as zero: its output and its gradient
# are zero. Without an epsilon inside the root the layer stays exactly invariant to positive scale.
ZERO = 1e-30

NORMS = ("l2_norm_gelu", "gelu_l2_norm", "softmax")
TAUS = ("base_rows", "rows")


@dataclass(frozen=True)
class ParameterTokens(Settings):
    """How many parameter tokens fill a place, and how their scores are normalised.

    `rows` is the number n of parameter tokens: in the attention's place of each of query, key,
    value and output, in the feed-forward's of its only layer. Scores are scaled to the length
    τ = √`base_rows`, kept through growth (`tau` "base_rows", by default √rows at the start), or to
    √n whatever n has become ("rows", as in the released code; section 3.2). `norm` is
    "l2_norm_gelu", GELU(τ·A/‖A‖₂) (appendix B, eq. 27), "gelu_l2_norm", τ·GELU(A)/‖GELU(A)‖₂, or
    "softmax", τ²·softmax(A), the three of the released code.
    """

    part: ClassVar[str] = "parameter_tokens"

    rows: int
    base_rows: int | None = None
    tau: str = "base_rows"
    norm: str = "l2_norm_gelu"

    def __post_init__(self):
        if self.rows < 1:
            raise Refused("parameter_tokens.rows", self.rows, "1 or more")
        if not 1 <= self.base <= self.rows:
            accepted = f"1 to rows={self.rows}, the rows before growth"
            raise Refused("parameter_tokens.base_rows", self.base_rows, accepted)
        if self.tau not in TAUS:
            raise Refused("parameter_tokens.tau", self.tau, f"one of {', '.join(TAUS)}")
        if self.norm not in NORMS:
            raise Refused("parameter_tokens.norm", self.norm, f"one of {', '.join(NORMS)}")

    @property
    def base(self) -> int:
        """Rows at the first construction."""
        return self.rows if self.base_rows is None else self.base_rows

    @property
    def length(self) -> float:
        """The length τ that a row of scores is scaled to."""
        return math.sqrt(self.base if self.tau == "base_rows" else self.rows)

    def grown(self, rows: int, tau: str | None = None) -> "ParameterTokens":
        """Returns the settings with more rows and the same base; `tau` None keeps its rule."""
        return replace(self, rows=rows, base_rows=self.base, tau=tau or self.tau)


def unit(x: Float[Array, "... N"]) -> Float[Array, "... N"]:
    """Divides by the Euclidean length; a zero row stays zero and has a zero gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    zero = square < ZERO
    return jnp.where(zero, 0.0, x) * jax.lax.rsqrt(jnp.where(zero, 1.0, square))


def weigh(scores: Float[Array, "... N"], settings: ParameterTokens) -> Float[Array, "... N"]:
    """Turns scores into weights of the value rows, in float32.

    GELU is the exact one, as in the released PyTorch code.
    """
    scores, tau = scores.astype(jnp.float32), settings.length
    if settings.norm == "softmax":
        return tau**2 * jax.nn.softmax(scores, axis=-1)
    if settings.norm == "gelu_l2_norm":
        return tau * unit(jax.nn.gelu(scores, approximate=False))
    return jax.nn.gelu(tau * unit(scores), approximate=False)


class Pattention(nnx.Module):
    """Attention from tokens to parameter tokens, without 1/√D (eq. 4).

    Keys are kept as [D, N] and values as [N, D]; rows are split over the mesh. Keys start with
    standard deviation 1/√fan_in and values with 1/√rows, the start of the released TPU code, with
    which the published models were grown (there truncated in the feed-forward, here nowhere).
    """

    def __init__(self, settings: ParameterTokens, fan_in: int, fan_out: int):
        self.settings, rows = settings, settings.rows
        self.keys = parameter((fan_in, rows), normal(fan_in**-0.5), fsdp=1)
        self.values = parameter((rows, fan_out), normal(rows**-0.5), fsdp=0)

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        weights = weigh(project(x, self.keys), self.settings)
        return project(weights.astype(x.dtype), self.values)

    @staticmethod
    def count(settings: ParameterTokens, fan_in: int, fan_out: int) -> Count:
        """Counts keys and values; norm and GELU are elementwise."""
        return Count.dense(settings.rows * (fan_in + fan_out))


class ParameterAttention(nnx.Module):
    """Self-attention whose query, key, value and output are attentions to parameter tokens.

    Between tokens it is the ordinary attention (eq. 8), rotary positions included: on whole heads
    here, on a quarter of each in the released PyTorch models, none in the TPU code.
    """

    def __init__(self, config: ModelConfig):
        self.config, settings = config, config.attention
        inner, groups = (n * config.key_size for n in (config.heads, config.group_heads))
        self.query = Pattention(settings, config.width, inner)
        self.key = Pattention(settings, config.width, groups)
        self.value = Pattention(settings, config.width, groups)
        self.output = Pattention(settings, inner, config.width)
        head_norms(self, config)

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        mixed = between_tokens(self, self.query(x), self.key(x), self.value(x), inputs)
        return self.output(mixed), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer's four attentions to parameters, and what tokens exchange."""
        settings, width = config.attention, config.width
        inner, groups = (n * config.key_size for n in (config.heads, config.group_heads))
        wide = Pattention.count(settings, width, inner) + Pattention.count(settings, inner, width)
        narrow = Pattention.count(settings, width, groups)
        return wide + narrow + narrow + between_count(config)


class ParameterFeedForward(nnx.Module):
    """A feed-forward that is one attention to parameter tokens (section 3.2, eq. 10)."""

    def __init__(self, config: ModelConfig):
        self.only = Pattention(config.feed_forward, config.width, config.width)

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        return self.only(x), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer's keys and values."""
        return Pattention.count(config.feed_forward, config.width, config.width)
