"""Builds a corpus from a user's files, in parallel and restartable.

Files are read in groups. A group's texts go to a work folder beside the corpus, under a name made
of their content and of how they are read; a second try finds them there. Which documents are kept
and on which side they stand follows from hashes of their text alone, and their order from the
order of the files, so neither the number of processes nor an interruption changes the corpus.

Memory: at most 64 documents per process, and a hundred bytes per document for finding duplicates.
"""

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import near
from data.corpus import SPLITS, TOKENIZER_FILE, Corpus, Document, write_corpus
from data.lossless import LARGEST_VOCABULARY
from data.remote import is_remote
from data.shards import (
    encode,
    grouped,
    place_of,
    read_group,
    shard_documents,
    size,
    spans,
    temporary,
)
from data.sources import EMPTY, Reading
from data.tokenizer import BPE, Bytes
from refused import Refused

BPE_BYTES = 200_000_000  # Of text that merges are learned from; a few minutes of one core.


class Silent:
    """Shows nothing."""

    def stage(self, name: str, total: int) -> None:
        """Takes what is going to be done, and how many bytes it will be."""

    def advance(self, amount: int) -> None:
        """Takes that so many bytes more are done."""

    def fault(self, line: str) -> None:
        """Takes one line about what cannot be used of a file."""

    def word(self, line: str) -> None:
        """Takes one line about a setting that was not used as it stood."""


class Built(NamedTuple):
    """A corpus, and what became of the documents read for it."""

    corpus: Corpus
    documents: int
    duplicates: int
    near_duplicates: int
    faults: int
    empty_files: int


class Group(NamedTuple):
    """Files of one domain that were read as one shard, whose index is [n, 3].

    `split` is the side on which all its documents stand; None where their hashes decide.
    """

    domain: str
    split: str | None
    files: Sequence[Path]
    shard: Path
    index: np.ndarray


def build(
    path: str | os.PathLike,
    *,
    name: str,
    domains: Mapping[str, Sequence[Path] | Mapping[str, Sequence[Path]]],
    tokenizer: str = "bytes",
    reading: Reading | Mapping[str, Reading] | None = None,
    held_out: float = 0.05,
    near_duplicates: float | None = None,
    on_bad: str = "refuse",
    workers: int | None = None,
    tasks: Callable[[int | None], contextlib.AbstractContextManager[Callable]] | None = None,
    shown: Silent | None = None,
) -> Built:
    """Builds a corpus folder from the files of each domain.

    A document whose text was met before, in any domain, is left out, with `near_duplicates` also
    one of that likeness to an earlier one (`data.near`), and so is an empty file. A domain is its
    files, or its files by split (`SPLITS`), of which the held-out ones come first. `held_out` is
    the share of documents that stand on the held-out side, by their hash. `tokenizer` is `bytes`,
    `bpe:SIZE` (learned from training documents only) or a `tokenizer.json`; every document is
    compared with what its tokens give back. `reading` is for all domains or says how each is read.
    Every text that cannot be used is told to `shown`; then, unless `on_bad` is `skip`, the build is
    refused. `workers` are processes (default: one per core), or as many tasks at once where `tasks`
    gives what does them, as `processes` does here.

    Raises:
      Refused: a folder that exists or that another process is building, a wrong value, texts that
        cannot be used, a tokenizer that loses text, or a domain with nothing on one side of the
        split.
    """
    if is_remote(path):
        raise Refused("out", path, "a folder on disk; copied to a bucket, a corpus is read there")
    path, shown, reading = Path(path), shown or Silent(), reading or Reading()
    check(path, name, domains, held_out, on_bad, workers)
    if near_duplicates is not None:
        near.check(near_duplicates)
    readings = dict.fromkeys(domains, reading) if isinstance(reading, Reading) else reading
    chosen = tokenizer_named(tokenizer)
    for line in getattr(chosen, "words", ()):
        shown.word(f"{tokenizer}: {line}")
    with work_folder(path) as work, (tasks or processes)(workers) as run:
        groups, faults, empty = read(work, domains, readings, run, shown)
        if faults and on_bad == "refuse":
            accepted = "sound files, the right --field or --format, or --on-bad=skip without them"
            raise Refused("input", f"{faults} bad (named above)", accepted)
        kept = first_of_each([group.index[:, :2] for group in groups])
        left = kept
        if near_duplicates is not None:
            left = distinct(groups, kept, run, near_duplicates, shown)
        limit = np.uint64(int(held_out * 2**64))
        sides = [sides_of(g, keep, limit) for g, keep in zip(groups, left, strict=True)]
        check_sides(domains, groups, sides)
        if isinstance(chosen, int):
            chosen = trained(work, chosen, groups, [side["train"] for side in sides], shown)
        if isinstance(chosen, BPE):
            tokenize(chosen, groups, run, shown)
        corpus = write(path, name, chosen, domains, groups, sides, shown)
        shutil.rmtree(work)
    count, new, last = sum(map(len, kept)), *(sum(map(np.sum, masks)) for masks in (kept, left))
    return Built(corpus, count, int(count - new), int(new - last), faults, empty)


def read(
    work: Path, domains: Mapping, readings: Mapping[str, Reading], run: Callable, shown: Silent
) -> tuple[list[Group], int, int]:
    """Reads all files; returns their groups, and how many faults and empty files there are."""
    owners = [
        (domain, split, files)
        for domain, own in domains.items()
        for split, chosen in by_split(own).items()
        for files in grouped(sorted(set(chosen)))
    ]
    sizes = [sum(map(size, files)) for *_, files in owners]
    shown.stage("reading", sum(sizes))
    groups, faults, empty = [None] * len(owners), 0, 0
    tasks = [(readings[domain], files) for domain, _, files in owners]
    for number, (name, found) in run(partial(read_group, work), tasks):
        domain, split, files = owners[number]
        index = np.load(work / name / "index.npy")
        groups[number] = Group(domain, split, files, work / name, index)
        shown.advance(sizes[number])
        for position, reason, count, place in found:
            if reason == EMPTY:
                empty += 1
            else:
                shown.fault(fault_line(files[position], reason, count, place))
                faults += count
    return groups, faults, empty


def distinct(
    groups: list[Group], kept: list[np.ndarray], run: Callable, likeness: float, shown: Silent
) -> list[np.ndarray]:
    """Returns which documents of each group are kept once near-duplicates are left out."""
    sizes = [int(group.index[:, 2].sum()) for group in groups]
    shown.stage("sketching", sum(sizes))
    shards = [group.shard for group in groups]
    told = lambda number: shown.advance(sizes[number])
    return near.first_of_near(shards, kept, run, likeness, told)


def by_split(files: Sequence[Path] | Mapping[str, Sequence[Path]]) -> dict[str | None, Sequence]:
    """Returns a domain's files by the side they are for, held out first; None where none is said.

    A held-out text that is met in training too is thereby held out.
    """
    if not isinstance(files, Mapping):
        return {None: files}
    return {split: files[split] for split in reversed(SPLITS) if files.get(split)}


def sides_of(group: Group, kept: np.ndarray, limit: np.uint64) -> dict[str, np.ndarray]:
    """Returns which documents [n] of a group stand on each side."""
    if group.split is not None:
        return {split: kept & (split == group.split) for split in SPLITS}
    above = group.index[:, 0] >= limit
    return {"train": kept & above, "held_out": kept & ~above}


def tokenize(bpe: BPE, groups: list[Group], run: Callable, shown: Silent) -> None:
    """Writes every shard's tokens; `Refused` at a document that they do not give back."""
    shown.stage("tokenizing", sum(int(group.index[:, 2].sum()) for group in groups))
    tasks = [(group, first, last) for group in groups for first, last in spans(group.index)]
    places = [(group.shard, first, last) for group, first, last in tasks]
    for number, lost in run(partial(encode, bpe.json), places):
        group, first, last = tasks[number]
        if lost:
            document, how = lost
            position, place = place_of(group.shard, document)
            got = f"{how} (document {place} of {group.files[position]})"
            raise Refused("tokenizer", got, "one that keeps every text")
        shown.advance(int(group.index[first:last, 2].sum()))


def write(
    path: Path,
    name: str,
    tokenizer: Bytes | BPE,
    domains: Mapping,
    groups: list[Group],
    sides: list[dict[str, np.ndarray]],
    shown: Silent,
) -> Corpus:
    """Writes the corpus folder from groups that are read and tokenized."""
    sizes = [
        {split: int(group.index[side[split], 2].sum()) for split in SPLITS}
        for group, side in zip(groups, sides, strict=True)
    ]
    shown.stage("writing", sum(size for both in sizes for size in both.values()))

    def documents(domain: str, split: str) -> Iterator[Document]:
        for group, side, amount in zip(groups, sides, sizes, strict=True):
            if group.domain == domain and side[split].any():
                yield from shard_documents(group.shard, group.index, side[split], tokenizer)
                shown.advance(amount[split])

    return write_corpus(
        path,
        name=name,
        vocabulary=tokenizer.vocabulary,
        separator=tokenizer.separator,
        tokenizer=tokenizer.name,
        tokenizer_json=tokenizer.json if isinstance(tokenizer, BPE) else None,
        domains={d: {split: documents(d, split) for split in SPLITS} for d in domains},
    )


def check(
    path: Path, name: str, domains: Mapping, held_out: float, on_bad: str, workers: int | None
) -> None:
    """`Refused` where the arguments of `build` cannot be."""
    plain = re.compile(r"\w[\w.-]*")
    if not plain.fullmatch(name):
        raise Refused("name", repr(name), "letters, digits, _, - and .")
    for domain, files in domains.items():
        if not plain.fullmatch(domain):
            raise Refused("domain", repr(domain), "letters, digits, _, - and .")
        if not any(by_split(files).values()):
            raise Refused(f"domain {domain!r}", "no file", "a pattern that files match")
        if isinstance(files, Mapping) and (other := sorted(files.keys() - set(SPLITS))):
            raise Refused(f"domain {domain!r}", f"the split {other[0]}", " and ".join(SPLITS))
    if not domains:
        raise Refused("domain", "none", "at least one, as in --domain code='src/**/*.py'")
    if workers is not None and workers < 1:
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
    file = Path(tokenizer).expanduser()
    try:
        file = file / TOKENIZER_FILE if file.is_dir() else file
        return BPE(file.read_text(encoding="utf-8")).tried()
    except (OSError, UnicodeDecodeError):
        accepted = f"bytes, bpe:SIZE, a {TOKENIZER_FILE} or a folder with one"
        raise Refused("tokenizer", repr(tokenizer), accepted) from None


def check_sides(domains: Mapping, groups: list[Group], sides: list[dict[str, np.ndarray]]) -> None:
    """`Refused` where a domain has no document on one side of the split."""
    for domain in domains:
        own = [side for g, side in zip(groups, sides, strict=True) if g.domain == domain]
        counts = {split: sum(int(side[split].sum()) for side in own) for split in SPLITS}
        if not all(counts.values()):
            raise Refused(
                f"domain {domain!r}",
                f"{counts['train']} training and {counts['held_out']} held-out documents",
                "some of both: more documents (--split cuts a text) or another --held-out-fraction",
            )


def fault_line(file: Path, reason: str, count: int, place: str) -> str:
    """Writes what cannot be used of a file, for a person."""
    times = f" ({count} times, first at {place})" if count > 1 else f" at {place}" if place else ""
    return f"{file}: {reason}{times}"


def first_of_each(hashes: list[np.ndarray]) -> list[np.ndarray]:
    """Says of each row of [n, 2] arrays whether it is the first with its values in all of them."""
    rows = np.concatenate(hashes)
    order = np.lexsort((rows[:, 1], rows[:, 0]))  # Stable: the first of equals stays first.
    new = np.ones(len(rows), bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(1)
    kept = np.empty(len(rows), bool)
    kept[order] = new
    return np.split(kept, np.cumsum([len(h) for h in hashes])[:-1])


def trained(
    work: Path, vocabulary: int, groups: list[Group], sides: list[np.ndarray], shown: Silent
) -> BPE:
    """Learns a BPE from the training documents, a random part of them where they are many."""
    indices = [group.index for group in groups]
    total = sum(int(i[side, 2].sum()) for i, side in zip(indices, sides, strict=True))
    limit = np.uint64(min(1.0, BPE_BYTES / total) * (2**64 - 2**12))  # 2^12: doubles round up.
    sampled = [side & (i[:, 1] <= limit) for i, side in zip(indices, sides, strict=True)]
    key = hashlib.sha256(str(vocabulary).encode())
    for index, sample in zip(indices, sampled, strict=True):
        key.update(index[sample].tobytes())
    file = work / f"bpe-{key.hexdigest()[:32]}.json"
    amounts = [int(i[sample, 2].sum()) for i, sample in zip(indices, sampled, strict=True)]

    def texts() -> Iterator[bytes]:
        for group, sample, amount in zip(groups, sampled, amounts, strict=True):
            for document in shard_documents(group.shard, group.index, sample, Bytes()):
                yield document.tokens.tobytes()
            shown.advance(amount)

    if not file.exists():
        shown.stage("learning", sum(amounts))
        bpe = BPE.train(texts(), vocabulary)
        with temporary(work) as folder:
            (folder / "bpe.json").write_text(bpe.json, encoding="utf-8")
            os.rename(folder / "bpe.json", file)
    return BPE(file.read_text(encoding="utf-8"))


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
def processes(workers: int | None) -> Iterator[Callable]:
    """Gives `run(function, items)`, which yields (position, result) as they are done."""
    workers = (os.cpu_count() or 1) if workers is None else workers
    spawn = multiprocessing.get_context("spawn")  # Only when there is work for two, and that many.
    pool = ProcessPoolExecutor(workers, spawn, initializer=begin_process)

    def run(function, items):
        if min(workers, len(items)) <= 1:
            yield from enumerate(map(function, items))
            return
        futures = {pool.submit(function, item): number for number, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()

    try:
        yield run
        pool.shutdown()
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
