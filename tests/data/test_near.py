"""Near-duplicates: planted ones are found whatever the groups and processes, others are not."""

import sys

import numpy as np
import pytest

from data import near
from data.build import build
from data.shards import grouped
from data.sources import Reading
from refused import Refused
from tests.data.test_build import Shown, documents

WORDS = 200


@pytest.fixture
def datasketch():
    return pytest.importorskip("datasketch", reason="pip install 'espalier[near]'")


def texts() -> tuple[list[str], list[int]]:
    """Returns documents of words, and of each the number of the one that it is made of.

    Of each of 30 there is a copy with one word changed (5 runs of 196: a likeness of .95) and one
    with 30 words changed (a likeness below .4), which may not go.
    """
    rng = np.random.default_rng(0)
    found, origin = [], []
    for number in range(30):
        words = [f"w{word}" for word in rng.integers(0, 5000, WORDS)]
        few, many = list(words), list(words)
        few[100] = "changed"
        for place in range(3, WORDS, 7):
            many[place] = f"x{place}"
        for kind, made in enumerate((words, few, many)):
            found.append(" ".join(made))
            origin.append(number if kind < 2 else 100 + number)
    return found, origin


def likeness(one: str, other: str) -> float:
    """Returns Jaccard's likeness of two texts' runs."""
    one, other = (near.runs_of(text.encode()) for text in (one, other))
    return len(one & other) / len(one | other)


def test_runs_are_of_five_words_and_of_single_characters_where_no_spaces_are():
    assert near.runs_of(b" a b\nc  d e f") == {b"a b c d e", b"b c d e f"}
    assert near.runs_of(b"a b") == {b"a b"}
    assert near.runs_of("日本語です x".encode()) == {
        "日 本 語 で す".encode(),
        "本 語 で す x".encode(),
    }


def test_of_near_documents_the_first_is_kept(datasketch, tmp_path, monkeypatch):
    found, origin = texts()
    assert 0.94 < likeness(*found[:2]) < 0.96 and likeness(found[0], found[2]) < 0.4
    files = []
    for number in range(10):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text("\n".join(found[9 * number : 9 * number + 9]))
    options = dict(name="m", domains={"d": files}, held_out=0.2, near_duplicates=0.8)
    options |= dict(reading=Reading(split="\n"), shown=Shown())
    done = build(tmp_path / "m", **options, workers=1)
    there = documents(done.corpus, "d", "train") + documents(done.corpus, "d", "held_out")
    first = {o: text.encode() for o, text in reversed(list(zip(origin, found, strict=True)))}
    assert sorted(there) == sorted(first.values()) and len(there) == 60
    assert (done.documents, done.duplicates, done.near_duplicates) == (90, 0, 30)
    assert options["shown"].done == options["shown"].totals
    monkeypatch.setattr("data.shards.GROUP_BYTES", 20_000)
    assert len(list(grouped(files))) > 4
    again = build(tmp_path / "again", **options, workers=2)
    assert again.corpus.content_hash == done.corpus.content_hash
    plain = build(tmp_path / "plain", **options | {"near_duplicates": None}, workers=1)
    assert (plain.near_duplicates, plain.documents) == (0, 90)
    assert plain.corpus.content_hash != done.corpus.content_hash


def test_a_chain_of_near_documents_is_one_cluster(datasketch):
    rng = np.random.default_rng(1)
    sketches = rng.integers(0, 2**32, (5, near.PERMUTATIONS), np.uint32)
    sketches[2] = sketches[0]
    sketches[2, :10] += 1
    sketches[4] = sketches[2]
    sketches[4, -20:] += 1  # Like the third to .84, like the first to .77 only.
    assert near.firsts(sketches, 0.8).tolist() == [True, True, False, True, False]
    assert near.firsts(sketches, 0.9).tolist() == [True, True, False, True, True]
    assert near.firsts(sketches[:1], 0.8).tolist() == [True]


def test_what_cannot_be_had_is_refused_in_one_line(monkeypatch):
    for value in (0.0, 1.5, float("nan")):
        with pytest.raises(Refused, match="near_duplicates: got .*; accepted: a likeness above 0"):
            near.check(value)
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(Refused, match="datasketch installed: pip install 'espalier.near.'"):
        near.check(0.8)
