"""Builds a corpus from a user's files, in parallel and restartable.

Files are read in groups. A group's texts go to a work folder beside the corpus, under a name made
of their content and of how they are read; a second try finds them there. Which documents are kept
and on which side they stand follows from hashes of their text alone, and their order from the
order of the files, so neither the number of processes nor an interruption changes the corpus.

Memory: one document per process, and about a hundred bytes per document for finding duplicates.
"""

import array
import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.corpus import SPLITS, Corpus, Document, write_corpus
from data.refused import Refused
from data.sources import VERSION, Fault, Reading, kind, texts
from data.tokenizer import BPE, LARGEST_VOCABULARY, Bytes

GROUP_BYTES = 1 << 25  # Of files read as one task: what a kill can undo, for each process.
BPE_BYTES = 200_000_000  # Of text that merges are learned from; a few minutes of one core.
INDEX = 3  # Words per document: two of its hash, then its bytes.


class Silent:
    """Shows nothing."""

    def stage(self, name: str, total: int) -> None:
        """Takes what is going to be done, and how many bytes it will be."""

    def advance(self, amount: int) -> None:
        """Takes that so many bytes more are done."""

    def fault(self, line: str) -> None:
        """Takes one line about what cannot be used of a file."""


class Built(NamedTuple):
    """A corpus, and what became of the documents read for it."""

    corpus: Corpus
    documents: int
    duplicates: int
    faults: int


def build(
    path: str | os.PathLike,
    *,
    name: str,
    domains: Mapping[str, Sequence[Path]],
    tokenizer: str = "bytes",
    reading: Reading | None = None,
    held_out: float = 0.05,
    on_bad: str = "refuse",
    workers: int | None = None,
    shown: Silent | None = None,
) -> Built:
    """Builds a corpus folder from the files of each domain.

    A document whose text was met before, in any domain, is left out. `held_out` is the share of
    documents that stand on the held-out side, by their hash. `tokenizer` is `bytes`, `bpe:SIZE`
    (learned from training documents only) or a `tokenizer.json`. Every text that cannot be used is
    told to `shown`; then, unless `on_bad` is `skip`, the build is refused. `workers` are processes
    (default: one per core).

    Raises:
      Refused: a folder that exists or that another process is building, a wrong value, texts that
        cannot be used, or a domain with nothing on one side of the split.
    """
    path, shown, reading = Path(path), shown or Silent(), reading or Reading()
    workers = (os.cpu_count() or 1) if workers is None else workers
    check(path, name, domains, held_out, on_bad, workers)
    chosen = tokenizer_named(tokenizer)
    groups = [(d, group) for d, files in domains.items() for group in grouped(sorted(set(files)))]
    with work_folder(path) as work, processes(workers, len(groups)) as run:
        sizes = [sum(size(file) for file in group) for _, group in groups]
        shown.stage("reading", sum(sizes))
        shards, faults = [None] * len(groups), 0
        read = partial(read_group, work, reading)
        for number, (shard, found) in run(read, [group for _, group in groups]):
            shards[number] = work / shard
            shown.advance(sizes[number])
            for position, reason, count, place in found:
                shown.fault(fault_line(groups[number][1][position], reason, count, place))
                faults += count
        if faults and on_bad == "refuse":
            raise Refused(
                "input", f"{faults} bad (named above)", "sound files, or --on-bad=skip without them"
            )
        indices = [np.load(shard / "index.npy") for shard in shards]
        kept = first_of_each([index[:, :2] for index in indices])
        limit = np.uint64(int(held_out * 2**64))
        sides = [
            {"train": keep & (index[:, 0] >= limit), "held_out": keep & (index[:, 0] < limit)}
            for index, keep in zip(indices, kept, strict=True)
        ]
        check_sides(domains, groups, sides)
        if isinstance(chosen, int):
            chosen = trained(work, chosen, shards, indices, [side["train"] for side in sides])
        if isinstance(chosen, BPE):
            shown.stage("tokenizing", sum(int(index[:, 2].sum()) for index in indices))
            for number, _ in run(partial(encode, chosen.json), shards):
                shown.advance(int(indices[number][:, 2].sum()))
        shown.stage("writing", sum(int(index[:, 2].sum()) for index in indices))

        def documents(domain: str, split: str) -> Iterator[Document]:
            for (owner, _), shard, index, side in zip(groups, shards, indices, sides, strict=True):
                if owner == domain and side[split].any():
                    yield from shard_documents(shard, index, side[split], chosen)
                    shown.advance(int(index[side[split], 2].sum()))

        corpus = write_corpus(
            path,
            name=name,
            vocabulary=chosen.vocabulary,
            separator=chosen.separator,
            tokenizer=chosen.name,
            tokenizer_json=chosen.json if isinstance(chosen, BPE) else None,
            domains={d: {split: documents(d, split) for split in SPLITS} for d in domains},
        )
        shutil.rmtree(work)
    count = sum(map(len, indices))
    return Built(corpus, count, count - sum(int(keep.sum()) for keep in kept), faults)


def check(
    path: Path, name: str, domains: Mapping, held_out: float, on_bad: str, workers: int
) -> None:
    """`Refused` where the arguments of `build` cannot be."""
    plain = re.compile(r"\w[\w.-]*")
    if not plain.fullmatch(name):
        raise Refused("name", repr(name), "letters, digits, _, - and .")
    for domain, files in domains.items():
        if not plain.fullmatch(domain):
            raise Refused("domain", repr(domain), "letters, digits, _, - and .")
        if not files:
            raise Refused(f"domain {domain!r}", "no file", "a pattern that files match")
    if not domains:
        raise Refused("domain", "none", "at least one, as in --domain code='src/**/*.py'")
    if workers < 1:
        raise Refused("workers", workers, "1 or more processes")
    if not 0 < held_out < 1:
        raise Refused("held_out_fraction", held_out, "a share between 0 and 1")
    if on_bad not in ("skip", "refuse"):
        raise Refused("on_bad", on_bad, "skip or refuse")
    if path.exists():
        raise Refused("corpus", f"{path}, which is there", "another name, or remove that folder")


def tokenizer_named(tokenizer: str) -> Bytes | BPE | int:
    """Returns the tokenizer of that name; of one that is still to be learned, its vocabulary."""
    if tokenizer == "bytes":
        return Bytes()
    if learned := re.fullmatch(r"bpe:(\d+)", tokenizer):
        vocabulary = int(learned[1])
        if not 256 < vocabulary <= LARGEST_VOCABULARY:
            raise Refused("tokenizer", tokenizer, f"bpe:SIZE of 257 to {LARGEST_VOCABULARY}")
        return vocabulary
    try:
        return BPE(Path(tokenizer).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        accepted = "bytes, bpe:SIZE or a tokenizer.json"
        raise Refused("tokenizer", repr(tokenizer), accepted) from None


def check_sides(domains: Mapping, groups: list, sides: list[dict[str, np.ndarray]]) -> None:
    """`Refused` where a domain has no document on one side of the split."""
    for domain in domains:
        own = [side for (owner, _), side in zip(groups, sides, strict=True) if owner == domain]
        counts = {split: sum(int(side[split].sum()) for side in own) for split in SPLITS}
        if not all(counts.values()):
            raise Refused(
                f"domain {domain!r}",
                f"{counts['train']} training and {counts['held_out']} held-out documents",
                "some of both: more documents (--split cuts a text) or another --held-out-fraction",
            )


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


def fault_line(file: Path, reason: str, count: int, place: str) -> str:
    """Writes what cannot be used of a file, for a person."""
    times = f" ({count} times, first at {place})" if count > 1 else f" at {place}" if place else ""
    return f"{file}: {reason}{times}"


def read_group(work: Path, reading: Reading, files: Sequence[Path]) -> tuple[str, list]:
    """Writes the texts of files as a shard unless it is there; returns its name and its faults.

    A shard is a folder: `text.bin`, the texts one after the other; `index.npy`, uint64 [n, 3], two
    words of each text's hash and its length in bytes; `faults.json`, [position of the file,
    reason, count, first place] each.
    """
    name = group_key(reading, files)
    if not (work / name).exists():
        with temporary(work) as folder:
            index, faults = array.array("Q"), {}
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
                            out.write(text)
            np.save(folder / "index.npy", np.array(index, np.uint64).reshape(-1, INDEX))
            named = [[*key, *fault] for key, fault in faults.items()]
            (folder / "faults.json").write_text(json.dumps(named))
            with contextlib.suppress(OSError):  # The same texts twice: one of both is enough.
                os.rename(folder, work / name)
    return name, json.loads((work / name / "faults.json").read_text())


def group_key(reading: Reading, files: Sequence[Path]) -> str:
    """Hashes all that a shard's content depends on."""
    parts = [VERSION, reading.field, reading.split, reading.longest]
    for file in files:
        try:
            with open(file, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            content = str(error)
        parts.append([*kind(file), content])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def first_of_each(hashes: list[np.ndarray]) -> list[np.ndarray]:
    """Says of each row of [n, 2] arrays whether it is the first with its values in all of them."""
    rows = np.concatenate(hashes)
    order = np.lexsort((rows[:, 1], rows[:, 0]))  # Stable: the first of equals stays first.
    new = np.ones(len(rows), bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(1)
    kept = np.empty(len(rows), bool)
    kept[order] = new
    return np.split(kept, np.cumsum([len(h) for h in hashes])[:-1])


def trained(work: Path, vocabulary: int, shards: list, indices: list, sides: list) -> BPE:
    """Learns a BPE from the training documents, a random part of them where they are many."""
    chosen = [index[side] for index, side in zip(indices, sides, strict=True)]
    total = sum(int(index[:, 2].sum()) for index in chosen)
    limit = np.uint64(min(1.0, BPE_BYTES / total) * (2**64 - 2**12))  # 2^12: doubles round up.
    sampled = [s & (i[:, 1] <= limit) for i, s in zip(indices, sides, strict=True)]
    key = hashlib.sha256(str(vocabulary).encode())
    for index, sample in zip(indices, sampled, strict=True):
        key.update(index[sample].tobytes())
    file = work / f"bpe-{key.hexdigest()[:32]}.json"
    if not file.exists():
        bpe = BPE.train(
            (
                document.tokens.tobytes()
                for shard, index, sample in zip(shards, indices, sampled, strict=True)
                for document in shard_documents(shard, index, sample, Bytes())
            ),
            vocabulary,
        )
        with temporary(work) as folder:
            (folder / "bpe.json").write_text(bpe.json, encoding="utf-8")
            os.rename(folder / "bpe.json", file)
    return BPE(file.read_text(encoding="utf-8"))


def encode(tokenizer_json: str, shard: Path) -> None:
    """Writes a shard's documents in BPE tokens beside their text, unless they are there."""
    bpe = BPE(tokenizer_json)
    tokens, lengths = encoded_files(shard, bpe)
    if lengths.exists():
        return
    index = np.load(shard / "index.npy")
    documents = shard_documents(shard, index, np.ones(len(index), bool), Bytes())
    counts = array.array("Q")
    with temporary(shard.parent) as folder:
        with open(folder / "tokens.bin", "wb") as out:
            for document in bpe.documents(document.tokens.tobytes() for document in documents):
                counts.append(len(document.tokens))
                out.write(document.tokens.astype(stored(bpe)).tobytes())
        np.save(folder / "lengths.npy", np.array(counts, np.uint64))
        os.rename(folder / "tokens.bin", tokens)
        os.rename(folder / "lengths.npy", lengths)  # Last: where it is, both are.


def encoded_files(shard: Path, bpe: BPE) -> tuple[Path, Path]:
    """Returns where a shard's tokens of a tokenizer are kept, and their number by document."""
    key = hashlib.sha256(bpe.json.encode()).hexdigest()[:16]
    return shard / f"tokens-{key}.bin", shard / f"lengths-{key}.npy"


def stored(tokenizer: Bytes | BPE) -> np.dtype:
    """Returns the type of a tokenizer's tokens in the work folder."""
    return np.min_scalar_type(tokenizer.vocabulary - 1)


def shard_documents(
    shard: Path, index: np.ndarray, chosen: np.ndarray, tokenizer: Bytes | BPE
) -> Iterator[Document]:
    """Yields the chosen documents [n] of a shard, from a memory map."""
    if not chosen.any():
        return
    tokens, lengths = shard / "text.bin", index[:, 2]
    if isinstance(tokenizer, BPE):
        tokens, lengths = encoded_files(shard, tokenizer)
        lengths = np.load(lengths)
    stream = np.memmap(tokens, stored(tokenizer), mode="r").view(np.ndarray)
    ends = np.cumsum(lengths.astype(np.int64))
    starts = ends - lengths.astype(np.int64)
    picked = starts[chosen].tolist(), ends[chosen].tolist(), index[chosen, 2].tolist()
    for start, end, count in zip(*picked, strict=True):
        yield Document(stream[start:end], count)


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """Gives the folder of a build's shards, to one process at a time."""
    work = path.parent / f".{path.name}.build"
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # Ends with the process, killed or not.
        except OSError:
            raise Refused("corpus", f"{path}, which another process builds", "one build") from None
        for left in work.glob("tmp-*"):  # Of a build that was killed.
            shutil.rmtree(left, ignore_errors=True)
        yield work


@contextlib.contextmanager
def temporary(work: Path) -> Iterator[Path]:
    """Gives a folder whose content is renamed into place or lost."""
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def processes(workers: int, tasks: int) -> Iterator[Callable]:
    """Gives `run(function, items)`, which yields (position, result) as they are done."""
    if min(workers, tasks) <= 1:
        yield lambda function, items: enumerate(map(function, items))
        return
    pool = ProcessPoolExecutor(
        min(workers, tasks), multiprocessing.get_context("spawn"), initializer=begin_process
    )

    def run(function, items):
        futures = {pool.submit(function, item): number for number, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()

    try:
        yield run
    except BrokenProcessPool:
        accepted = "enough memory, or fewer --workers; the same command goes on"
        raise Refused("workers", "a process that was killed", accepted) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def begin_process() -> None:
    """Sets a process up: it ends with its parent, quietly, and tokenizes in one thread."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
