"""Shards: found again by their content, and read back in spans as they were written."""

import os

import numpy as np
import pytest

from data.shards import encode, group_key, grouped, place_of, read_group, shard_documents, spans
from data.sources import Reading
from data.tokenizer import BPE, Bytes
from tests.data.test_build import sentences


def test_a_changed_file_or_option_is_read_again(tmp_path):
    group = (tmp_path / "a.txt", tmp_path / "b.jsonl")
    for file in group:
        file.write_text("\n".join(sentences(1, 3)))
    keys = {group_key(Reading("body"), group), group_key(Reading("text"), group)}
    keys |= {group_key(Reading("body", longest=99), group), group_key(Reading(split="\n"), group)}
    stat = group[0].stat()
    content = bytearray(group[0].read_bytes())
    content[9] ^= 1
    group[0].write_bytes(bytes(content))
    os.utime(group[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    keys.add(group_key(Reading("body"), group))
    assert len(keys | {group_key(Reading("body", format="text"), group)}) == 6


def test_spans_hold_every_document_once(monkeypatch):
    monkeypatch.setattr("data.shards.GROUP_BYTES", 100)
    sizes = np.array([40, 40, 40, 250, 1, 1, 60, 99], np.uint64)
    index = np.stack([sizes, sizes, sizes], axis=1)
    found = spans(index)
    assert [d for first, last in found for d in range(first, last)] == list(range(8))
    assert len(found) > 2 and all(sizes[a + 1 : b].sum() < 100 for a, b in found)
    assert spans(index[:0]) == [] and spans(index[:1]) == [(0, 1)]


@pytest.mark.parametrize("group_bytes", [500, 10**6])
def test_documents_come_back_as_bytes_and_as_tokens(group_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("data.shards.GROUP_BYTES", group_bytes)
    wanted = [text.encode() for text in sentences(5, 40)]
    (tmp_path / "t.txt").write_bytes(b"\n".join(wanted))
    name, faults = read_group(tmp_path, (Reading(split="\n"), [tmp_path / "t.txt"]))
    shard, bpe = tmp_path / name, BPE.train(wanted, 300)
    index = np.load(shard / "index.npy")
    assert faults == [] and index.shape == (40, 3)
    for span in spans(index):
        encode(bpe.json, (shard, *span))
    for chosen in (np.ones(40, bool), np.arange(40) % 7 == 3, np.zeros(40, bool)):
        texts = [text for text, there in zip(wanted, chosen, strict=True) if there]
        for tokenizer in (Bytes(), bpe):
            found = list(shard_documents(shard, index, chosen, tokenizer))
            assert [tokenizer.decode(d.tokens.tolist()) for d in found] == texts
            assert [d.bytes for d in found] == [len(text) for text in texts]


def test_a_document_is_found_in_the_file_it_came_from(tmp_path):
    counts = {"a.txt": 2, "empty.txt": 0, "b.txt": 1, "c.txt": 3}
    for number, (name, count) in enumerate(counts.items()):
        (tmp_path / name).write_text("\n".join(sentences(number, count)))
    name, _ = read_group(tmp_path, (Reading(split="\n"), [tmp_path / name for name in counts]))
    places = [place_of(tmp_path / name, document) for document in range(6)]
    assert places == [(0, 1), (0, 2), (2, 1), (3, 1), (3, 2), (3, 3)]


def test_a_span_with_a_text_that_is_lost_is_not_written(tmp_path, monkeypatch):
    wanted = [text.encode() for text in sentences(5, 90)]
    (tmp_path / "t.txt").write_bytes(b"\n".join(wanted))
    name, _ = read_group(tmp_path, (Reading(split="\n"), [tmp_path / "t.txt"]))
    bpe, whole = BPE.train(wanted, 300), BPE.decode
    monkeypatch.setattr(BPE, "decode", lambda self, t: whole(self, t).replace(b"5.70", b"5.7"))
    document, how = encode(bpe.json, (tmp_path / name, 10, 90))
    assert document == 70 and "comes back changed at byte 3: '5.70 " in how
    assert list((tmp_path / name).glob("tokens-*")) == []
    monkeypatch.undo()
    assert encode(bpe.json, (tmp_path / name, 10, 90)) is None
    assert len(list((tmp_path / name).glob("tokens-*"))) == 1


def test_files_are_grouped_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("data.shards.GROUP_BYTES", 10)
    made = []
    for number, size in enumerate((4, 4, 4, 30, 1, 0, 9)):
        made.append(tmp_path / str(number))
        made[-1].write_bytes(b"x" * size)
    groups = [[int(file.name) for file in group] for group in grouped(made)]
    assert groups == [[0, 1], [2], [3], [4, 5, 6]]
