"""A source whose entropy rate is known: order-k Markov chains over a few symbols.

What a fitted law calls irreducible loss can be checked against the truth here: the rate is
computed from the transition probabilities, and so is the true likelihood of any sample.
"""

import dataclasses
import math
from bisect import bisect_right
from functools import cached_property
from pathlib import Path

import numpy as np

from data.corpus import Corpus, Document, open_corpus, write_corpus
from refused import Refused

VERSION = 1  # of the stream; raised in a commit that changes what a seed generates
UNIT = 1 << 24  # probabilities are multiples of 1 / UNIT, so no platform's rounding moves a token
LARGEST_TABLE = 1 << 22  # transition probabilities a source may have: 32 MB
CHUNK = 1 << 16
STREAMS = {"transitions": 0, "train": 1, "held_out": 2}


@dataclasses.dataclass(frozen=True)
class Source:
    """A stationary Markov source of a given order over `symbols` symbols, drawn from a seed.

    Every context of `order` symbols has its own distribution of the next one, drawn from a
    symmetric Dirichlet: low `concentration` means peaked rows and a low entropy rate.
    """

    order: int = 1
    symbols: int = 32
    seed: int = 0
    concentration: float = 0.5

    def __post_init__(self):
        if not 2 <= self.symbols <= 256:
            raise Refused("markov.symbols", self.symbols, "2 to 256")
        if self.order < 1 or self.symbols ** (self.order + 1) > LARGEST_TABLE:
            most = int(math.log(LARGEST_TABLE, self.symbols) + 1e-9) - 1
            raise Refused("markov.order", self.order, f"1 to {most} with {self.symbols} symbols")
        if self.seed < 0:
            raise Refused("markov.seed", self.seed, "0 or more")
        if not 0.01 <= self.concentration <= 100:
            raise Refused("markov.concentration", self.concentration, "0.01 to 100")

    @cached_property
    def transitions(self) -> np.ndarray:
        """Counts of 1 / UNIT, int64 [S^order, S]: row c is the distribution after context c.

        A context's number reads its symbols as digits in base S, oldest first. Each entry is at
        least 1 and each row sums to UNIT.
        """
        from scipy import special  # Here, since most corpora are read without it.

        uniform = self._random("transitions").random((self.symbols**self.order, self.symbols))
        # Normalised gamma variates are Dirichlet; the inverse CDF keeps one draw per variate.
        weight = special.gammaincinv(self.concentration, np.maximum(uniform, 2.0**-53))
        spare = UNIT - self.symbols
        count = 1 + np.floor(weight / weight.sum(1, keepdims=True) * spare).astype(np.int64)
        rows = np.arange(len(count))
        count[rows, count.argmax(1)] += UNIT - count.sum(1)
        return count

    @cached_property
    def stationary(self) -> np.ndarray:
        """Stationary probabilities of the contexts, float64 [S^order], to rounding."""
        conditional = self.transitions / UNIT
        now = np.full(len(conditional), 1 / len(conditional))
        for _ in range(100_000):
            joint = (now[:, None] * conditional).reshape(self.symbols, -1)
            step = joint.sum(0)  # drop the oldest symbol
            step /= step.sum()
            if np.abs(step - now).sum() < 1e-15:
                return step
            now = step
        return now

    @cached_property
    def entropy_rate(self) -> float:
        """Entropy of the next symbol given the past, in nats (Cover and Thomas, theorem 4.2.4)."""
        conditional = self.transitions / UNIT
        return float(-(self.stationary @ (conditional * np.log(conditional)).sum(1)))

    def sample(self, tokens: int, stream: str = "train") -> np.ndarray:
        """The first `tokens` symbols of a stream (`train` or `held_out`), uint8 [tokens].

        The first context is drawn from the stationary distribution and is the stream's
        beginning; every later symbol inverts its row's CDF at floor(u * UNIT), for u from
        PCG64 seeded with (seed, stream). A longer sample begins with the shorter one.
        """
        random = self._random(stream)
        cumulative = np.cumsum(self.stationary)
        context = int(np.searchsorted(cumulative, random.random() * cumulative[-1], "right"))
        digits = [context // self.symbols**p % self.symbols for p in range(self.order)][::-1]
        rows = np.cumsum(self.transitions, 1).tolist()
        keep, symbols = self.symbols ** (self.order - 1), self.symbols
        chunks = [np.array(digits, np.uint8)]
        for start in range(self.order, tokens, CHUNK):
            drawn = []
            for u in (random.random(min(CHUNK, tokens - start)) * UNIT).astype(np.int64).tolist():
                symbol = bisect_right(rows[context], u)
                context = context % keep * symbols + symbol
                drawn.append(symbol)
            chunks.append(np.array(drawn, np.uint8))
        return np.concatenate(chunks)[:tokens]

    def negative_log_likelihood(self, tokens: np.ndarray) -> np.ndarray:
        """True surprise of every token given those before it in its row, in nats.

        `tokens` is [..., n] and so is the answer (float64). A row's first `order` tokens are
        judged by the stationary distribution, as by an ideal model that sees nothing before.
        """
        tokens = np.asarray(tokens).astype(np.int64)
        surprise = np.empty(tokens.shape)
        context = np.zeros(tokens.shape[:-1], np.int64)
        marginal = [self.stationary.reshape(self.symbols**k, -1).sum(1) for k in range(self.order)]
        marginal.append(self.stationary)
        start = min(self.order, tokens.shape[-1])
        for position in range(start):
            longer = context * self.symbols + tokens[..., position]
            surprise[..., position] = np.log(marginal[position][context])
            surprise[..., position] -= np.log(marginal[position + 1][longer])
            context = longer
        if tokens.shape[-1] > self.order:
            contexts = sum(
                tokens[..., self.order - 1 - back : tokens.shape[-1] - 1 - back]
                * self.symbols**back
                for back in range(self.order)
            )
            nats = np.log(UNIT) - np.log(self.transitions)
            surprise[..., self.order :] = nats[contexts, tokens[..., self.order :]]
        return surprise

    def _random(self, stream: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, STREAMS[stream]]))


@dataclasses.dataclass(frozen=True)
class Spec(Source):
    """A source with the lengths of its two streams, in tokens: what a corpus name states."""

    tokens: int = 2_000_000
    held_out: int = 262_144

    def __post_init__(self):
        super().__post_init__()
        for field in ("tokens", "held_out"):
            if not 1000 <= getattr(self, field) <= 10**9:
                raise Refused(f"markov.{field}", getattr(self, field), "1000 to 1000000000")

    @property
    def name(self) -> str:
        """The corpus name with every field written out."""
        fields = (f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))
        return "markov:" + ",".join(fields)


def parse(name: str) -> Spec:
    """The source behind `markov:FIELD=VALUE,...`; fields left out keep their defaults."""
    kind, _, text = name.partition(":")
    types = {field.name: field.type for field in dataclasses.fields(Spec)}
    values = {}
    for pair in filter(None, text.split(",")):
        field, _, value = pair.partition("=")
        if kind != "markov" or field not in types:
            raise Refused("corpus", repr(name), f"markov:FIELD=VALUE with {', '.join(types)}")
        try:
            values[field] = types[field](value)
        except ValueError:
            accepted = f"a number ({types[field].__name__})"
            raise Refused(f"markov.{field}", repr(value), accepted) from None
    return Spec(**values)


def load(name: str, cache: Path) -> Corpus:
    """The corpus of that name: one domain `markov`, generated into the cache if missing.

    A stream is one document without a separator. Bytes equal tokens.
    """
    spec = parse(name)
    path = cache / f"markov-{VERSION}-{spec.name.partition(':')[2]}"
    if (path / "corpus.json").exists():
        return open_corpus(path, noted=False)

    def document(split, tokens):
        yield Document(spec.sample(tokens, split), tokens)

    splits = {
        "train": document("train", spec.tokens),
        "held_out": document("held_out", spec.held_out),
    }
    return write_corpus(
        path,
        name=spec.name,
        vocabulary=spec.symbols,
        separator=None,
        tokenizer="symbols",
        domains={"markov": splits},
    )
