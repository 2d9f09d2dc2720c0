"""Shards: groups of a user's texts, read, checked, hashed and tokenized, kept by their content.

A shard is a folder: `text.bin`, the texts one after the other; `index.npy`, uint64 [n, 3], two
words of each text's hash and its length in bytes; `files.json`, the number of texts of each file
and the faults, [position of the file, reason, count, first place] each. Where it was tokenized,
every span of its documents has `tokens-*.bin` and `lengths-*.npy` besides. All of it appears by
renaming, whole or not at all.
"""

import array
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.corpus import Document
from data.files import kind
from data.sources import VERSION, Fault, Reading, texts
from data.tokenizer import BPE, Bytes
from refused import Refused

GROUP_BYTES = 1 << 25  # Of files or of text done as one task: what a kill can undo, per process.
BUFFER_BYTES = 1 << 20
INDEX = 3  # Words per document: two of its hash, then its bytes.


def grouped(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Yields files in their order, in groups of `GROUP_BYTES` or of one larger file."""
    group, total = [], 0
    for file in files:
        if group and total + size(file) > GROUP_BYTES:
            yield tuple(group)
            group, total = [], 0
        group.append(file)
        total += size(file)
    if group:
        yield tuple(group)


def size(file: Path) -> int:
    """Returns a file's bytes, 0 where it cannot be looked at: reading it will tell."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def read_group(work: Path, task: tuple[Reading, Sequence[Path]]) -> tuple[str, list]:
    """Writes the texts of files as a shard unless it is there; returns its name and its faults."""
    reading, files = task
    name = group_key(reading, files)
    if not (work / name).exists():
        with temporary(work) as folder:
            index, faults, counts = array.array("Q"), {}, [0] * len(files)
            with open(folder / "text.bin", "wb") as out:
                for position, file in enumerate(files):
                    for text in texts(file, reading):
                        if isinstance(text, Fault):
                            fault = faults.setdefault((position, text.reason), [0, text.place])
                            fault[0] += 1
                        else:
                            digest = hashlib.sha256(text).digest()
                            index.extend(int.from_bytes(digest[i : i + 8]) for i in (0, 8))
                            index.append(len(text))
                            counts[position] += 1
                            out.write(text)
            np.save(folder / "index.npy", np.array(index, np.uint64).reshape(-1, INDEX))
            named = [[*key, *fault] for key, fault in faults.items()]
            (folder / "files.json").write_text(json.dumps({"texts": counts, "faults": named}))
            with contextlib.suppress(OSError):  # The same texts twice: one of both is enough.
                os.rename(folder, work / name)
    return name, json.loads((work / name / "files.json").read_text())["faults"]


def place_of(shard: Path, document: int) -> tuple[int, int]:
    """Returns the position of a document's file in its group, and its number in it, from 1."""
    counts = json.loads((shard / "files.json").read_text())["texts"]
    ends = np.cumsum(counts)
    position = int(np.searchsorted(ends, document, "right"))
    return position, document - int(ends[position] - counts[position]) + 1


def group_key(reading: Reading, files: Sequence[Path]) -> str:
    """Hashes all that a shard's content depends on."""
    parts = [VERSION, reading.field, reading.split, reading.longest]
    for file in files:
        try:
            with open(file, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            parts.append([*kind(file, reading.format), content])
        except OSError as error:
            parts.append(str(error))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def spans(index: np.ndarray) -> list[tuple[int, int]]:
    """Returns the first and last (exclusive) document of each `GROUP_BYTES` of a shard's text."""
    part = np.cumsum(index[:, 2]) // np.uint64(GROUP_BYTES)
    ends = [*(np.flatnonzero(np.diff(part)) + 1).tolist(), len(index)]
    return [(first, last) for first, last in zip([0, *ends], ends, strict=False) if first < last]


def encode(tokenizer_json: str, span: tuple[Path, int, int]) -> tuple[int, str] | None:
    """Writes a span of a shard's documents in BPE tokens beside their text, unless it is there.

    Returns the first document that its tokens do not give back, and how; then nothing is written.
    """
    bpe, (shard, first, last) = BPE(tokenizer_json), span
    tokens, lengths = encoded_files(shard, bpe, first, last)
    if lengths.exists():
        return None
    index = np.load(shard / "index.npy")
    chosen = (np.arange(len(index)) >= first) & (np.arange(len(index)) < last)
    documents = shard_documents(shard, index, chosen, Bytes())
    counts = array.array("Q")
    with temporary(shard.parent) as folder:
        try:
            with open(folder / "tokens.bin", "wb") as out:
                for document in bpe.documents(document.tokens.tobytes() for document in documents):
                    counts.append(len(document.tokens))
                    out.write(document.tokens.astype(stored(bpe)).tobytes())
        except Refused as error:
            return first + len(counts), str(error.value)
        np.save(folder / "lengths.npy", np.array(counts, np.uint64))
        os.rename(folder / "tokens.bin", tokens)
        os.rename(folder / "lengths.npy", lengths)  # Last: where it is, both are.
    return None


def encoded_files(shard: Path, bpe: BPE, first: int, last: int) -> tuple[Path, Path]:
    """Returns where the tokens of a span are kept, and their number by document."""
    key = f"{hashlib.sha256(bpe.json.encode()).hexdigest()[:16]}-{first}-{last}"
    return shard / f"tokens-{key}.bin", shard / f"lengths-{key}.npy"


def stored(tokenizer: Bytes | BPE) -> np.dtype:
    """Returns the type of a tokenizer's tokens in the work folder."""
    return np.min_scalar_type(tokenizer.vocabulary - 1)


def shard_documents(
    shard: Path, index: np.ndarray, chosen: np.ndarray, tokenizer: Bytes | BPE
) -> Iterator[Document]:
    """Yields the chosen documents [n] of a shard, read one by one."""
    if isinstance(tokenizer, Bytes):
        yield from read_stream(shard / "text.bin", index[:, 2], index[:, 2], chosen, np.uint8)
        return
    for first, last in spans(index):
        tokens, lengths = encoded_files(shard, tokenizer, first, last)
        sizes, picked = index[first:last, 2], chosen[first:last]
        yield from read_stream(tokens, np.load(lengths), sizes, picked, stored(tokenizer))


def read_stream(
    file: Path,
    lengths: np.ndarray,
    sizes: np.ndarray,
    chosen: np.ndarray,
    dtype: np.typing.DTypeLike,
) -> Iterator[Document]:
    """Yields the chosen documents of a file: each has `lengths` tokens for `sizes` bytes."""
    dtype, lengths = np.dtype(dtype), lengths.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    with open(file, "rb", buffering=BUFFER_BYTES) as stream:
        for number in np.flatnonzero(chosen):
            stream.seek(int(starts[number]) * dtype.itemsize)
            body = stream.read(int(lengths[number]) * dtype.itemsize)
            yield Document(np.frombuffer(body, dtype), int(sizes[number]))


@contextlib.contextmanager
def temporary(work: Path) -> Iterator[Path]:
    """Gives a folder whose content is renamed into place or lost."""
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
