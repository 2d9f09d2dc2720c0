"""Corpora on disk: written whole or not at all, and opened only when they are what they say."""

import os
import pickle
import shutil
import threading

import numpy as np
import pytest

from data import open_corpus, write_corpus
from data.corpus import text_document, windows
from refused import Refused
from tests.corpora import small_corpus


def folder(corpus):
    return next(iter(corpus.domains.values())).folder


@pytest.fixture
def copy(corpus, tmp_path):
    return shutil.copytree(folder(corpus), tmp_path / "copy")


def test_documents_begin_with_the_separator(corpus):
    stream = corpus.domains["low"].train
    assert stream[0] == corpus.separator
    assert (np.asarray(stream) == corpus.separator).sum() == corpus.domains["low"].counts("train")[
        "documents"
    ]


def test_windows_overlap_in_one_token_only():
    assert [windows(n, 4) for n in (0, 4, 5, 8, 9, 13)] == [0, 0, 1, 1, 2, 3]


def test_the_same_documents_give_the_same_hash(corpus, tmp_path):
    assert small_corpus(tmp_path).content_hash == corpus.content_hash
    assert small_corpus(tmp_path / "other", 54_000).content_hash != corpus.content_hash


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "counts"])
def test_a_corpus_that_is_not_what_it_says_is_refused(copy, damage):
    file = copy / "middle.train.bin"
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(bytes(content))
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "remove":
        file.unlink()
    else:
        record = (copy / "corpus.json").read_text()
        (copy / "corpus.json").write_text(record.replace('"vocabulary": 256', '"vocabulary": 255'))
    with pytest.raises(Refused) as refused:
        open_corpus(copy)
    assert "accepted" in str(refused.value) and "\n" not in str(refused.value)


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def documents():
        yield text_document(b"whole")
        raise KeyboardInterrupt

    domains = {"only": {"train": documents(), "held_out": []}}
    with pytest.raises(KeyboardInterrupt):
        write_corpus(
            tmp_path / "c",
            name="c",
            vocabulary=256,
            separator=0,
            tokenizer="bytes",
            domains=domains,
        )
    assert os.listdir(tmp_path) == []


def test_another_content_than_the_pinned_is_refused_and_leaves_nothing(tmp_path):
    domains = {"only": {"train": [text_document(b"text")], "held_out": []}}
    with pytest.raises(Refused, match="content hash"):
        write_corpus(
            tmp_path / "c",
            name="c",
            vocabulary=256,
            separator=0,
            tokenizer="bytes",
            domains=domains,
            expected_hash="0" * 64,
        )
    assert os.listdir(tmp_path) == []


def test_two_builders_at_once_both_end_with_the_corpus(tmp_path):
    found = []
    builders = [
        threading.Thread(target=lambda: found.append(small_corpus(tmp_path).content_hash))
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(found) == 2 and len(set(found)) == 1
    assert os.listdir(tmp_path) == ["small"]


def test_a_corpus_goes_through_pickle_without_its_tokens(corpus):
    assert corpus.domains["low"].train.size > 50_000
    text = pickle.dumps(corpus.domains["low"])
    assert len(text) < 5000
    np.testing.assert_array_equal(pickle.loads(text).train[:50], corpus.domains["low"].train[:50])


def test_text_with_the_separators_byte_is_refused():
    with pytest.raises(Refused, match="byte 0"):
        text_document(b"a\0b")
