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
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"  # English's, the most frequent first.
OCTAVES = 13  # Of the words' ranks, each of the same frequency.
WORDS = 300  # Of a document, which is about 2 kB.
FILE_BYTES = 25_000_000
SEED = 21


def words() -> np.ndarray:
    """Returns 2^13 - 1 made-up words, the most frequent first, which are the shortest."""
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


def built(command: list[str], out: Path) -> tuple[str, float]:
    """Runs one build and returns the corpus's hash and the seconds it took.

    CPU seconds are not to be had of Ray's workers: who starts them never waits for them.
    """
    settings = os.environ | {"RAY_worker_niceness": "0"}  # As the other processes have it.
    began = time.perf_counter()
    command = [*command, f"--out={out}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=settings)
    seconds = time.perf_counter() - began
    return json.loads((out / "corpus.json").read_text())["content_hash"], seconds


def measure(folder: Path, megabytes: int, tokenizer: str, workers: int) -> None:
    """Writes the text, builds it in both ways, and prints a line for each.

    Raises:
      SystemExit: the hashes differ.
    """
    (folder / "text").mkdir()
    write_text(folder / "text", megabytes * 1_000_000)
    command = [sys.executable, "-P", "-m", "espalier", "corpus", "build", "--name=bench"]
    command += [f"--domain=web={folder}/text/*.jsonl", f"--tokenizer={tokenizer}"]
    hashes = set()
    for on in ("local", "ray"):
        whole = [*command, f"--workers={workers}", f"--on={on}"]
        content_hash, seconds = built(whole, folder / on)
        hashes.add(content_hash)
        print(
            f"{megabytes} MB of JSON lines, {tokenizer}, --workers={workers} --on={on}: "
            f"{seconds:.0f} s, content hash {content_hash}",
            flush=True,
        )
    if len(hashes) > 1:
        sys.exit("the hashes differ")


def main() -> None:
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tokenizer", default="bpe:4096")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="building-", dir=args.folder) as folder:
        measure(Path(folder), args.megabytes, args.tokenizer, args.workers)


if __name__ == "__main__":
    main()
