"""Where tokens enter the residual stream and where they leave it."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from models.config import ModelConfig, Settings
from models.parts import EMBEDDING, HEAD, Count, normal, parameter, product
from models.placement import by_device, split_axes
from refused import Refused


@dataclass(frozen=True)
class Learned(Settings):
    """A trained table that starts from independent normal values of standard deviation `std`.

    With `ModelConfig.frozen=("embedding.*",)` it stays as it starts: the frozen random table that
    fixed codes are compared with, neither trained nor decayed nor given optimizer state.
    """

    part: ClassVar[str] = "learned"
    std: float = 1.0

    def check(self, config: ModelConfig) -> None:
        """Refuses a deviation that is not positive."""
        if not self.std > 0:
            raise Refused("model.embedding.std", self.std, "a positive number")


class LearnedEmbedding(nnx.Module):
    """A trained table of one row per token.

    Rows start with unit variance, the scale at which the first norm leaves them; a tied table
    starts with the head's smaller one, so that the first logits stay near zero.
    """

    def __init__(self, config: ModelConfig):
        std = config.width**-0.5 if config.tied else 1.0
        if isinstance(config.embedding, Learned):
            std = config.embedding.std
        self.table = parameter((config.vocabulary, config.width), normal(std), EMBEDDING, fsdp=1)

    def __call__(self, tokens: Int[Array, "B L"], dtype: jnp.dtype) -> Float[Array, "B L D"]:
        # Rows are taken before they are rounded: gradients of a repeated token add in float32.
        return looked_up(self.table[...], tokens).astype(dtype)

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts the table; a look-up costs no FLOPs and a token reads one row."""
        params = config.vocabulary * config.width
        # A tied table is read whole by the head, which counts it as active.
        return Count(params, params, 0 if config.tied else params)


def looked_up(table: Float[Array, "V D"], tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """Looks up each token's row.

    On a mesh every device looks its own sequences' rows up in the whole table, which is gathered,
    and sums their gradient before it is summed over devices: otherwise XLA may gather the
    gradients of all sequences along `fsdp`.
    """
    take = functools.partial(jnp.take, axis=0)
    if not (axes := split_axes()):
        return take(table, tokens)
    split = PartitionSpec(axes)
    return by_device(take, (PartitionSpec(), split), split)(table, tokens)


class Head(nnx.Module):
    """A linear read-out of the final hidden state, with its own matrix unless tied."""

    def __init__(self, config: ModelConfig):
        # A small start keeps the first predictions near uniform, at a loss of ln V.
        self.kernel = parameter(
            (config.width, config.vocabulary), normal(0.1 * config.width**-0.5), HEAD, fsdp=0
        )

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        return logits(x, self.kernel[...])

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts the matrix (none of its own when tied) and its product."""
        size = config.vocabulary * config.width
        own = 0 if config.tied else size
        return Count(params=own, embedding=own, active=size, flops_head=2.0 * size)


def logits(x: Float[Array, "... D"], kernel: Float[Array, "D V"]) -> Float[Array, "... V"]:
    """Multiplies in the type of `x` and accumulates in float32."""
    return product(jnp.float32, x, kernel)


def cross_entropy(
    x: Float[Array, "B L D"],
    kernel: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    largest: int = 1 << 24,
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Returns each target's negative log-likelihood in nats and the log-normaliser.

    On a mesh every device takes the sequences that it owns, with the whole matrix, which is
    gathered once and whose gradient is summed over devices once. A device never holds logits of
    more than `largest` elements: its rows are taken in equal chunks, whose logits are computed
    again in the backward pass.
    """
    axes = split_axes()
    if not axes:
        return by_chunks(x, kernel, targets, largest)

    split, whole = PartitionSpec(axes), PartitionSpec()
    own = functools.partial(by_chunks, largest=largest)
    return by_device(own, (split, whole, split), (split, split))(x, kernel, targets)


def by_chunks(
    x: Float[Array, "B L D"], kernel: Float[Array, "D V"], targets: Int[Array, "B L"], largest: int
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Returns what `cross_entropy` does of the rows that one device owns."""

    def chunk(x, targets):
        scores = logits(x, kernel)
        normaliser = jax.nn.logsumexp(scores, axis=-1)
        chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return normaliser - chosen, normaliser

    batch, length, width = x.shape
    rows = batch * length
    pieces = next(
        n for n in range(1, rows + 1) if rows % n == 0 and rows // n * kernel.shape[1] <= largest
    )
    if pieces == 1:
        return chunk(x, targets)
    flat = (x.reshape(pieces, rows // pieces, width), targets.reshape(pieces, rows // pieces))
    nll, normaliser = jax.lax.map(lambda piece: jax.checkpoint(chunk)(*piece), flat)
    return nll.reshape(batch, length), normaliser.reshape(batch, length)
