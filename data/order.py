"""The order: which window of which domain is read at which slot, as pure integer arithmetic.

A run is a chain of pieces, each with a context length and a mixture. Slot s of a piece is its
s-th sequence, counted over the global batch. Three steps lead from a slot to a window:

1. Slot to domain. A table of `PERIOD` slots holds every domain as often as the mixture says
   (largest remainder), spread evenly; slots beyond it repeat the table.
2. Domain to its cursor k: how many windows of that domain, cut at this context length, the run
   has read before this slot, in closed form from the table and the pieces before.
3. Cursor to window. k runs through the domain's windows in epochs; each epoch is a permutation
   of its own, keyed by seed, domain, context and epoch, so that no window repeats before its
   domain is exhausted, also when the mixture changes between pieces.

Windows of another context length are other windows: their cursors start at zero, in a
permutation of their own. A piece's own length changes nothing that its slots read, only where
later pieces go on, so a run may be cut or extended at any slot. The same lines run on numpy and
on `jax.numpy` (32-bit, so that a device can do it; tables are a pytree, to be stacked and mapped
over members of a fleet).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data.corpus import Corpus, windows
from data.mixtures import Mixture
from refused import Refused

PERIOD = 5000  # slots in a table: mixtures sampled by RegMix are rounded to 2e-4 (2407.01492)
ROUNDS = 32  # of swap-or-not; see `permute`
GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: spreads counters over all bits (Knuth 6.4)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a run: its length in sequences, their context length, and the mixture."""

    sequences: int
    context: int
    mixture: Mixture


class Tables(NamedTuple):
    """All that `locate` needs to know of one piece, as uint32 arrays (a pytree).

    domain [Q] and rank [Q]: the domain of a slot, and how many earlier slots of the period read
    it; per_period [D]: slots of each domain in a period; cursor [D]: windows read before this
    piece; windows [D]: windows in an epoch (at least 1); key [D]: of the permutations.
    """

    domain: Any
    rank: Any
    per_period: Any
    cursor: Any
    windows: Any
    key: Any


def locate(tables: Tables, slots, xp=np):
    """The domain and the window that a piece's slots read.

    `slots` is an integer array of any shape, below 2^32; `xp` is numpy or jax.numpy. Returns
    (domain, window), uint32 of the same shape: the domain's number in the corpus, and the
    window's number in its training stream (see `data.corpus.windows`).
    """
    with np.errstate(over="ignore"):  # uint32 wraps around on purpose
        slots = xp.asarray(slots).astype(xp.uint32)
        period = np.uint32(tables.domain.shape[-1])
        place = slots % period
        domain = tables.domain[place]
        k = tables.cursor[domain] + slots // period * tables.per_period[domain] + tables.rank[place]
        n = tables.windows[domain]
        key = _mix(tables.key[domain] + k // n * GOLDEN)
        return domain, permute(k % n, n, key, xp)


def permute(x, n, key, xp=np):
    """A keyed permutation of [0, n), elementwise over uint32 arrays of one shape; n <= 2^31.

    Swap-or-not (Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle",
    arXiv:1208.1176, figure 1), which works for any n without cycle walking: each round pairs x
    with K - x modulo n and swaps the pair by a coin, both drawn from the key and the round. With
    32 rounds an element can reach 2^32 places, more than there are windows; 16 already pass the
    tests here.
    """
    with np.errstate(over="ignore"):
        key = _mix(key)  # neighbouring keys must not share rounds

        def round_of(number, x):
            word = _mix(key + number + np.uint32(1))
            partner = word % n + n - x
            partner = xp.where(partner >= n, partner - n, partner)
            coin = _mix(word ^ xp.maximum(x, partner) * GOLDEN) >> np.uint32(31)
            return xp.where(coin == 1, partner, x)

        if xp is np:
            for number in np.arange(ROUNDS, dtype=np.uint32):
                x = round_of(number, x)
            return x
        import jax

        # A loop on the device too: written out, the rounds were half of a small fleet's program.
        return jax.lax.fori_loop(np.uint32(0), np.uint32(ROUNDS), round_of, x)


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The order of a run over a corpus: its pieces one after the other, under a seed.

    `Refused` when a mixture names a missing domain, a context is longer than the longest
    document of a domain that is read, or a length or the seed is out of range.
    """

    corpus: Corpus
    pieces: tuple[Piece, ...]
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "pieces", tuple(self.pieces))
        if not 0 <= self.seed < 2**32:
            raise Refused("seed", self.seed, "an integer from 0 to 4294967295")
        for piece in self.pieces:
            check_context(self.corpus, piece.mixture.check(self.corpus).names, piece.context)
            if piece.sequences < 0:
                raise Refused("sequences", piece.sequences, "0 or more")
        if sum(piece.sequences for piece in self.pieces) >= 2**32:
            raise Refused(
                "sequences", sum(p.sequences for p in self.pieces), "below 4294967296 in a run"
            )

    def tables(self, piece: int) -> Tables:
        """The numpy tables of a piece, by its number."""
        at = self.pieces[piece]
        domain, rank, per_period = _slot_table(at.mixture, self.corpus.names)
        names = np.arange(len(self.corpus.names), dtype=np.uint32)
        with np.errstate(over="ignore"):
            run = _mix(_mix(np.array([self.seed], np.uint32)) + np.uint32(at.context))
            key = _mix(run + (names + np.uint32(1)) * GOLDEN)
        return Tables(
            domain=domain.astype(np.uint32),
            rank=rank.astype(np.uint32),
            per_period=per_period.astype(np.uint32),
            cursor=self._read(at.context, piece).astype(np.uint32),
            windows=np.maximum(1, self._windows(at.context)).astype(np.uint32),
            key=key,
        )

    def locate(self, piece: int, slots, xp=np):
        """The domain and window of a piece's slots; see the function `locate`."""
        return locate(Tables(*map(xp.asarray, self.tables(piece))), slots, xp)

    def tokens(self) -> dict[str, int]:
        """Training tokens that the run reads, by domain, repetitions counted."""
        contexts = {piece.context for piece in self.pieces}
        read = sum((self._read(c) * c for c in contexts), np.zeros(len(self.corpus.names), int))
        return dict(zip(self.corpus.names, read.tolist(), strict=True))

    def epochs(self) -> dict[str, float]:
        """Tokens read over training tokens there are, by domain."""
        return {
            name: read / self.corpus.domains[name].train_tokens
            for name, read in self.tokens().items()
        }

    def unique_tokens(self) -> int:
        """Training tokens read at least once.

        Exact for one context length. With several, windows of different lengths overlap at
        random, and this is the upper bound: their sum, but no more than the domain holds.
        """
        contexts = {piece.context for piece in self.pieces}
        unique = sum(
            (np.minimum(self._read(c), self._windows(c)) * c for c in contexts),
            np.zeros(len(self.corpus.names), int),
        )
        there = [domain.train_tokens for domain in self.corpus.domains.values()]
        return int(np.minimum(unique, there).sum())

    def _windows(self, context: int) -> np.ndarray:
        domains = self.corpus.domains.values()
        return np.array([windows(domain.train_tokens, context) for domain in domains])

    def _read(self, context: int, before: int | None = None) -> np.ndarray:
        """Windows [D] of a context length that the pieces before number `before` read."""
        read = np.zeros(len(self.corpus.names), np.int64)
        for piece in self.pieces[:before]:
            if piece.context == context:
                domain, _, per_period = _slot_table(piece.mixture, self.corpus.names)
                periods, rest = divmod(piece.sequences, PERIOD)
                read += periods * per_period
                read += np.bincount(domain[:rest], minlength=len(read))
        return read


def check_context(corpus: Corpus, names: Sequence[str], context: int, split="train") -> None:
    """`Refused` unless a context length fits the longest document of each named domain."""
    if context < 1:
        raise Refused("context", context, "1 or more tokens")
    for name in names:
        domain = corpus.domains[name]
        counts = domain.counts(split)
        if context > counts["longest_document"]:
            raise Refused(
                "context",
                f"{context} tokens",
                f"at most {counts['longest_document']}, the longest {split} document of {name!r}",
            )
        if not 1 <= windows(counts["tokens"], context) < 2**31:
            raise Refused(
                "context",
                f"{context} tokens",
                f"a length at which the {split} stream of {name!r} ({counts['tokens']} tokens) "
                "has 1 to 2147483647 windows",
            )


def _slot_table(mixture: Mixture, names: Sequence[str]):
    """Which domain each slot of a period reads [Q], its rank there [Q], and slots a domain [D].

    Slots a domain are its share of the period, rounded by largest remainder; its j-th slot
    stands at (j + 1/2) / n of the period, so that after any number of slots each domain is
    within half the number of domains of its share.
    """
    share = mixture.array(names)
    share = share / share.sum() * PERIOD
    count = np.floor(share + 1e-9).astype(np.int64)  # 1e-9: 0.0002 * 5000 must not round down
    short = PERIOD - int(count.sum())
    count[np.argsort(count - share, kind="stable")[:short]] += 1
    domain = np.repeat(np.arange(len(names)), count)
    rank = np.concatenate([np.arange(n) for n in count])
    spread = np.lexsort((domain, (rank + 0.5) / count[domain]))
    return domain[spread], rank[spread], count


def _mix(word):
    """The finalizer of MurmurHash3 (Appleby, public domain): every bit depends on every bit."""
    word = (word ^ word >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    word = (word ^ word >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return word ^ word >> np.uint32(16)
