"""Tokenizer files: the library reads our tokens out of them, special names hide no text."""

import json

import pytest
import tokenizers

from data.tokenizer import BPE, TRIED
from refused import Refused
from scaling.interchange import tokens
from scaling.interchange.kept import BYTES

TEXTS = [text.replace("\0", "") for text in TRIED] + ["Ā and <|endoftext|> are text", "ab" * 300]


@pytest.fixture(scope="module")
def bpe():
    """A small BPE with merges across bytes of one character."""
    texts = [" ".join(TEXTS).encode() * 3, "der Baum, die Bäume ".encode() * 50]
    return BPE.train(texts, 300)


def opened(tokenizer):
    files, separator = tokens.written(tokenizer, 32)
    return tokenizers.Tokenizer.from_str(json.dumps(files["tokenizer.json"])), separator, files


def test_bytes_are_a_tokenizer_without_merges():
    made, separator, files = opened(BYTES)
    for text in TEXTS:
        assert made.encode(text).ids == [*text.encode()]
        assert made.decode(made.encode(text).ids) == text
    assert separator == 0 and made.get_vocab_size() == 256
    assert made.encode(tokens.SEPARATOR + "a").ids == [0, ord("a")]
    assert tokens.read(files["tokenizer.json"]) == BYTES


def test_a_bpe_gives_the_tokens_that_training_read(bpe):
    made, separator, files = opened(bpe.json)
    for text in TEXTS:
        (document,) = bpe.documents([text.encode()])
        assert made.encode(text).ids == document.tokens.tolist()
    assert separator == bpe.separator and made.get_vocab_size() == bpe.vocabulary
    assert BPE(tokens.read(files["tokenizer.json"])).json == json.dumps(
        json.loads(bpe.json) | {"added_tokens": []}, ensure_ascii=False
    )
    assert files["tokenizer.json"]["post_processor"] is None
    assert files["tokenizer_config.json"]["bos_token"] == tokens.SEPARATOR


def test_merges_with_byte_0_go_with_its_name(bpe):
    spec = json.loads(bpe.json)
    vocabulary = spec["model"]["vocab"]
    vocabulary |= {"ĀĀ": len(vocabulary), "aĀ": len(vocabulary) + 1}
    spec["model"]["merges"] += [["Ā", "Ā"], ["a", "Ā"]]
    made, _, _ = opened(json.dumps(spec))
    (document,) = bpe.documents([b"a text"])
    assert made.encode("a text").ids == document.tokens.tolist()


def test_two_spellings_of_a_tokenizer_mean_the_same(bpe):
    spec = json.loads(bpe.json)
    older = json.loads(bpe.json)
    older["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
    _, _, files = opened(bpe.json)
    for same in (json.dumps(older, indent=2), tokens.read(files["tokenizer.json"])):
        assert tokens.meaning(same) == tokens.meaning(bpe.json)
    spec["model"]["merges"] = spec["model"]["merges"][::-1]
    assert tokens.meaning(json.dumps(spec)) != tokens.meaning(bpe.json)


def test_another_token_of_the_separators_name_is_refused(bpe):
    spec = json.loads(bpe.json)
    spec["model"]["vocab"][tokens.SEPARATOR] = 300
    with pytest.raises(Refused, match="tokenizer: got a token named "):
        tokens.written(json.dumps(spec), 32)
    spec["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}
    with pytest.raises(Refused, match="tokenizer model.type: got Unigram; accepted: BPE"):
        tokens.written(json.dumps(spec), 32)
