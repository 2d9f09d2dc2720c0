"""What of a tokenizer.json would lose or add text: switched off with a word, or refused by name.

A byte-level BPE gives back every text when each byte has a token, when what cuts a text into
words drops nothing of it, and when nothing is done to it before or to its tokens after. Settings
without which the tokens are still the tokenizer's own (it cuts off, pads or draws at random) are
switched off; those that are a part of what its tokens mean are refused.
"""

import json
from collections.abc import Iterator, Mapping

from refused import Refused

LARGEST_VOCABULARY = 1 << 31  # Tokens are int32 where a model reads them.
# Steps before a model that cut a text and keep all of it, but for `behavior` `Removed`. Not among
# them: `UnicodeScripts`, which loses white space at the beginning.
CUTS = ("Split", "Digits", "Punctuation", "FixedLength")
BEHAVIORS = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
# The settings that are steps, and where a `Sequence` of them keeps its own.
STEPS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


def _characters() -> str:
    """The character that stands for each byte in a byte-level BPE's JSON, by GPT-2's rule."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return "".join(chr(0x100 + hidden.index(b) if b in hidden else b) for b in range(256))


CHARACTERS = _characters()
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def piece(token: str) -> bytes:
    """Returns the bytes of a token of the vocabulary; of a name for no bytes, the name's own."""
    try:
        return bytes(map(BYTES.__getitem__, token))
    except KeyError:
        return token.encode()


def lossless(text: str) -> tuple[str, tuple[str, ...]]:
    """Returns a tokenizer.json that gives back every text, and what was switched off for that.

    Where nothing had to be changed, the JSON is the one given, to the byte.

    Raises:
      Refused: a setting that loses or adds text, by its name; or what is no tokenizer.json.
    """
    try:
        spec = json.loads(text)
        model, added = spec["model"], spec.get("added_tokens") or []
        kind = model.get("type") or ("BPE" if "merges" in model else None)
        steps = {name: [*_flat(spec.get(name), inner)] for name, inner in STEPS.items()}
        vocabulary = dict(model["vocab"]) if kind == "BPE" else {}
        for token in added:
            token["content"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused("tokenizer", f"unreadable JSON ({error!r})", "a tokenizer.json") from None
    if kind != "BPE":
        raise Refused("tokenizer model.type", kind, "BPE, over bytes")
    _check_model(model, vocabulary)
    _check_added(added, vocabulary)
    _check_cuts(steps["pre_tokenizer"])
    if {step.get("type") for step in steps["decoder"]} != {"ByteLevel"}:
        raise Refused("tokenizer decoder", _types(steps["decoder"]), "ByteLevel")
    words = [*_switched_off(spec, steps["normalizer"], added)]
    if words:
        text = json.dumps(spec, ensure_ascii=False)
    return text, (*words, *_idle(steps["post_processor"], added))


def _check_model(model: Mapping, vocabulary: Mapping[str, int]) -> None:
    for setting in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(setting):
            accepted = "nothing: it stands for no byte of a text"
            raise Refused(f"tokenizer model.{setting}", repr(model[setting]), accepted)
    missing = [byte for byte, character in enumerate(CHARACTERS) if character not in vocabulary]
    if missing:
        some = ", ".join(map(hex, missing[:3]))
        accepted = "a token for each of the 256 bytes"
        got = f"no token for {len(missing)} bytes ({some}{', ...' * (len(missing) > 3)})"
        raise Refused("tokenizer model.vocab", got, accepted)
    names: dict[int, str] = {}
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < LARGEST_VOCABULARY:
            accepted = f"0 to {LARGEST_VOCABULARY - 1}"
            raise Refused("tokenizer model.vocab", f"{token!r} as number {number}", accepted)
        if number in names:
            got = f"{names[number]!r} and {token!r} both as number {number}"
            raise Refused("tokenizer model.vocab", got, "a number for each token")
        names[number] = token


def _check_added(added: list, vocabulary: Mapping[str, int]) -> None:
    for token in added:
        name = token["content"]
        if not name or (name in vocabulary and piece(name) != name.encode()):
            got = f"{name!r}, which stands for the bytes {piece(name)!r}"
            raise Refused("tokenizer added_tokens", got, "names that are no other token's")


def _check_cuts(steps: list[Mapping]) -> None:
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel":
            if step.get("add_prefix_space", True):
                field = "tokenizer pre_tokenizer.add_prefix_space"
                raise Refused(field, "true", "false: it adds a space to every document")
        elif kind not in CUTS:
            accepted = f"ByteLevel, after {', '.join(CUTS)} or none"
            raise Refused("tokenizer pre_tokenizer", f"{kind}, which changes text", accepted)
        elif kind in ("Split", "Punctuation") and step.get("behavior") not in BEHAVIORS:
            field = f"tokenizer pre_tokenizer.{kind}.behavior"
            raise Refused(field, step.get("behavior"), ", ".join(BEHAVIORS))
    if sum(step.get("type") == "ByteLevel" for step in steps) != 1:
        accepted = "ByteLevel once: without it, and twice, bytes are lost"
        raise Refused("tokenizer pre_tokenizer", _types(steps), accepted)


def _switched_off(spec: dict, normalizers: list, added: list) -> Iterator[str]:
    """Switches off what is not needed for a tokenizer's own tokens; yields a word on each."""
    for setting in ("truncation", "padding"):
        if spec.get(setting) is not None:
            spec[setting] = None
            yield f"{setting} switched off"
    if spec["model"].get("dropout"):
        yield f"model.dropout of {spec['model']['dropout']} switched off"
        spec["model"]["dropout"] = None
    for step in normalizers:
        if step.get("type") != "NFC":  # Most text is in this form, and its bytes have tokens.
            accepted = "none, or NFC, which is switched off"
            raise Refused("tokenizer normalizer", f"{step.get('type')}, which loses text", accepted)
    if normalizers:
        spec["normalizer"] = None
        yield "normalizer NFC switched off"
    for token in added:
        for side in ("lstrip", "rstrip"):
            if token.get(side) and not token.get("special"):
                token[side] = False
                yield f"added_tokens {token['content']!r}: {side} switched off"


def _idle(steps: list, added: list) -> Iterator[str]:
    """Yields a word on each setting that does nothing to documents."""
    if adding := [step for step in steps if step.get("type") != "ByteLevel"]:
        yield f"post_processor {_types(adding)} not applied: documents begin with the separator"
    if special := [t["content"] for t in added if t.get("special")]:
        more = f" and {len(special) - 1} more" if len(special) > 1 else ""
        yield f"special token {special[0]!r}{more} read as text where documents contain it"


def _flat(step: Mapping | None, inner: str) -> Iterator[Mapping]:
    """Yields the steps of a setting, sequences taken apart."""
    if step is None:
        return
    if step.get("type") != "Sequence":
        yield step
        return
    for part in step[inner]:
        yield from _flat(part, inner)


def _types(steps: list[Mapping]) -> str:
    return ", ".join(str(step.get("type")) for step in steps) or "nothing"
