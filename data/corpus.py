"""Corpora on disk: named domains of tokens behind memory maps, with counts and a content hash."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.remote import Stream, is_remote, told
from refused import Refused

FORMAT = 1  # of the folder; raised when an old reader could misread a new folder
SPLITS = ("train", "held_out")
COUNTS = ("tokens", "bytes", "documents", "longest_document")
STALE_SECONDS = 3600  # a build takes seconds: an older temporary folder belongs to a dead process
BLOCK_BYTES = 1 << 22
TOKENIZER_FILE = "tokenizer.json"  # as the `tokenizers` library writes it, beside a `bpe` corpus


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain: its two token streams and their counts.

    A stream is its documents one after the other, each begun by the corpus's separator token.
    `bytes` counts the text and one byte for each separator. `longest_document` is in tokens,
    its separator included.
    """

    name: str
    folder: Path  # Or etils' path in an object store.
    dtype: str
    train_tokens: int
    train_bytes: int
    train_documents: int
    train_longest_document: int
    held_out_tokens: int
    held_out_bytes: int
    held_out_documents: int
    held_out_longest_document: int

    @cached_property
    def train(self) -> np.ndarray:
        """Training tokens [train_tokens]: a memory map opened at first use, or a `Stream`."""
        return _open_stream(self.path("train"), self.dtype, self.train_tokens)

    @cached_property
    def held_out(self) -> np.ndarray:
        """Held-out tokens [held_out_tokens]: a memory map opened at first use, or a `Stream`."""
        return _open_stream(self.path("held_out"), self.dtype, self.held_out_tokens)

    @property
    def bytes_per_token(self) -> float:
        """Text bytes per token of the held-out stream, which turns nats/token into bits/byte."""
        return self.held_out_bytes / self.held_out_tokens

    def path(self, split: str) -> Path:
        """The file that holds a split's tokens (`train` or `held_out`)."""
        return self.folder / f"{self.name}.{split}.bin"

    def counts(self, split: str) -> dict[str, int]:
        """Tokens, bytes, documents and longest document of a split."""
        return {count: getattr(self, f"{split}_{count}") for count in COUNTS}

    def __getstate__(self):
        # Memory maps stay behind: another process opens its own.
        return {name: value for name, value in self.__dict__.items() if name not in SPLITS}


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Named domains of tokens over one vocabulary.

    `domains` keeps the order in which domains are numbered. `main` names those that are
    trained on; the others are targets to evaluate on. `separator` is the token that begins
    every document, or None where a stream is one document without a mark. `tokenizer` says how
    text became tokens (`bytes`, or `bpe` with `tokenizer.json` in the folder), or `symbols` where
    there was no text.
    """

    name: str
    vocabulary: int
    separator: int | None
    tokenizer: str
    domains: Mapping[str, Domain]
    main: tuple[str, ...]
    content_hash: str

    @property
    def names(self) -> tuple[str, ...]:
        """Domain names in their order."""
        return tuple(self.domains)


class Document(NamedTuple):
    """A document's tokens [n], without its separator, and the bytes of text they stand for."""

    tokens: np.ndarray
    bytes: int


def text_document(text: bytes) -> Document:
    """A byte-level document (one token a byte); byte 0 separates documents, so it is refused."""
    if b"\0" in text:
        raise Refused("document", "a text that contains byte 0", "text without byte 0")
    return Document(np.frombuffer(text, np.uint8), len(text))


def windows(tokens: int, context: int) -> int:
    """How many windows of `context` inputs and one target a stream of `tokens` holds.

    Window w covers tokens [w * context, w * context + context + 1): a window's last target is
    the next one's first input, and every token but the first is a target at most once.
    """
    return max(0, (tokens - 1) // context)


def write_corpus(
    path: str | os.PathLike,
    *,
    name: str,
    vocabulary: int,
    separator: int | None,
    tokenizer: str,
    domains: Mapping[str, Mapping[str, Iterable[Document]]],
    tokenizer_json: str | None = None,
    main: Iterable[str] | None = None,
    expected_hash: str | None = None,
) -> Corpus:
    """Write a corpus folder and open it; documents are consumed once, in bounded memory.

    `domains` maps a name to its `train` and `held_out` documents; `tokenizer_json` is kept and
    hashed with them where `tokenizer` is `bpe`. The folder appears under `path` whole or not at
    all, under a temporary name until then; where another process finished the same folder first,
    that one is opened. `Refused` when the content is not the one with `expected_hash`.
    """
    path = Path(path)
    main = tuple(domains if main is None else main)
    dtype = np.dtype(np.min_scalar_type(vocabulary - 1)).newbyteorder("<")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    with _temporary_folder(path) as folder:
        written = {
            domain: {
                split: _write_stream(
                    folder / f"{domain}.{split}.bin", splits[split], separator, vocabulary, dtype
                )
                for split in SPLITS
            }
            for domain, splits in domains.items()
        }
        head = {
            "vocabulary": vocabulary,
            "separator": separator,
            "tokenizer": tokenizer,
            "dtype": dtype.str,
            "domains": written,
        }
        if tokenizer_json is not None:
            (folder / TOKENIZER_FILE).write_bytes(tokenizer_json.encode())
        content_hash = _content_hash(head, folder)
        if expected_hash not in (None, content_hash):
            raise Refused(
                f"corpus {name!r}", f"a build with content hash {content_hash}", expected_hash
            )
        record = {"format": FORMAT, "name": name, "main": main, "content_hash": content_hash}
        record |= head
        record["header"] = _header_hash(record)
        (folder / "corpus.json").write_text(json.dumps(record, indent=1) + "\n")
        _sync(folder)
        try:
            os.rename(folder, path)
        except OSError:  # a folder that is not empty is never replaced
            if not (path / "corpus.json").exists():
                raise
    return open_corpus(path)


def open_corpus(path: str | os.PathLike, verify: bool = True, noted: bool = True) -> Corpus:
    """Open a corpus folder, on disk or wherever `etils.epath` opens a path.

    File sizes and the record's own hash are always checked; `verify` reads every stream on disk
    once and compares the content hash (about a second per gigabyte). A record from before it had
    a hash is read as it is, `noted` once. `Refused` when the folder is no corpus, or its content is
    not what its record says.
    """
    if not is_remote(path):
        return _open(Path(path).absolute(), verify, noted)
    from etils import epath

    with told(path):
        return _open(epath.Path(path), False, noted)


def _open(folder: Path, verify: bool, noted: bool) -> Corpus:
    try:
        record = json.loads((folder / "corpus.json").read_text())
        header = record.pop("header", None)
        if header is None and noted:
            _note_old(folder)
        if header not in (None, _header_hash(record)):
            accepted = "one that is as it was written; build the corpus again"
            raise Refused(f"corpus file {folder / 'corpus.json'}", "another header", accepted)
        if record["format"] != FORMAT:
            raise Refused(f"corpus {folder}", f"format {record['format']}", f"format {FORMAT}")
        corpus = _from_record(folder, record)
        files = [
            (d.path(split), d.counts(split)["tokens"])
            for d in corpus.domains.values()
            for split in SPLITS
        ]
        if corpus.tokenizer == "bpe" and not (folder / TOKENIZER_FILE).exists():
            raise Refused(f"corpus {folder}", f"no {TOKENIZER_FILE}", "the one its text went by")
    except Refused:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refused(
            "corpus", folder, f"a folder with a readable corpus.json ({error!r})"
        ) from None
    itemsize = np.dtype(record["dtype"]).itemsize
    for file, tokens in files:
        size = tokens * itemsize
        found = f"{_size(file)} bytes" if file.exists() else "no such file"
        if found != f"{size} bytes":
            raise Refused(
                f"corpus file {file}", found, f"{size} bytes; remove the folder to rebuild it"
            )
    if verify and (found := _content_hash(record, folder)) != corpus.content_hash:
        raise Refused(
            f"corpus {folder}",
            f"content hash {found}",
            f"{corpus.content_hash}, as in its corpus.json; remove the folder to rebuild it",
        )
    return corpus


def _size(file: Path) -> int:
    found = file.stat()
    return found.length if is_remote(file) else found.st_size


def _from_record(folder: Path, record: Mapping) -> Corpus:
    domains = {
        name: Domain(
            name=name,
            folder=folder,
            dtype=record["dtype"],
            **{f"{split}_{count}": splits[split][count] for split in SPLITS for count in COUNTS},
        )
        for name, splits in record["domains"].items()
    }
    return Corpus(
        name=record["name"],
        vocabulary=record["vocabulary"],
        separator=record["separator"],
        tokenizer=record["tokenizer"],
        domains=domains,
        main=tuple(record["main"]),
        content_hash=record["content_hash"],
    )


def _write_stream(
    file: Path,
    documents: Iterable[Document],
    separator: int | None,
    vocabulary: int,
    dtype: np.dtype,
) -> dict[str, int]:
    tokens = text = count = longest = 0
    mark = np.array([] if separator is None else [separator], dtype)
    with open(file, "wb") as out:
        for document in documents:
            body = np.asarray(document.tokens)
            if body.size and (body.max() >= vocabulary or body.min() < 0):
                raise Refused("document", f"token {body.max()}", f"tokens 0 to {vocabulary - 1}")
            out.write(mark.tobytes())
            out.write(body.astype(dtype).tobytes())
            length = len(mark) + len(body)
            tokens, count, longest = tokens + length, count + 1, max(longest, length)
            text += len(mark) + int(document.bytes)
    return dict(zip(COUNTS, (tokens, text, count, longest), strict=True))


def _open_stream(file: Path, dtype: str, tokens: int) -> np.ndarray | Stream:
    if tokens == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    if is_remote(file):
        return Stream(os.fspath(file), dtype, tokens)
    return np.memmap(file, dtype, mode="r", shape=(tokens,))


def _content_hash(head: Mapping, folder: Path) -> str:
    # The counts are hashed with the tokens, so that a record edited by hand is noticed as well.
    kept = {key: head[key] for key in ("vocabulary", "separator", "dtype", "domains")}
    total = hashlib.sha256(json.dumps(kept).encode())
    if head["tokenizer"] == "bpe":
        total.update((folder / TOKENIZER_FILE).read_bytes())
    for domain in head["domains"]:
        for split in SPLITS:
            with open(folder / f"{domain}.{split}.bin", "rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    total.update(block)
    return total.hexdigest()


def _header_hash(record: Mapping) -> str:
    # Of all that the record says, name and main domains included; the content hash has the rest.
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@cache
def _note_old(folder: Path) -> None:
    logging.warning("note: %s has no checksum of its header, and is read unchecked", folder)


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some file systems sync no folders
                os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent))
    folder.chmod(0o755)  # mkdtemp gives 0700, and a cache may be shared
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already when it was renamed


def _remove_stale(parent: Path) -> None:
    for folder in parent.glob(".building-*"):
        with contextlib.suppress(OSError):
            newest = max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
            if time.time() - newest > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
