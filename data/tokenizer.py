"""Tokenizers: text into tokens and back, as bytes or as a byte-level BPE trained on a corpus.

Both have `name`, `vocabulary`, `separator`, `documents(texts)` and `decode(tokens)`. The separator
is the token of byte 0, which no text may contain, so a separator in a stream is never text.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data.corpus import TOKENIZER_FILE, Corpus, Document, text_document
from refused import Refused

LARGEST_VOCABULARY = 65_536  # Tokens are stored in 16 bits.
BATCH = 64  # Documents encoded at once, by as many threads as the library takes.


@dataclasses.dataclass(frozen=True)
class Bytes:
    """One token a byte of text."""

    name = "bytes"
    vocabulary = 256
    separator = 0

    def documents(self, texts: Iterable[bytes]) -> Iterator[Document]:
        """Yields each text's tokens, without a separator; `Refused` where it contains byte 0."""
        return map(text_document, texts)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Returns the text of tokens."""
        return bytes(tokens)


@dataclasses.dataclass(frozen=True)
class BPE:
    """A byte-level BPE: pairs of tokens merged within the words of a text, greedily by rank.

    `json` is the tokenizer as the `tokenizers` library writes it. `Refused` where that is not a
    byte-level BPE over all 256 bytes without a normaliser: only those give back every text.
    """

    name = "bpe"
    json: str

    def __post_init__(self):
        try:
            spec = json.loads(self.json)
            kind, steps = spec["model"]["type"], (spec["pre_tokenizer"], spec["decoder"])
            lossless = all(step["type"] == "ByteLevel" for step in steps)
            lossless &= not steps[0]["add_prefix_space"] and spec["normalizer"] is None
            whole = kind == "BPE" and set(CHARACTERS) <= set(spec["model"]["vocab"])
        except (ValueError, KeyError, TypeError) as error:
            raise Refused("tokenizer", f"unreadable JSON ({error!r})", "a tokenizer.json") from None
        if not (lossless and whole):
            accepted = "a byte-level BPE over 256 bytes, without normaliser or added space"
            raise Refused("tokenizer", f"{kind} that loses text", accepted)

    @classmethod
    def train(cls, texts: Iterable[bytes], vocabulary: int) -> "BPE":
        """Learns merges from texts until there are `vocabulary` tokens.

        Tokens 0 to 255 are the bytes, then come the merges in the order learned: the most frequent
        pair first, ties to the pair the library numbered first, within the words of GPT-2's rule
        (Radford et al. 2019, section 2.2). The outcome does not depend on the threads used.

        Raises:
          Refused: a vocabulary that is not 257 to 65,536 or that the texts cannot fill, or a text
            that is not UTF-8 or contains byte 0.
        """
        if not 256 < vocabulary <= LARGEST_VOCABULARY:
            raise Refused("vocabulary", vocabulary, f"257 to {LARGEST_VOCABULARY}")
        learner = tokenizers.Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=list(CHARACTERS), show_progress=False
        )
        learner.train_from_iterator(map(_text, texts), trainer)
        spec = json.loads(learner.to_str())
        # The library numbers bytes by their characters; here a byte's token is the byte.
        learned = sorted(set(spec["model"]["vocab"]) - set(CHARACTERS), key=learner.token_to_id)
        spec["model"]["vocab"] = {token: i for i, token in enumerate([*CHARACTERS, *learned])}
        if len(spec["model"]["vocab"]) < vocabulary:
            reached = len(spec["model"]["vocab"])
            raise Refused("vocabulary", vocabulary, f"at most {reached}, all that the texts give")
        return cls(json.dumps(spec, ensure_ascii=False))

    @cached_property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._tokenizer.get_vocab_size()

    @cached_property
    def separator(self) -> int:
        """The token of byte 0."""
        return self._tokenizer.token_to_id(CHARACTERS[0])

    def documents(self, texts: Iterable[bytes]) -> Iterator[Document]:
        """Yields each text's tokens, without a separator.

        Raises:
          Refused: a text that is not UTF-8 or contains byte 0.
        """
        texts = iter(texts)
        while batch := list(itertools.islice(texts, BATCH)):
            encoded = self._tokenizer.encode_batch_fast(
                [_text(text) for text in batch], add_special_tokens=False
            )
            for text, encoding in zip(batch, encoded, strict=True):
                yield Document(np.array(encoding.ids, np.int64), len(text))

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Returns the text of tokens, which need not be UTF-8 where they begin or end."""
        return b"".join(self._pieces[token] for token in tokens)

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.json)

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        byte = {character: number for number, character in enumerate(CHARACTERS)}
        pieces = {
            number: bytes(byte[character] for character in token)
            for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items()
        }
        added = self._tokenizer.get_added_tokens_decoder()
        return pieces | {number: token.content.encode() for number, token in added.items()}


def tokenizer_of(corpus: Corpus) -> Bytes | BPE:
    """Returns the tokenizer of a corpus of text; `Refused` for a corpus of symbols."""
    if corpus.tokenizer == Bytes.name:
        return Bytes()
    if corpus.tokenizer == BPE.name:
        folder = next(iter(corpus.domains.values())).folder
        return BPE((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    raise Refused("corpus", f"{corpus.name!r} of {corpus.tokenizer}", "a corpus of bytes or bpe")


def _characters() -> str:
    """The character that stands for each byte in a byte-level BPE's JSON, by GPT-2's rule."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return "".join(chr(0x100 + hidden.index(b) if b in hidden else b) for b in range(256))


CHARACTERS = _characters()


def _text(text: bytes) -> str:
    if b"\0" in text:
        raise Refused("document", "a text that contains byte 0", "text without byte 0")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("document", f"bytes that are no text ({error})", "UTF-8") from None
