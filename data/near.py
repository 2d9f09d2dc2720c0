"""Near-duplicates: documents most of whose words stand in the same order in an earlier one.

A document is the set of its runs of five words (Lee et al. 2022, arXiv:2107.06499, section 4.2), of
two documents the likeness is Jaccard's, the share of all runs that both have. It is estimated by
MinHash (Broder 1997) with datasketch, and documents are compared where a band of their sketches is
equal.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.shards import shard_documents, temporary
from data.tokenizer import Bytes
from refused import Refused

RUN = 5  # Words.
PERMUTATIONS = 128  # A likeness of .8 is estimated within .035, one standard deviation.
# What is found is compared whole, so that a band that agrees by chance costs little.
WEIGHTS = (0.1, 0.9)  # Of documents compared in vain, and of those that are missed.
SCHEME = "affine32"  # How datasketch permutes: another one finds others.
FILE = f"sketch-{RUN}-{PERMUTATIONS}-{SCHEME}.npy"
# Scripts without spaces between words: each character of theirs is one.
ALONE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")


def check(likeness: float) -> None:
    """Refuses a likeness that is none, or any at all where datasketch is not installed."""
    if not 0 < likeness <= 1:
        raise Refused("near_duplicates", likeness, "a likeness above 0 and up to 1, such as 0.8")
    try:
        import datasketch  # noqa: F401
    except ImportError:
        accepted = "datasketch installed: pip install 'espalier[near]'"
        raise Refused("near_duplicates", likeness, accepted) from None


def runs_of(text: bytes) -> set[bytes]:
    """Returns a text's runs of words; a shorter text is one."""
    words = WORD.findall(text.decode())
    count = max(1, len(words) - RUN + 1)
    return {" ".join(words[i : i + RUN]).encode() for i in range(count)}


def sketch(shard: Path) -> None:
    """Writes the sketches of a shard's documents [n, PERMUTATIONS] beside them, unless there."""
    from datasketch import MinHash

    if (shard / FILE).exists():
        return
    index = np.load(shard / "index.npy")
    found = np.empty((len(index), PERMUTATIONS), np.uint32)
    documents = shard_documents(shard, index, np.ones(len(index), bool), Bytes())
    for number, document in enumerate(documents):
        one = MinHash(PERMUTATIONS, seed=1, scheme=SCHEME)
        one.update_batch(sorted(runs_of(document.tokens.tobytes())))
        found[number] = one.digest()
    with temporary(shard.parent) as folder:
        np.save(folder / FILE, found)
        os.rename(folder / FILE, shard / FILE)


def firsts(sketches: np.ndarray, likeness: float) -> np.ndarray:
    """Says of each document [n] whether none before it is alike, directly or through others.

    Documents that are alike in a chain are one cluster, of which the first stays.
    """
    from datasketch import MinHashLSH
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    made = MinHashLSH(likeness, PERMUTATIONS, weights=WEIGHTS)
    pairs = [
        pair
        for band in range(made.b)
        for group in equal(np.ascontiguousarray(sketches[:, band * made.r : (band + 1) * made.r]))
        for pair in alike(sketches, group, likeness)
    ]
    ends = np.array(pairs, int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), ends.T), (len(sketches),) * 2)
    _, cluster = connected_components(graph, directed=False)
    kept = np.zeros(len(sketches), bool)
    kept[np.unique(cluster, return_index=True)[1]] = True
    return kept


def equal(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the places of equal rows, two or more, in their order."""
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    order = np.argsort(keys, kind="stable")
    new = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    yield from (group for group in np.split(order, new) if len(group) > 1)


def alike(sketches: np.ndarray, group: np.ndarray, likeness: float) -> Iterator[tuple[int, int]]:
    """Yields pairs of a group: its first and what is like it, then the same of the others."""
    while len(group) > 1:
        first, others = group[0], group[1:]
        near = (sketches[others] == sketches[first]).mean(1) >= likeness
        yield from ((int(first), int(other)) for other in others[near])
        group = others[~near]


def first_of_near(
    shards: list[Path], kept: list[np.ndarray], run: Callable, likeness: float, told: Callable
) -> list[np.ndarray]:
    """Returns which documents [n] of each shard are kept, of those that were, once near ones go.

    `run` is as that of `data.build.processes`; `told` takes the place of each shard that is done.
    """
    for number, _ in run(sketch, shards):
        told(number)
    chosen = [np.load(shard / FILE)[keep] for shard, keep in zip(shards, kept, strict=True)]
    first = np.split(firsts(np.concatenate(chosen), likeness), np.cumsum(list(map(len, chosen))))
    found = [keep.copy() for keep in kept]
    for keep, still in zip(found, first, strict=False):
        keep[keep] = still
    return found
