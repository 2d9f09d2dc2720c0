"""Fixed binary token codes in place of an input table (Bochkov 2026, arXiv:2605.09751).

A token's K = ⌈log₂V⌉ bits, spread over the width, enter the residual stream as they are. Nothing
is stored or trained: a code is computed from the token's number where it is needed.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from models.config import ModelConfig, Settings
from models.parts import Count
from refused import Refused

MOST_BITS = 31  # Tokens are int32 and not negative.


@dataclass(frozen=True)
class Codes(Settings):
    """How token numbers become binary codes; the paper leaves all but the tiling open.

    `bits` is K (default ⌈log₂V⌉). Bit k is the coefficient of 2^k, as {0, 1} or with `signed` as
    ±1, times `scale`. Coordinate j of the width holds bit j mod K; with `interleaved` the copies of
    a bit stand side by side instead, the same coordinates in another order. Where K does not divide
    the width, the first bits have one copy more than the last.

    `recode_seed` draws an invertible matrix A and a vector b over F₂ and takes A·c ⊕ b for the code
    c, which takes away what the tokenizer's numbering says.

    The first RMSNorm keeps all codes apart. A LayerNorm would make the code of only zeros and the
    code of only ones the same: A and b are chosen such that no token has either, wherever two codes
    are unused (V ≤ 2^K − 2). Without recoding only V = 2^K uses both.
    """

    part: ClassVar[str] = "codes"
    bits: int | None = None
    signed: bool = False
    scale: float = 1.0
    interleaved: bool = False
    recode_seed: int | None = None

    def check(self, config: ModelConfig) -> None:
        """Refuses codes that do not tell all tokens apart, and a head tied to them.

        Warns where two tokens enter the first layer alike.
        """
        bits = self.length(config.vocabulary)
        if not 0 < bits <= MOST_BITS:
            raise Refused("model.embedding.bits", bits, f"1 to {MOST_BITS}")
        if config.vocabulary > 2**bits:
            accepted = f"at most 2^{bits} = {2**bits} with model.embedding.bits={bits}"
            raise Refused("model.vocabulary", config.vocabulary, accepted)
        if config.width < bits:
            accepted = f"at least model.embedding.bits={bits}, so that no bit is left out"
            raise Refused("model.width", config.width, accepted)
        if config.tied:
            raise Refused("model.tied", True, "False: codes are no table that a head could share")
        if not self.scale > 0:
            raise Refused("model.embedding.scale", self.scale, "a positive number")
        if self.recode_seed is not None and not 0 <= self.recode_seed < 2**31:
            accepted = "None or an integer from 0 to 2^31 − 1"
            raise Refused("model.embedding.recode_seed", self.recode_seed, accepted)
        alike = self.alike(config.vocabulary)
        if alike and config.block_norm == "layer_norm":
            warnings.warn(
                f"tokens {alike[0]} and {alike[1]} have constant codes, which a LayerNorm makes "
                f"the same in the first layer; model.embedding.bits={bits + 1} keeps them apart",
                stacklevel=2,
            )

    def length(self, vocabulary: int) -> int:
        """Returns the number K of bits."""
        return max(1, (vocabulary - 1).bit_length()) if self.bits is None else self.bits

    def affine(self, vocabulary: int) -> tuple[list[int], int]:
        """Returns A as one number per row, whose bit i is column i, and b as a number.

        Without a seed A is the identity and b zero.
        """
        bits = self.length(vocabulary)
        if self.recode_seed is None:
            return [1 << row for row in range(bits)], 0
        return recoding(self.recode_seed, bits, vocabulary)

    def alike(self, vocabulary: int) -> tuple[int, int] | None:
        """Returns the tokens whose codes are only zeros and only ones, None if not both exist."""
        bits = self.length(vocabulary)
        rows, shift = self.affine(vocabulary)
        zeros, ones = solve(rows, shift), solve(rows, shift ^ (2**bits - 1))
        return (zeros, ones) if max(zeros, ones) < vocabulary else None


class CodeEmbedding(nnx.Module):
    """Computes tokens' codes from their numbers; it has no parameters."""

    def __init__(self, config: ModelConfig):
        self.settings = settings(config)
        self.settings.check(config)
        self.vocabulary, self.width = config.vocabulary, config.width

    def __call__(self, tokens: Int[Array, "B L"], dtype: jnp.dtype) -> Float[Array, "B L D"]:
        chosen = self.settings
        rows, shift = chosen.affine(self.vocabulary)
        bits = np.arange(len(rows))
        along = lambda values: np.array(values, np.uint32).reshape((1,) * tokens.ndim + (-1,))
        # Row times token over F₂ is the parity of the bits that they share.
        shared = jnp.expand_dims(tokens.astype(jnp.uint32), -1) & along(rows)
        code = jax.lax.population_count(shared) & np.uint32(1)
        code = (code ^ along(shift >> bits & 1)).astype(dtype)
        code = (2 * code - 1 if chosen.signed else code) * jnp.asarray(chosen.scale, dtype)
        place = np.arange(self.width) % len(rows)
        return jnp.take(code, np.sort(place) if chosen.interleaved else place, axis=-1)

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts nothing: no parameters, and integer operations are not FLOPs."""
        return Count()


def settings(config: ModelConfig) -> Codes:
    """Returns the settings of a configuration whose embedding is `codes`, by name or in full."""
    return config.embedding if isinstance(config.embedding, Codes) else Codes()


def recoding(seed: int, bits: int, vocabulary: int) -> tuple[list[int], int]:
    """Draws an invertible A, as a number per row, and b over F₂.

    A is uniform among invertible matrices, drawn again until it has full rank; b is uniform. With
    two or more of the 2^bits codes unused, A and b are uniform among those that give the unused
    ones, and not a token, the codes of only zeros and only ones; with one unused it gets the zeros.
    """
    draws = np.random.PCG64(seed)  # Raw draws: their stream is fixed for good.
    below = lambda count: int(draws.random_raw()) % count
    rows = [below(2**bits) for _ in range(bits)]
    while rank(rows) < bits:
        rows = [below(2**bits) for _ in range(bits)]
    unused = 2**bits - vocabulary
    if unused == 0:
        return rows, below(2**bits)
    zeros = vocabulary + below(unused)
    if unused > 1:
        ones = vocabulary + below(unused - 1)
        ones += ones >= zeros
        # Codes differ by A(zeros ⊕ ones), which must be all ones. Adding one row of A, in which
        # it is one, to each row in which it is zero makes it so and keeps the rank.
        difference = product(rows, zeros ^ ones)
        pivot = (difference & -difference).bit_length() - 1
        rows = [r if difference >> i & 1 else r ^ rows[pivot] for i, r in enumerate(rows)]
    return rows, product(rows, zeros)


def product(rows: list[int], vector: int) -> int:
    """Multiplies a matrix over F₂ by a vector, both as numbers."""
    return sum(((row & vector).bit_count() & 1) << i for i, row in enumerate(rows))


def rank(rows: list[int]) -> int:
    """Returns the rank of a matrix over F₂ by elimination."""
    return len(eliminate([(row, 0) for row in rows]))


def solve(rows: list[int], right: int) -> int:
    """Returns the only x with A·x = right, for an invertible A."""
    reduced = eliminate([(row, right >> i & 1) for i, row in enumerate(rows)])
    return sum(value << lead for lead, (_, value) in reduced.items())


def eliminate(equations: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Reduces equations (row, right side) over F₂ fully; returns them by their leading column."""
    reduced: dict[int, tuple[int, int]] = {}
    for row, value in equations:
        for lead, (other, its) in reduced.items():
            if row >> lead & 1:
                row, value = row ^ other, value ^ its
        if not row:
            continue
        new = row.bit_length() - 1
        for lead, (other, its) in reduced.items():
            if other >> new & 1:
                reduced[lead] = (other ^ row, its ^ value)
        reduced[new] = (row, value)
    return reduced
