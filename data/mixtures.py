"""Mixtures: the shares in which a phase of training reads a corpus's domains."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data.corpus import Corpus
from refused import Refused

SIMPLEX_TOLERANCE = 1e-6  # weights are written with six or more digits; sums may miss 1 by this


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sampling weights over named domains, on the simplex.

    `weights` holds (domain, share of the sequences) pairs sorted by name, zero shares left out,
    so that equal mixtures compare and hash equal however they were written. Build one with
    `Mixture.of`; `check` tells whether a corpus can serve it.
    """

    weights: tuple[tuple[str, float], ...]

    def __post_init__(self):
        pairs = tuple((str(name), float(weight)) for name, weight in self.weights)
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise Refused(f"mixture.{name}", "two weights", "one weight per domain")
        for name, weight in pairs:
            if not (math.isfinite(weight) and weight >= 0):
                raise Refused(f"mixture.{name}", weight, "a share from 0 to 1")
        total = math.fsum(weight for _, weight in pairs)
        if abs(total - 1) > SIMPLEX_TOLERANCE:
            written = ", ".join(f"{name}={weight:g}" for name, weight in pairs) or "no domain"
            raise Refused("mixture", f"{written} (sum {total:.7g})", "shares that sum to 1")
        object.__setattr__(self, "weights", tuple(sorted(p for p in pairs if p[1] > 0)))

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> "Mixture":
        """The mixture with these shares by domain name; `Refused` when off the simplex."""
        return cls(tuple(weights.items()))

    @classmethod
    def parse(cls, text: str) -> "Mixture":
        """The mixture written as "code=0.7,docs=0.3"; `Refused` when it is not of that form."""
        weights: dict[str, float] = {}
        for item in text.split(","):
            name, _, share = item.partition("=")
            if name.strip() in weights:
                raise Refused(f"mixture.{name.strip()}", "two shares", "one share per domain")
            try:
                weights[name.strip()] = float(share)
            except ValueError:
                raise Refused("mixture", item, "DOMAIN=SHARE, as in code=0.7,docs=0.3") from None
        return cls.of(weights)

    @classmethod
    def uniform(cls, names: Iterable[str]) -> "Mixture":
        """The same share for every named domain (the stratified mixture).

        Then the training loss estimates the plain mean of the domains' losses, and no cap that
        a corpus puts on a domain's size decides its weight.
        """
        names = tuple(names)
        return cls.of({name: 1 / len(names) for name in names})

    @classmethod
    def natural(cls, corpus: Corpus, names: Iterable[str] | None = None) -> "Mixture":
        """Every domain by its share of the training tokens (of the corpus's main domains)."""
        return cls.temperature(corpus, 1.0, names)

    @classmethod
    def temperature(
        cls, corpus: Corpus, temperature: float, names: Iterable[str] | None = None
    ) -> "Mixture":
        """Shares proportional to (training tokens)^(1/temperature).

        Temperature 1 gives natural shares, infinity the uniform mixture (Arivazhagan et al.,
        arXiv:1907.05019, section 4.1).
        """
        if not temperature > 0:
            raise Refused("mixture.temperature", temperature, "a number above 0")
        names = tuple(corpus.main if names is None else names)
        require_domains(names, corpus)
        logs = np.log([corpus.domains[name].train_tokens for name in names]) / temperature
        shares = np.exp(logs - logs.max())
        return cls.of(dict(zip(names, (shares / shares.sum()).tolist(), strict=True)))

    @classmethod
    def unimax(
        cls, corpus: Corpus, tokens: int, epochs: float = 1.0, names: Iterable[str] | None = None
    ) -> "Mixture":
        """Shares as equal as they can be when no domain is read more than `epochs` times.

        From the smallest domain up, each gets an equal part of the tokens left, or `epochs` times
        its size where that is less (UniMax, Chung et al. 2023, arXiv:2304.09151, algorithm 1; one
        epoch as in its umT5).

        Raises:
          Refused: a domain that the corpus lacks, or more tokens than `epochs` times all of them.
        """
        names = tuple(corpus.main if names is None else names)
        require_domains(names, corpus)
        size = {name: corpus.domains[name].train_tokens for name in names}
        room = epochs * sum(size.values())
        if not 0 < tokens <= room:
            accepted = f"1 to {room:.0f}, {epochs:g} epochs of {', '.join(names)}"
            raise Refused("mixture.tokens", tokens, accepted)
        given, left = {}, float(tokens)
        for done, name in enumerate(sorted(names, key=size.get)):
            given[name] = min(left / (len(names) - done), epochs * size[name])
            left -= given[name]
        return cls.of({name: part / tokens for name, part in given.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The domains with a share above zero, sorted."""
        return tuple(name for name, _ in self.weights)

    def check(self, corpus: Corpus) -> "Mixture":
        """This mixture, or `Refused` when it names a domain that the corpus lacks."""
        require_domains(self.names, corpus)
        return self

    def array(self, names: Sequence[str]) -> np.ndarray:
        """Shares as float64 [D], in the order of `names`."""
        shares = dict(self.weights)
        return np.array([shares.get(name, 0.0) for name in names])


def require_domains(names: Iterable[str], corpus: Corpus) -> None:
    """Raises `Refused` when the corpus lacks one of the named domains."""
    for name in names:
        if name not in corpus.domains:
            raise Refused(
                f"mixture.{name}",
                f"a domain that corpus {corpus.name!r} lacks",
                ", ".join(corpus.domains),
            )
