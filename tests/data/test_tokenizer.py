"""Text survives its tokens, BPE learns from counts alone, and tokens never hide a separator."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from data import open_corpus, write_corpus
from data.lossless import CHARACTERS
from data.tokenizer import BPE, Bytes, tokenizer_of
from refused import Refused

TEXTS = [b"the cat sat on the mat\n    the end, the end\n" * 3, "naïve — Ünï\t∑😀 ".encode() * 4]
STRANGE = [b"", b" ", "\x01\x7f\r\n\t  \u2028 é e\u0301 \U0010ffff<|endoftext|>".encode()]


@pytest.fixture(scope="module")
def bpe():
    return BPE.train(TEXTS, 280)


@pytest.mark.parametrize("text", TEXTS + STRANGE)
def test_text_survives_its_tokens(bpe, text):
    for tokenizer in (bpe, Bytes()):
        (document,) = tokenizer.documents([text])
        assert document.bytes == len(text)
        assert tokenizer.decode(document.tokens.tolist()) == text
        assert tokenizer.separator not in document.tokens


def test_bytes_are_their_own_tokens_and_merges_follow_by_frequency(bpe):
    assert bpe.vocabulary == 280 and bpe.separator == 0
    assert [bpe.decode([token]) for token in range(256)] == [bytes([b]) for b in range(256)]
    # "he" and "the" are in 12 places, "at" in 9, of " the" 9 are left: 3 begin the text or a line.
    learned = [bpe.decode([token]) for token in (256, 257, 258, 259)]
    assert learned == [b"he", b"the", b"at", b" the"]
    (document,) = bpe.documents([b"the the"])
    assert document.tokens.tolist() == [257, 259]


def test_encoding_applies_the_merges_in_their_order(bpe):
    spec = json.loads(bpe.json)["model"]
    ranks = {tuple(merge): rank for rank, merge in enumerate(spec["merges"])}
    # One word, so that the rule that cuts words has no say.
    word = [CHARACTERS[byte] for byte in b"thenthemat"]
    while found := [(ranks[p], at) for at, p in enumerate(pairwise(word)) if p in ranks]:
        _, at = min(found)
        word[at : at + 2] = [word[at] + word[at + 1]]
    (document,) = bpe.documents([b"thenthemat"])
    assert document.tokens.tolist() == [spec["vocab"][token] for token in word]


def test_the_outcome_does_not_depend_on_threads_or_the_order_of_texts(bpe):
    code = (
        "import sys; from data.tokenizer import BPE; from tests.data.test_tokenizer import TEXTS;"
        "sys.stdout.buffer.write(BPE.train(TEXTS[::-1], 280).json.encode())"
    )
    for threads in ("1", "4"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads}
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, check=True
        )
        assert done.stdout.decode() == bpe.json


def test_the_json_is_the_librarys_own(bpe):
    library = tokenizers.Tokenizer.from_str(bpe.json)
    (document,) = bpe.documents(TEXTS[:1])
    assert library.encode(TEXTS[0].decode()).ids == document.tokens.tolist()
    assert library.decode(document.tokens.tolist()).encode() == TEXTS[0]
    assert sorted(CHARACTERS) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_a_loaded_bpe_with_other_numbers_and_added_tokens_keeps_text(bpe):
    spec = json.loads(bpe.json)
    size = len(spec["model"]["vocab"])
    spec["model"]["vocab"] = {t: size - 1 - i for t, i in spec["model"]["vocab"].items()}
    added = tokenizers.Tokenizer.from_str(json.dumps(spec))
    added.add_special_tokens(["<|endoftext|>"])
    loaded = BPE(added.to_str())
    assert loaded.vocabulary == 281 and loaded.separator == 279
    for text in TEXTS + STRANGE:
        (document,) = loaded.documents([text])
        assert loaded.decode(document.tokens.tolist()) == text
        assert loaded.separator not in document.tokens


def test_a_corpus_keeps_and_hashes_its_tokenizer(bpe, tmp_path):
    def write(folder, json_text):
        documents = {"train": bpe.documents(TEXTS), "held_out": bpe.documents(TEXTS[:1])}
        return write_corpus(
            folder,
            name="small",
            vocabulary=bpe.vocabulary,
            separator=bpe.separator,
            tokenizer="bpe",
            tokenizer_json=json_text,
            domains={"only": documents},
        )

    corpus = write(tmp_path / "one", bpe.json)
    domain = corpus.domains["only"]
    assert tokenizer_of(corpus) == bpe and domain.train.dtype == np.uint16
    text = b"".join(b"\0" + text for text in TEXTS)
    assert bpe.decode(domain.train.tolist()) == text and domain.train_bytes == len(text)
    assert domain.bytes_per_token == (len(TEXTS[0]) + 1) / domain.held_out_tokens
    assert write(tmp_path / "two", bpe.json).content_hash == corpus.content_hash
    assert write(tmp_path / "three", bpe.json + "\n").content_hash != corpus.content_hash
    (tmp_path / "one" / "tokenizer.json").write_text(bpe.json + " ")
    with pytest.raises(Refused, match="content hash"):
        open_corpus(tmp_path / "one")
    (tmp_path / "one" / "tokenizer.json").unlink()
    with pytest.raises(Refused, match=r"no tokenizer\.json"):
        open_corpus(tmp_path / "one")


def test_bits_per_byte_compare_tokenizers_where_losses_per_token_do_not(bpe):
    # One and the same model of text, which gives every byte its frequency, in both kinds of token.
    text = TEXTS[0] * 8
    frequency = np.bincount(np.frombuffer(text, np.uint8), minlength=256) / len(text)
    per_token, per_byte = [], []
    for tokenizer in (Bytes(), bpe):
        (document,) = tokenizer.documents([text])
        pieces = [tokenizer.decode([token]) for token in document.tokens.tolist()]
        nats = [-sum(np.log(frequency[byte]) for byte in piece) for piece in pieces]
        bytes_per_token = document.bytes / len(document.tokens)
        per_token.append(np.mean(nats))
        per_byte.append(np.mean(nats) / np.log(2) / bytes_per_token)
    assert per_token[1] > 1.5 * per_token[0]
    assert per_byte[1] == pytest.approx(per_byte[0], rel=1e-12)


@pytest.mark.parametrize("vocabulary", [0, 256, 65_537, 4096])
def test_vocabularies_that_cannot_be_trained_are_refused(vocabulary):
    with pytest.raises(Refused, match="vocabulary"):
        BPE.train(TEXTS, vocabulary)


@pytest.mark.parametrize("text", [b"a\0b", b"\xff"])
def test_what_is_no_text_is_refused(bpe, text):
    with pytest.raises(Refused, match="document"):
        list(bpe.documents([text]))
    with pytest.raises(Refused, match="document"):
        BPE.train([text], 280)


def test_a_text_that_its_tokens_do_not_give_back_is_refused_after_those_before(bpe, monkeypatch):
    whole, found = BPE.decode, []
    monkeypatch.setattr(BPE, "decode", lambda self, t: whole(self, t).replace(b"\xcc\x81", b""))
    with pytest.raises(Refused, match="comes back changed at byte 15") as refused:
        found.extend(bpe.documents([TEXTS[0]]))
        for document in bpe.documents(TEXTS + STRANGE):
            found.append(document)
    assert len(found) == 1 + len(TEXTS) + 2 and "\n" not in str(refused.value)
    # The same of a tokenizer that is tried before it is used.
    monkeypatch.setattr(BPE, "decode", lambda self, t: whole(self, t).replace(b"  two", b" two"))
    with pytest.raises(Refused, match="comes back changed at byte 1: .*  two"):
        BPE(bpe.json).tried()


def test_tokenizers_that_lose_text_are_refused(bpe):
    def changed(**fields):
        return json.dumps(json.loads(bpe.json) | fields)

    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    poor = json.loads(bpe.json)["model"] | {"vocab": {"a": 0}, "merges": []}
    for text in (
        "no json",
        "[]",
        changed(normalizer={"type": "Lowercase"}),
        changed(pre_tokenizer=spaced),
        changed(pre_tokenizer=None),
        changed(model=poor),
    ):
        with pytest.raises(Refused, match="tokenizer"):
            BPE(text)
