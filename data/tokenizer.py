"""Tokenizers: text into tokens and back, as bytes or as a byte-level BPE trained on a corpus.

Both have `name`, `vocabulary`, `separator`, `documents(texts)` and `decode(tokens)`. The separator
is the token of byte 0, which no text may contain, so a separator in a stream is never text.
Every text is compared with what its tokens give back.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data.corpus import TOKENIZER_FILE, Corpus, Document, text_document
from data.lossless import CHARACTERS, LARGEST_VOCABULARY, lossless, piece
from refused import Refused

BATCH = 64  # Documents encoded at once, by as many threads as the library takes.
# What a tokenizer is tried on before it is used: letters of both cases and of several scripts,
# composed and not, digits, marks, emoji, control characters, and white space of every kind.
TRIED = (
    "The QUICK brown fox's 1234567.89 ",
    "  two  spaces,\ttabs\t\tand\r\nlines\n\n\n",
    " naïve naive\u0308 ﬁﬃ Åå İı ß ｆｕｌｌ １２３ Ω ½ ",
    "日本語 中文 한국어 العربية हिन्दी ไทย 👩🏽‍🚀🇫🇷 𝔘\U0010ffff",
    "def f(x):\n    return [x_1] != {'a': \"b\"} # ##▁Ġ</w><0x41>",
    "".join(map(chr, range(1, 256))) + "\u00a0\u2028\u200b\u3000\ufeff ",
)


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

    `json` is the tokenizer as the `tokenizers` library reads it: the one given, without what would
    lose text and can be switched off (`words` says what). `Refused` where it would lose text all
    the same (see `data.lossless`). Special tokens are not looked for in documents.
    """

    name = "bpe"
    json: str
    words: tuple[str, ...] = dataclasses.field(init=False, compare=False)

    def __post_init__(self):
        kept, words = lossless(self.json)
        object.__setattr__(self, "json", kept)
        object.__setattr__(self, "words", words)

    @classmethod
    def train(cls, texts: Iterable[bytes], vocabulary: int) -> "BPE":
        """Learns merges from texts until there are `vocabulary` tokens.

        Tokens 0 to 255 are the bytes, then come the merges in the order learned: the most frequent
        pair first, ties to the pair the library numbered first, within the words of GPT-2's rule
        (Radford et al. 2019, section 2.2). The outcome does not depend on the threads used.

        Raises:
          Refused: a vocabulary below 257 or that the texts cannot fill, or a text that is not UTF-8
            or contains byte 0.
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
        """One more than the largest token."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @cached_property
    def separator(self) -> int:
        """The token of byte 0."""
        return self._tokenizer.token_to_id(CHARACTERS[0])

    def tried(self) -> "BPE":
        """Returns this tokenizer, after some texts that go wrong easily.

        Raises:
          Refused: a text that is not given back, the library fails, or it numbers an added token
            otherwise than the JSON does.
        """
        spec = json.loads(self.json)
        added = spec.get("added_tokens") or []
        for token in added:
            number = self._tokenizer.token_to_id(token["content"])
            if number != token.get("id", number):
                got = f"{token['content']!r} as number {token['id']}"
                known = token["content"] in spec["model"]["vocab"]
                why = "its number in model.vocab" if known else "the next one"
                accepted = f"{number}, {why}: the library numbers added tokens itself"
                raise Refused("tokenizer added_tokens", got, accepted)
        marked = [f"a  {token['content']}\n b{token['content']}c" for token in added]
        with _without_stderr():
            for _ in self.documents(text.encode() for text in (*TRIED, *marked)):
                pass
        return self

    def documents(self, texts: Iterable[bytes]) -> Iterator[Document]:
        """Yields each text's tokens, without a separator.

        Raises:
          Refused: a text that is not UTF-8 or contains byte 0, or that its tokens do not give
            back; then all documents before it have been yielded.
        """
        texts = iter(texts)
        while batch := list(itertools.islice(texts, BATCH)):
            strings = [_text(text) for text in batch]
            with _panics_told():
                encoded = self._tokenizer.encode_batch_fast(strings, add_special_tokens=False)
            for text, encoding in zip(batch, encoded, strict=True):
                tokens = encoding.ids
                if (back := self.decode(tokens)) != text:
                    raise Refused("tokenizer", _difference(text, back), "one that keeps every text")
                yield Document(np.array(tokens, np.int64), len(text))

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Returns the text of tokens, which need not be UTF-8 where they begin or end."""
        return b"".join(map(self._pieces.__getitem__, tokens))

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        with _panics_told(), _without_stderr():
            made = tokenizers.Tokenizer.from_str(self.json)
        made.encode_special_tokens = True  # As ordinary text, that is.
        made.post_processor = None  # Its template is applied even without special tokens.
        return made

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        named = self._tokenizer.get_vocab(with_added_tokens=False)
        added = self._tokenizer.get_added_tokens_decoder()
        pieces = {number: piece(token) for token, number in named.items()}
        return pieces | {number: token.content.encode() for number, token in added.items()}


@contextlib.contextmanager
def _panics_told() -> Iterator[None]:
    """Makes an error of the library, or a panic, which is no `Exception`, into one line."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:160]
        accepted = "one that the tokenizers library can use"
        raise Refused("tokenizer", f"a failure of the library ({said})", accepted) from None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps back what the library's panics write past Python, with their stack."""
    try:
        kept = os.dup(2)
    except OSError:  # It is closed: nothing to keep back.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _difference(text: bytes, back: bytes) -> str:
    """Says where a text and what came back of it part."""
    place = len(os.path.commonprefix([text, back]))
    begin = max(0, place - 10)
    before, after = (t[begin : place + 20].decode(errors="replace") for t in (text, back))
    return f"text that comes back changed at byte {place}: {before!r} as {after!r}"


def tokenizer_of(corpus: Corpus) -> Bytes | BPE:
    """Returns the tokenizer of a corpus of text; `Refused` for a corpus of symbols."""
    if corpus.tokenizer == Bytes.name:
        return Bytes()
    if corpus.tokenizer == BPE.name:
        folder = next(iter(corpus.domains.values())).folder
        return BPE((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    raise Refused("corpus", f"{corpus.name!r} of {corpus.tokenizer}", "a corpus of bytes or bpe")


def _text(text: bytes) -> str:
    if b"\0" in text:
        raise Refused("document", "a text that contains byte 0", "text without byte 0")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("document", f"bytes that are no text ({error})", "UTF-8") from None
