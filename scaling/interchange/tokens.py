"""Tokenizer files of transformers: ours written so that it gives our tokens, theirs read."""

import json
from collections.abc import Mapping

from data.lossless import CHARACTERS, lossless
from refused import Refused
from scaling.interchange.kept import BYTES

# What the separator is called. Its own token, of byte 0, is named "Ā", which as a special token
# would be found in texts that contain that letter.
SEPARATOR = "<|separator|>"
PLAIN = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def spec_of(tokenizer: str) -> dict:
    """Returns the tokenizer.json of a tokenizer; of bytes, a BPE without merges.

    Bytes are cut into no words (`use_regex`): there is nothing to merge.
    """
    if tokenizer != BYTES:
        return json.loads(tokenizer)
    model = {"type": "BPE", "vocab": {c: i for i, c in enumerate(CHARACTERS)}, "merges": []}
    cut = PLAIN | {"use_regex": False}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": cut, "model": model} | {
        "decoder": PLAIN | {"use_regex": True}
    }


def sides(merge: str | list[str]) -> list[str]:
    """Returns the two tokens of a merge, which older files keep as one text."""
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def meaning(tokenizer: str) -> dict:
    """Returns what of a tokenizer.json says which tokens a text has, however it is written.

    Merges with byte 0 are left out, since no text has it.
    """
    spec = json.loads(tokenizer)
    merges = [m for m in map(sides, spec["model"]["merges"]) if CHARACTERS[0] not in "".join(m)]
    said = {"vocab": spec["model"]["vocab"], "merges": merges}
    rest = ("ignore_merges", "byte_fallback", "unk_token")
    said |= {name: spec["model"].get(name) or None for name in rest}
    added = {t["id"]: t["content"] for t in spec.get("added_tokens") or []}
    return said | {"cut": spec.get("pre_tokenizer"), "added": added}


def written(tokenizer: str, context: int) -> tuple[dict[str, dict], int]:
    """Returns the tokenizer's files by name, and the separator's token.

    There is no post-processor: nothing is added to a text, and what begins with a separator is
    the caller's choice, as it is here. The separator takes the place of byte 0, which no text of
    a corpus contains; merges with that byte go with it.

    Raises:
      Refused: a tokenizer that loses text (`data.lossless`), or has another token of the
        separator's name.
    """
    if tokenizer != BYTES:
        tokenizer, _ = lossless(tokenizer)
    spec = spec_of(tokenizer)
    model, null = spec["model"], CHARACTERS[0]
    if SEPARATOR in model["vocab"]:
        raise Refused("tokenizer", f"a token named {SEPARATOR}", "one without it")
    number = model["vocab"][null]
    model["vocab"] = {SEPARATOR if t == null else t: i for t, i in model["vocab"].items()}
    model["merges"] = [m for m in model["merges"] if null not in "".join(sides(m))]
    mark = {"id": number, "content": SEPARATOR, "special": True, "normalized": False}
    mark |= {"single_word": False, "lstrip": False, "rstrip": False}
    spec["added_tokens"] = sorted([*(spec.get("added_tokens") or []), mark], key=lambda t: t["id"])
    spec |= {"normalizer": None, "post_processor": None, "truncation": None, "padding": None}
    names = {f"{kind}_token": SEPARATOR for kind in ("bos", "eos", "pad")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    settings |= {"clean_up_tokenization_spaces": False, "add_bos_token": False} | names
    files = {"tokenizer.json": spec, "tokenizer_config.json": settings}
    return files | {"special_tokens_map.json": names}, number


def read(spec: Mapping) -> str:
    """Returns the tokenizer of a tokenizer.json; one that `written` made as it was before."""
    spec = json.loads(json.dumps(spec))
    model = spec.get("model") or {}
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict) and SEPARATOR in vocabulary:
        model["vocab"] = {CHARACTERS[0] if t == SEPARATOR else t: i for t, i in vocabulary.items()}
        others = [t for t in spec.get("added_tokens") or [] if t.get("content") != SEPARATOR]
        spec["added_tokens"] = others
        if [*model["vocab"]] == [*CHARACTERS] and not model.get("merges") and not others:
            return BYTES
    return json.dumps(spec, ensure_ascii=False)
