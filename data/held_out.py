"""Fixed evaluation windows: the same held-out tokens for every run of a study."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from data.corpus import Corpus, windows
from data.order import check_context
from refused import Refused


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Evenly spaced windows of every domain's held-out stream.

    `tokens_per_domain` is the number of predicted tokens, rounded down to whole windows of
    `context` inputs and one target. `names` limits the domains (default: all). `Refused` when a
    context is longer than a domain's longest held-out document, or a domain has too few tokens.
    """

    corpus: Corpus
    context: int
    tokens_per_domain: int
    names: Sequence[str] = ()

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names or self.corpus.names))
        for name in self.names:
            if name not in self.corpus.domains:
                raise Refused("held_out.names", repr(name), ", ".join(self.corpus.names))
        check_context(self.corpus, self.names, self.context, "held_out")
        if self.tokens_per_domain < self.context:
            raise Refused(
                "held_out.tokens_per_domain",
                self.tokens_per_domain,
                f"at least one window of {self.context}",
            )
        for name in self.names:
            there = windows(self.corpus.domains[name].held_out_tokens, self.context)
            if self._count > there:
                raise Refused(
                    "held_out.tokens_per_domain",
                    f"{self.tokens_per_domain} tokens",
                    f"at most {there * self.context}, what domain {name!r} holds out "
                    f"in windows of {self.context}",
                )

    def window_numbers(self, name: str) -> np.ndarray:
        """Which windows of the domain's held-out stream are read, int64 [n], ascending."""
        there = windows(self.corpus.domains[name].held_out_tokens, self.context)
        return np.arange(self._count) * there // self._count

    def windows(self, name: str) -> np.ndarray:
        """A domain's evaluation windows, int32 [n, context + 1]."""
        stream = self.corpus.domains[name].held_out
        starts = self.window_numbers(name) * self.context
        return stream[starts[:, None] + np.arange(self.context + 1)].astype(np.int32)

    def bytes_per_token(self, name: str) -> float:
        """Text bytes per token of the domain: bits/byte = nats/token / ln 2 / this."""
        return self.corpus.domains[name].bytes_per_token

    @cached_property
    def identity(self) -> str:
        """A hash of the corpus's content, the context and the windows, 16 hex digits."""
        total = hashlib.sha256(f"{self.corpus.content_hash} {self.context}".encode())
        for name in self.names:
            total.update(name.encode() + self.window_numbers(name).astype("<i8").tobytes())
        return total.hexdigest()[:16]

    @property
    def _count(self) -> int:
        return self.tokens_per_domain // self.context
