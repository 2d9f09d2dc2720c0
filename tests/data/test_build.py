"""Building corpora: the same content however it was built, and a name for all that is unusable."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.build as module
from data import HeldOut, Mixture, Order, Piece, Reader, load
from data.build import Silent, build, first_of_each
from data.shards import grouped
from data.sources import Reading
from data.tokenizer import BPE, tokenizer_of
from refused import Refused

ROOT = Path(__file__).parents[2]


class Shown(Silent):
    """Keeps what was told."""

    def __init__(self):
        self.faults, self.words, self.done, self.totals = [], [], {}, {}

    def stage(self, name, total):
        self.name, self.totals[name] = name, total

    def advance(self, amount):
        self.done[self.name] = self.done.get(self.name, 0) + amount

    def fault(self, line):
        self.faults.append(line)

    def word(self, line):
        self.words.append(line)


def sentences(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["tree", "trunk", "branch", "leaf", "naïve", "root", "frame", "grafts"]
    return [f"{seed}.{i} " + " ".join(rng.choice(words, 12)) for i in range(count)]


@pytest.fixture
def files(tmp_path) -> dict[str, list[Path]]:
    """Two domains in every format; each domain's sentences differ, some are there twice."""
    folder = tmp_path / "in"
    folder.mkdir()
    one, two = sentences(1, 120), sentences(2, 120)
    for part in range(4):
        (folder / f"one{part}.txt").write_text("\n".join(one[part * 30 :][:30] + one[:3]) + "\n")
    records = "".join(json.dumps({"id": 7, "body": text}) + "\n" for text in two).encode()
    (folder / "two.jsonl").write_bytes(b"".join(records.splitlines(keepends=True)[:40]))
    (folder / "two.jsonl.gz").write_bytes(gzip.compress(records))
    (folder / "two.ndjson.zst").write_bytes(pa.compress(records, "zstd", asbytes=True))
    pq.write_table(pa.table({"body": two}), folder / "two.parquet", row_group_size=32)
    return {name: sorted(folder.glob(f"{name}*")) for name in ("one", "two")}


def documents(corpus, domain, split) -> list[bytes]:
    """Returns a side's documents as text."""
    stream = np.asarray(getattr(corpus.domains[domain], split))
    starts = np.flatnonzero(stream == corpus.separator)
    return [tokenizer_of(corpus).decode(d[1:].tolist()) for d in np.split(stream, starts)[1:]]


def built(path, files):
    """Builds with files by domain, or with all options of `build` that matter to the test."""
    options = {"name": "mine", "held_out": 0.2, "workers": 1, "reading": Reading("body", "\n")}
    options |= files if "domains" in files else {"domains": files}
    return build(path, **options)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_every_document_is_there_once_on_the_side_of_its_hash(files, tmp_path, tokenizer):
    shown = Shown()
    done = built(tmp_path / "mine", {"domains": files, "tokenizer": tokenizer, "shown": shown})
    corpus = load(str(tmp_path / "mine"))
    assert corpus.content_hash == done.corpus.content_hash and corpus.names == ("one", "two")
    sides = {}
    for number, domain in enumerate(corpus.names, 1):
        train, held_out = (documents(corpus, domain, split) for split in ("train", "held_out"))
        wanted = [text.encode() for text in sentences(number, 120)]
        assert sorted(train + held_out) == sorted(wanted)
        assert train == [text for text in wanted if text in set(train)]  # The files' order.
        assert 8 <= len(held_out) <= 40
        sides |= dict.fromkeys(held_out, "held_out")
    assert (done.documents, done.duplicates, done.faults) == (120 + 12 + 40 + 360, 12 + 280, 0)
    assert shown.done == shown.totals
    assert list(tmp_path.glob(".mine*")) == []
    # A side is the document's own: neither its domain nor its neighbours move it.
    alone = {"domains": {"x": files["two"][-1:], "y": files["one"][:2]}}
    other = built(tmp_path / "other", alone).corpus
    for domain in other.names:
        for split in ("train", "held_out"):
            for text in documents(other, domain, split):
                assert (text in sides) == (split == "held_out")


def test_the_number_of_processes_and_groups_does_not_matter(files, tmp_path, monkeypatch):
    whole = built(tmp_path / "whole", {"domains": files, "tokenizer": "bpe:280"}).corpus
    monkeypatch.setattr("data.shards.GROUP_BYTES", 1000)
    assert sum(len(list(grouped(f))) for f in files.values()) == 8
    parallel = {"domains": files, "tokenizer": "bpe:280", "workers": 2}
    assert built(tmp_path / "parts", parallel).corpus.content_hash == whole.content_hash
    turned = {name: files[name][::-1] for name in files}
    bytes_ = built(tmp_path / "bytes", files).corpus.content_hash
    assert built(tmp_path / "again", turned).corpus.content_hash == bytes_


KILLED = """
import os, signal, sys
from pathlib import Path
import data.build as module
import data.shards
from data.sources import Reading

class Kill(module.Silent):
    left = 2

    def stage(self, name, total):
        self.name = name

    def advance(self, amount):
        self.left -= self.name == sys.argv[2]
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    data.shards.GROUP_BYTES = 1000
    folder = Path(sys.argv[1])
    domains = {name: sorted((folder / "in").glob(name + "*")) for name in ("one", "two")}
    module.build(folder / "mine", name="mine", domains=domains, tokenizer="bpe:280",
        reading=Reading("body", "\\n"), held_out=0.2, workers=int(sys.argv[3]), shown=Kill())
"""


@pytest.mark.parametrize(
    ("stage", "workers"),
    [("reading", 1), ("reading", 2), ("learning", 1), ("tokenizing", 1), ("writing", 1)],
)
def test_a_killed_build_goes_on_to_the_same_hash(files, tmp_path, monkeypatch, stage, workers):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    # Returns when nobody holds its output any more: the workers ended with their parent.
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), stage, str(workers)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "mine").exists()
    monkeypatch.setattr("data.shards.GROUP_BYTES", 1000)
    work = tmp_path / ".mine.build"
    there = {f: f.stat().st_mtime_ns for f in work.glob("*/text.bin") if f.parent.name[:3] != "tmp"}
    assert len(there) >= 2
    kept = {}

    class Look(Silent):
        def stage(self, name, total):
            if name == "writing":
                kept.update({f: f.stat().st_mtime_ns for f in work.glob("*/text.bin")})

    on = built(
        tmp_path / "mine", {"domains": files, "tokenizer": "bpe:280", "shown": Look()}
    ).corpus
    assert there.items() <= kept.items()
    fresh = built(tmp_path / "fresh", {"domains": files, "tokenizer": "bpe:280"}).corpus
    assert on.content_hash == fresh.content_hash and not work.exists()


BAD = {
    "latin.txt": ("naïve".encode("latin-1"), ["broken UTF-8"]),
    "zero.txt": (b"a\0b", ["byte 0 in the text"]),
    "huge.txt": (b"x" * 5000, ["longer than 4000 bytes"]),
    "lines.jsonl": (
        b'{"text": "good"}\n{"text": "%s"}\n{"body": "x"}\nnothing\n{"text": 3}\n{"text": ""}\n'
        b'{"text": "\\ud800"}\n{"text": "\xff"}\n{"text": "\\u0000"}\n[1]\n{"text": null}'
        % (b"y" * 5000),
        [
            "longer than 4000 bytes at line 2",
            "no field 'text' (3 times, first at line 3)",
            "no JSON at line 4",
            "field 'text' is no text at line 5",
            "empty text at line 6",
            "broken UTF-8 (2 times, first at line 7)",
            "byte 0 in the text at line 9",
        ],
    ),
    "rubbish.parquet": (b"PAR1 is not enough", ["unreadable ("]),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 99)[:-9], ["unreadable ("]),
    "rubbish.txt.zst": (b"rubbish", ["unreadable ("]),
    "whole.parquet.gz": (b"PAR1", ["unreadable ("]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named_and_refused_or_skipped(name, tmp_path):
    content, reasons = BAD[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in sentences(3, 60))
    )
    domains = {"d": [tmp_path / name, tmp_path / "good.jsonl"]}
    options = dict(name="m", domains=domains, reading=Reading(longest=4000), held_out=0.2)
    refusing, skipping = Shown(), Shown()
    with pytest.raises(Refused, match="bad .named above.; accepted: .*--on-bad=skip"):
        build(tmp_path / "m", **options, workers=1, shown=refusing)
    assert not (tmp_path / "m").exists()
    assert len(refusing.faults) == len(reasons)
    for line, reason in zip(refusing.faults, reasons, strict=True):
        assert line.startswith(f"{tmp_path / name}: {reason}") and "\n" not in line
    done = build(tmp_path / "m", **options, workers=1, shown=skipping, on_bad="skip")
    assert skipping.faults == refusing.faults
    there = documents(done.corpus, "d", "train") + documents(done.corpus, "d", "held_out")
    good = [text.encode() for text in sentences(3, 60)]
    assert set(good) <= set(there) <= {*good, b"good", b"a"}


@pytest.mark.parametrize(
    ("tokenizer", "content_hash"),
    [
        ("bytes", "f0680a9125159c484f04dd98ff33263a53fa439ee3167f806a3cf33e2598f046"),
        ("bpe:280", "c1b836c406a5721918bddc7b09c0bfccd57edc6674b15298612ba345ae2793cc"),
    ],
)
def test_a_corpus_keeps_the_hash_it_once_had(tokenizer, content_hash, files, tmp_path):
    done = built(tmp_path / "mine", {"domains": files, "tokenizer": tokenizer})
    assert done.corpus.content_hash == content_hash


def test_empty_files_are_left_out_and_counted(files, tmp_path):
    whole = built(tmp_path / "whole", files)
    for name, content in (("a.txt", b""), ("b.jsonl", b"\n"), ("c.json.gz", gzip.compress(b"[]"))):
        files["two"].append(tmp_path / name)
        files["two"][-1].write_bytes(content)
    shown = Shown()
    done = built(tmp_path / "more", {"domains": files, "shown": shown})
    assert (whole.empty_files, done.empty_files, done.faults, shown.faults) == (0, 3, 0, [])
    assert done.corpus.content_hash == whole.corpus.content_hash


def test_each_domain_is_read_in_its_own_way(files, tmp_path):
    whole = built(tmp_path / "whole", files)
    renamed = [tmp_path / "two.JSON"]
    renamed[0].write_text("".join(json.dumps({"content": t}) + "\n" for t in sentences(2, 120)))
    reading = Reading.of_domains(("one", "two"), ["text", "two=content"], split="\n")
    domains = {"one": files["one"], "two": renamed}
    done = built(tmp_path / "other", {"domains": domains, "reading": reading})
    assert done.corpus.content_hash == whole.corpus.content_hash


def learned(tmp_path, **settings) -> str:
    """Writes a tokenizer of 290 tokens with other settings; returns where."""
    spec = json.loads(BPE.train([text.encode() for text in sentences(1, 120)], 290).json)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | settings, ensure_ascii=False))
    return str(tmp_path / "tokenizer.json")


def test_a_setting_that_cuts_texts_off_changes_neither_tokens_nor_the_corpus(files, tmp_path):
    hashes = []
    off = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    for number, truncation in enumerate((None, off)):
        shown = Shown()
        options = {"domains": files, "tokenizer": learned(tmp_path, truncation=truncation)}
        corpus = built(tmp_path / str(number), options | {"shown": shown}).corpus
        hashes.append(corpus.content_hash)
        assert len(shown.words) == number
        assert all("tokenizer.json: truncation switched off" in word for word in shown.words)
    assert hashes[0] == hashes[1]


def test_a_document_that_its_tokens_do_not_give_back_is_named(files, tmp_path, monkeypatch):
    whole = BPE.decode
    monkeypatch.setattr(BPE, "decode", lambda self, t: whole(self, t).replace(b"1.77 ", b"1.77"))
    options = {"domains": files, "tokenizer": learned(tmp_path)}
    with pytest.raises(Refused) as refused:
        built(tmp_path / "mine", options)
    line = str(refused.value)
    assert "comes back changed at byte 4: '1.77 " in line and "\n" not in line
    assert f"(document 18 of {files['one'][2]})" in line
    assert not (tmp_path / "mine").exists()
    monkeypatch.undo()
    built(tmp_path / "mine", options)  # Of what was refused, nothing is taken for tokens.


def test_vocabularies_above_16_bits_are_stored_in_32(files, tmp_path):
    spec = json.loads(Path(learned(tmp_path)).read_text())
    vocabulary = {t: n + 151_643 * (n >= 256) for t, n in spec["model"]["vocab"].items()}
    spec["model"]["vocab"] = vocabulary
    narrow = built(tmp_path / "narrow", {"domains": files, "tokenizer": learned(tmp_path)}).corpus
    (tmp_path / "wide.json").write_text(json.dumps(spec))
    corpus = built(
        tmp_path / "wide", {"domains": files, "tokenizer": str(tmp_path / "wide.json")}
    ).corpus
    assert corpus.vocabulary == 151_643 + 290 and tokenizer_of(corpus).vocabulary == 151_933
    for domain in corpus.names:
        wide, small = corpus.domains[domain].train, narrow.domains[domain].train
        assert wide.dtype == np.uint32 and small.dtype == np.uint16 and wide.max() > 151_643
        np.testing.assert_array_equal(wide, small + 151_643 * (small >= 256).astype(np.uint32))
        assert documents(corpus, domain, "train") == documents(narrow, domain, "train")
    order = Order(corpus, (Piece(8, 16, Mixture.uniform(corpus.names)),), 0)
    assert Reader(corpus, order, 0, 4).read(2).max() > 151_643
    assert HeldOut(corpus, 16, 32).windows("one").max() > 151_643


def test_the_first_of_equal_rows_is_kept_in_whichever_array_it_is():
    rows = np.array([[1, 2], [1, 3], [1, 2], [0, 2], [1, 3], [2, 2]], np.uint64)
    kept = first_of_each([rows[:3], rows[3:3], rows[3:]])
    assert [k.tolist() for k in kept] == [[True, True, False], [], [True, False, True]]


def test_a_bpe_learns_from_training_documents_only_and_can_be_loaded(files, tmp_path):
    corpus = built(tmp_path / "mine", {"domains": files, "tokenizer": "bpe:290"}).corpus
    training = [text for d in corpus.names for text in documents(corpus, d, "train")]
    assert tokenizer_of(corpus).json == BPE.train(training, 290).json
    for number, place in enumerate((tmp_path / "mine" / "tokenizer.json", tmp_path / "mine")):
        options = {"domains": files, "tokenizer": str(place)}
        again = built(tmp_path / f"again{number}", options).corpus
        assert again.content_hash == corpus.content_hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "name: got 'a/b'"),
        ({"domains": {}}, "domain: got none"),
        ({"domains": {"one": []}}, "domain 'one': got no file"),
        ({"domains": {"a=b": [Path("x")]}}, "domain: got 'a=b'"),
        ({"held_out": 1.0}, "held_out_fraction: got 1.0"),
        ({"on_bad": "hide"}, "on_bad: got hide; accepted: skip or refuse"),
        ({"workers": 0}, "workers: got 0"),
        ({"tokenizer": "bpe:256"}, "tokenizer: got bpe:256; accepted: bpe:SIZE of 257"),
        ({"tokenizer": "words"}, "tokenizer: got 'words'; accepted: bytes, bpe:SIZE, a tok"),
        ({"held_out": 1e-9}, "domain 'one': got 120 training and 0 held-out documents"),
        ({"reading": Reading(longest=9), "on_bad": "skip"}, "domain 'one': got 0 training and 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message, files, tmp_path):
    wanted = {"name": "mine", "domains": files, "reading": Reading("body", "\n"), "workers": 1}
    with pytest.raises(Refused) as refused:
        build(tmp_path / "mine", **wanted | options)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "mine").exists()


def test_what_is_there_or_being_built_is_left_alone(files, tmp_path):
    class Second(Silent):
        def stage(self, name, total):
            with pytest.raises(Refused, match="another process builds"):
                built(tmp_path / "mine", files)

    built(tmp_path / "mine", {"domains": files, "shown": Second()})
    with pytest.raises(Refused, match="which is there; accepted: another name"):
        built(tmp_path / "mine", files)


def killed(work, task):
    os.kill(os.getpid(), 9)


def test_a_worker_that_is_killed_is_told_in_one_line(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "read_group", killed)
    with pytest.raises(Refused, match="a process that was killed.*the same command goes on"):
        built(tmp_path / "mine", {"domains": files, "workers": 2})
