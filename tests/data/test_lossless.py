"""Settings of a tokenizer.json: every text comes back, or one line names what would lose it."""

import copy
import json

import pytest

from data.lossless import BYTES, CHARACTERS, lossless, piece
from data.tokenizer import BPE
from refused import Refused

TEXT = (
    "The tree's the other, naïve <|end|> branches,\n   1234567 leaves\r\n\t\u0308 ﬁ x  <mask>  y "
    "<pad>\n<x> "
    "日本 🌳 <|end|><|end|> \u2028 ##un </w> Ġ <0x41>"
)
# Pre-tokenizers as published with Llama 3, GPT-4 (cl100k_base), StarCoder and GPT-2.
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def byte_level(**fields):
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return step | fields


def split(regex, **fields):
    return {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": False,
    } | fields


def sequence(*steps, inner="pretokenizers"):
    return {"type": "Sequence", inner: list(steps)}


def added(content, number=280, **fields):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False}
    return token | {"rstrip": False, "normalized": False, "special": True} | fields


@pytest.fixture(scope="module")
def spec() -> dict:
    """A learned tokenizer of 280 tokens, as JSON."""
    return json.loads(BPE.train([TEXT.replace("<", " ").encode() * 3], 280).json)


def changed(spec, model=None, **fields) -> str:
    """The JSON with other settings of the model or beside it; a value None leaves it out."""
    spec = copy.deepcopy(spec)
    spec["model"] = {k: v for k, v in (spec["model"] | (model or {})).items() if v is not ...}
    return json.dumps(spec | fields)


KEPT = {
    "as it was learned": ({}, []),
    "Llama 3": (
        {
            "pre_tokenizer": sequence(split(LLAMA), byte_level(use_regex=False)),
            "model": {"ignore_merges": True},
            "added_tokens": [added("<|end|>")],
            "post_processor": sequence(
                byte_level(),
                {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}],
                    "pair": [],
                    "special_tokens": {
                        "<|end|>": {"id": "<|end|>", "ids": [280], "tokens": ["<|end|>"]}
                    },
                },
                inner="processors",
            ),
        },
        ["post_processor TemplateProcessing not applied", "special token '<|end|>' read as text"],
    ),
    "GPT-4": (
        {"pre_tokenizer": sequence(split(GPT4), byte_level(use_regex=False))},
        [],
    ),
    "StarCoder": (
        {
            "pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level()),
            "added_tokens": [added("<|end|>"), added("<x>", 281)],
        },
        ["special token '<|end|>' and 1 more read as text"],
    ),
    "GPT-2": (
        {"model": {"type": ..., "continuing_subword_prefix": "", "end_of_word_suffix": ""}},
        [],
    ),
    "Qwen": ({"normalizer": {"type": "NFC"}}, ["normalizer NFC switched off"]),
    "two normalizers": (
        {
            "normalizer": sequence(
                {"type": "NFC"}, sequence(inner="normalizers"), inner="normalizers"
            )
        },
        ["normalizer NFC switched off"],
    ),
    "no normalizer": ({"normalizer": sequence(inner="normalizers")}, []),
    "truncation": (
        {
            "truncation": {
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        },
        ["truncation switched off"],
    ),
    "padding": (
        {
            "padding": {
                "strategy": {"Fixed": 900},
                "direction": "Left",
                "pad_to_multiple_of": 8,
                "pad_id": 280,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            },
            "added_tokens": [added("<pad>")],
        },
        ["padding switched off", "special token '<pad>' read as text"],
    ),
    "dropout": ({"model": {"dropout": 0.5}}, ["model.dropout of 0.5 switched off"]),
    "no dropout": ({"model": {"dropout": 0.0}}, []),
    "special lstrip": (
        {"added_tokens": [added("<mask>", lstrip=True, rstrip=True)]},
        ["special token '<mask>' read as text"],
    ),
    "lstrip and rstrip": (
        {"added_tokens": [added("<mask>", lstrip=True, rstrip=True, special=False)]},
        [
            "added_tokens '<mask>': lstrip switched off",
            "added_tokens '<mask>': rstrip switched off",
        ],
    ),
    "single_word and normalized": (
        {"added_tokens": [added("branches", special=False, single_word=True, normalized=True)]},
        [],
    ),
    "byte_fallback": (
        {"model": {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}},
        [],
    ),
    "every cut": (
        {
            "pre_tokenizer": sequence(
                split("e", behavior="MergedWithPrevious", invert=True),
                {"type": "Punctuation", "behavior": "Contiguous"},
                {"type": "FixedLength", "length": 3},
                byte_level(),
                split("x", behavior="MergedWithNext"),
            )
        },
        [],
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_every_text_comes_back_and_what_is_switched_off_is_said(name, spec):
    settings, words = KEPT[name]
    given = changed(spec, **settings)
    bpe = BPE(given).tried()
    (document,) = bpe.documents([TEXT.encode()])
    assert bpe.decode(document.tokens.tolist()) == TEXT.encode()
    assert len(bpe.words) == len(words)
    for said, word in zip(bpe.words, words, strict=True):
        assert said.startswith(word)
    off = any("switched off" in word for word in words)
    assert (bpe.json == given) != off
    assert lossless(bpe.json)[0] == bpe.json


def test_special_tokens_in_a_text_are_text_and_others_are_tokens(spec):
    both = [added("<|end|>"), added("<x>", 281, special=False), added("<y>", 282, normalized=True)]
    bpe = BPE(changed(spec, added_tokens=both)).tried()
    plain = BPE(json.dumps(spec))
    (one,), (other,) = (list(b.documents([b"a <|end|> <y>"])) for b in (bpe, plain))
    assert one.tokens.tolist() == other.tokens.tolist()
    (document,) = bpe.documents([b"a <x>"])
    assert document.tokens.tolist()[-1] == 281
    assert bpe.vocabulary == 283 and bpe.decode([280]) == b"<|end|>"


LOST = {
    "prefix": ({"model": {"continuing_subword_prefix": "##"}}, "model.continuing_subword_prefix"),
    "suffix": ({"model": {"end_of_word_suffix": "</w>"}}, "model.end_of_word_suffix: got '</w>'"),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, "normalizer: got Lowercase"),
    "compatibility": (
        {"normalizer": sequence({"type": "NFC"}, {"type": "NFKC"}, inner="normalizers")},
        "normalizer: got NFKC",
    ),
    "stripping": (
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        "normalizer: got Strip",
    ),
    "white space": (
        {"pre_tokenizer": sequence({"type": "Whitespace"}, byte_level())},
        "pre_tokenizer: got Whitespace, which changes text",
    ),
    "metaspace": (
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}},
        "pre_tokenizer: got Metaspace",
    ),
    "scripts": (
        {"pre_tokenizer": sequence({"type": "UnicodeScripts"}, byte_level())},
        "pre_tokenizer: got UnicodeScripts, which changes text",
    ),
    "removed": (
        {"pre_tokenizer": sequence(split(" ", behavior="Removed"), byte_level())},
        "pre_tokenizer.Split.behavior: got Removed",
    ),
    "punctuation": (
        {"pre_tokenizer": sequence({"type": "Punctuation", "behavior": "Removed"}, byte_level())},
        "pre_tokenizer.Punctuation.behavior: got Removed",
    ),
    "space": (
        {"pre_tokenizer": sequence(sequence(byte_level(add_prefix_space=True)))},
        "pre_tokenizer.add_prefix_space: got true",
    ),
    "bytes twice": (
        {"pre_tokenizer": sequence(byte_level(), byte_level())},
        "pre_tokenizer: got ByteLevel, ByteLevel; accepted: ByteLevel once",
    ),
    "no bytes": ({"pre_tokenizer": split(" ")}, "pre_tokenizer: got Split"),
    "no cuts": ({"pre_tokenizer": None}, "pre_tokenizer: got nothing"),
    "no regular expression": (
        {"pre_tokenizer": sequence(split("(a"), byte_level())},
        "a failure of the library",
    ),
    "decoder": ({"decoder": {"type": "WordPiece", "prefix": "##"}}, "decoder: got WordPiece"),
    "words": ({"model": {"type": "WordPiece"}}, "model.type: got WordPiece"),
    "no kind": ({"model": {"type": ..., "merges": ...}}, "model.type: got None"),
    "poor": ({"model": {"vocab": {"a": 0}, "merges": []}}, "model.vocab: got no token for 255 by"),
    "negative": ({"model": {"vocab": {"a": -1}}}, "model.vocab: got"),
    "merge of nothing": (
        {"model": {"merges": [["q", "zzz"]]}},
        "a failure of the library (Token `z",
    ),
    "added number": (
        {"added_tokens": [added("<x>", 70_000)]},
        "added_tokens: got '<x>' as number 70000; accepted: 280, the next one",
    ),
    "added again": (
        {"added_tokens": [added("a", 280)]},
        "added_tokens: got 'a' as number 280; accepted: 97, its number in model.vocab",
    ),
    "added byte": (
        {"added_tokens": [added("Ā", special=False)]},
        "added_tokens: got 'Ā', which stands for the bytes b'\\x00'",
    ),
    "no list": ({"added_tokens": [3]}, "unreadable JSON"),
    "no steps": (
        {"pre_tokenizer": {"type": "Sequence"}},
        "unreadable JSON (KeyError('pretokenizers'",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_would_lose_text_is_refused_by_its_name_in_one_line(name, spec, capfd):
    settings, message = LOST[name]
    with pytest.raises(Refused) as refused:
        BPE(changed(spec, **settings)).tried()
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).startswith("tokenizer")
    assert capfd.readouterr().err == ""


def test_two_tokens_of_one_number_or_one_beyond_a_models_numbers_are_refused(spec):
    vocabulary = spec["model"]["vocab"]
    for number in (vocabulary["a"], 1 << 31):
        text = changed(spec, model={"vocab": vocabulary | {"twice": number}})
        with pytest.raises(Refused, match=r"model.vocab: got .*twice.* number"):
            BPE(text)


def test_a_panic_of_the_library_is_one_line(spec, capfd, monkeypatch):
    # Its own check of this setting is what keeps it from the library.
    monkeypatch.setattr("data.lossless._check_model", lambda *_: None)
    with pytest.raises(Refused, match="a failure of the library .slice index") as refused:
        BPE(changed(spec, model={"continuing_subword_prefix": "##"})).tried()
    assert "\n" not in str(refused.value) and capfd.readouterr().err == ""


def test_pieces_are_bytes_and_names_of_none_are_themselves():
    assert [piece(c) for c in CHARACTERS] == [bytes([b]) for b in range(256)]
    assert len(BYTES) == 256 and piece("Ġa") == b" a" and piece("a b") == b"a b"
