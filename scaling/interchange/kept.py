"""A model outside of training: configuration, values and tokenizer, whatever file it came from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.tokenizer import BPE, Bytes
from models import ModelConfig

BYTES = Bytes.name


@dataclass(frozen=True, eq=False)
class Kept:
    """A model with its values as numpy arrays (float32), by path, and its tokenizer.

    `tokenizer` is "bytes", the text of a tokenizer.json, or None where the model did not learn from
    text. `notes` are lines for a person about what a reader did to it.
    """

    config: ModelConfig
    params: Mapping[str, np.ndarray]
    buffers: Mapping[str, np.ndarray]
    tokenizer: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def content(self) -> str:
        """A hash of all values by their paths (64 hexadecimal digits)."""
        total = hashlib.sha256()
        for kind, leaves in (("", self.params), ("buffer:", self.buffers)):
            for path in sorted(leaves):
                value = np.ascontiguousarray(leaves[path], "<f4")
                total.update(f"{kind}{path} {value.shape}\n".encode())
                total.update(value.tobytes())
        return total.hexdigest()

    def text(self) -> Bytes | BPE | None:
        """Returns the tokenizer itself; `Refused` where it would lose text."""
        if self.tokenizer is None:
            return None
        return Bytes() if self.tokenizer == BYTES else BPE(self.tokenizer)
