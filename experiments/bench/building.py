"""One corpus, built by processes of this machine and by Ray: the same hash, and what each takes.

Question: does a build as tasks of Ray give the hash of a build alone, and at what cost?
Command: `make bench-build`, or `python -m experiments.bench.building [--megabytes=1000]
[--tokenizer=bpe:4096] [--workers=2] [--folder=FOLDER]`; offline. The folder holds the text and both
corpora, and is removed at the end (default: a temporary one); it takes five times the text.
Cost: about 8 CPU-minutes for each of the two builds of 1 GB.
Published numbers: none.

The text is JSON lines of made-up words, the k-th of them within a factor of two of 1 / k as
frequent as the first (Zipf 1949), the same bytes on every machine.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # English's, the most frequent first.
OCTAVES = 16  # Of the words' ranks, each of the same frequency.
WORDS = 300  # Of a document, which is about 2 kB.
FILE_BYTES = 25_000_000
SEED = 21
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): Ray's processes outlive who starts them.


class Taken(NamedTuple):
    """What a build gave and took."""

    content_hash: str
    seconds: float
    cpu_seconds: float


def words() -> np.ndarray:
    """Returns 2^16 - 1 made-up words, the most frequent first, which are the shortest."""
    rng = np.random.default_rng(SEED)
    lengths = np.concatenate([np.full(1 << octave, 2 + octave // 2) for octave in range(OCTAVES)])
    drawn = rng.integers(0, len(LETTERS), (2, lengths.sum())).min(0)
    letters = np.array(list(LETTERS))[drawn]
    return np.array(["".join(w) for w in np.split(letters, np.cumsum(lengths)[:-1])], object)


def write_text(folder: Path, size: int) -> None:
    """Writes at least `size` bytes of JSON lines, in files of `FILE_BYTES`."""
    named, number = words(), 0
    while size > 0:
        rng = np.random.default_rng([SEED, number])
        with open(folder / f"{number:03}.jsonl", "w", encoding="ascii") as out:
            left = min(size, FILE_BYTES)
            size -= left
            while left > 0:
                begins = 1 << rng.integers(0, OCTAVES, WORDS)  # Whole numbers only: exact anywhere.
                text = " ".join(named[begins + rng.integers(0, begins) - 1])
                left -= out.write(json.dumps({"text": text}) + "\n")
        number += 1


def taken(command: list[str], out: Path) -> Taken:
    """Runs one build and returns what it took, with all processes that it left behind."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, f"--out={out}"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(json.loads((out / "corpus.json").read_text())["content_hash"], seconds, used)


def measure(folder: Path, megabytes: int, tokenizer: str, workers: int) -> None:
    """Writes the text, builds it in both ways, and prints a line for each.

    Raises:
      SystemExit: the hashes differ.
    """
    (folder / "text").mkdir()
    write_text(folder / "text", megabytes * 1_000_000)
    command = [sys.executable, "-P", "-m", "espalier", "corpus", "build", "--name=bench"]
    command += [f"--domain=web={folder}/text/*.jsonl", f"--tokenizer={tokenizer}"]
    found = {}
    for on in ("local", "ray"):
        found[on] = taken([*command, f"--workers={workers}", f"--on={on}"], folder / on)
        print(
            f"{megabytes} MB of JSON lines, {tokenizer}, --workers={workers} --on={on}: "
            f"{found[on].seconds:.0f} s, {found[on].cpu_seconds:.0f} CPU-s, "
            f"content hash {found[on].content_hash}",
            flush=True,
        )
    if found["local"].content_hash != found["ray"].content_hash:
        sys.exit("the hashes differ")


def main() -> None:
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tokenizer", default="bpe:4096")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="building-", dir=args.folder) as folder:
        measure(Path(folder), args.megabytes, args.tokenizer, args.workers)


if __name__ == "__main__":
    main()
