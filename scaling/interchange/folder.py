"""Folders that transformers opens: config.json, safetensors, tokenizer files, both ways."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models import ModelConfig, skeleton
from models.export import rounded
from refused import Refused
from scaling.files import sync_tree
from scaling.interchange import families, native, packed, tokens, weights
from scaling.interchange.kept import Kept

LARGEST = 5_000_000_000  # Bytes of one file's tensors, as transformers cuts them by default.
OWN = "espalier.json"  # Our settings beside theirs; what it says counts while the two agree.
INDEX = "model.safetensors.index.json"
# What config.json must say alike for `espalier.json` to count.
HELD = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"),
    *("tie_word_embeddings", "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
    *("norm_topk_prob", "mlp_only_layers", "max_position_embeddings"),
)


def write(
    folder: Path, kept: Kept, run: str = "", largest: int = LARGEST, pack: bool = True
) -> tuple[str, ...]:
    """Writes a folder, whole or not at all, and returns notes for a person.

    Quantised matrices are packed to their bits (`packed`), or with `pack` False the floats that
    training reads; token tables and stacked experts are those floats in either case.

    Raises:
      Refused: a folder that is there, or a model or tokenizer that transformers has no like of.
    """
    folder = Path(folder)
    config, notes = kept.config, [*kept.notes]
    plain = replace(config, quantization=None)
    families.family(config)
    files, separator = {}, None
    if kept.tokenizer is None:
        notes.append("no tokenizer: the model learned from symbols, not from text")
    else:
        files, separator = tokens.written(kept.tokenizer, config.context)
    said = families.written(config, separator)
    found = weights.theirs(plain, rounded(config, dict(kept.params)))
    if pack and (settings := packed.written(config, kept.params, found)) is not None:
        said["quantization_config"] = settings
    if floats := sorted(unpacked(config, found)):
        notes.append(f"as the rounded floats that training reads: {', '.join(floats)}")
    files |= {"config.json": said, "generation_config.json": generation(separator)}
    files[OWN] = {"format": native.FORMAT, "model": native.whole(config), "run": run}
    files[OWN]["rounded"] = floats
    if config.separator is not None:
        notes.append("attention stays within a document here, there it sees all before a token")
    with appearing(folder) as place:
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (place / name).write_text(text, encoding="utf-8")
        save(place, found, largest)
    return tuple(notes)


def unpacked(config: ModelConfig, found: Mapping) -> set[str]:
    """Returns the quantised arrays that are floats among a folder's tensors."""
    there = {pair.ours for pair in weights.pairs(config) if pair.theirs in found}
    return there & skeleton(config).quantizers.keys()


def generation(separator: int | None) -> dict:
    """Returns generation_config.json: a text begins and ends with the separator."""
    ids = {f"{kind}_token_id": separator for kind in ("bos", "eos", "pad")}
    return {"do_sample": False} | (ids if separator is not None else {})


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Gives a place to write to that becomes the folder in the end."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused("--out", folder, "a folder that is not there yet, or is empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        place.chmod(0o755)
        yield place
        sync_tree(place)
        os.rename(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def save(folder: Path, found: Mapping[str, np.ndarray], largest: int) -> None:
    """Writes tensors to one file, or with an index to several of at most `largest` bytes."""
    groups, size = [{}], 0
    for name, value in found.items():
        if size + value.nbytes > largest and groups[-1]:
            groups.append({})
            size = 0
        groups[-1][name], size = value, size + value.nbytes
    if len(groups) == 1:
        save_one(groups[0], folder / "model.safetensors")
        return
    where = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_one(group, folder / file)
        where |= dict.fromkeys(group, file)
    total = {"total_size": sum(x.nbytes for x in found.values())}
    index = json.dumps({"metadata": total, "weight_map": where}, indent=2)
    (folder / INDEX).write_text(index + "\n", encoding="utf-8")


def save_one(found: Mapping[str, np.ndarray], file: Path) -> None:
    """Writes one file of tensors, readable by all: the library makes it its owner's alone."""
    save_file(dict(found), file, {"format": "pt"})
    file.chmod(0o644)


def read(folder: Path) -> Kept:
    """Reads a folder of one of `families.CLASSES`.

    Raises:
      Refused: another architecture or setting, a missing or damaged file, or a tensor too many.
    """
    folder = Path(folder)
    said = record(folder / "config.json")
    config, notes = families.read(said)
    config = own_settings(folder, said, config)
    params = weights.ours(config, packed.read(said, loaded(folder)))
    tokenizer = None
    if (folder / "tokenizer.json").exists():
        tokenizer = tokens.read(record(folder / "tokenizer.json"))
    else:
        notes = (*notes, "no tokenizer.json: texts cannot be read with this model's tokenizer")
    buffers = skeleton(config).initialise(0, paths=())[1]
    return Kept(config, params, buffers, tokenizer, notes)


def record(file: Path) -> dict:
    """Returns a JSON object; `Refused` where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise Refused("model folder", file, f"a readable {file.name} ({said})") from None
    if not isinstance(found, dict):
        raise Refused("model folder", file, f"a {file.name} with an object")
    return found


def own_settings(folder: Path, said: Mapping, config: ModelConfig) -> ModelConfig:
    """Returns the configuration that was exported, where the folder has it and it still holds."""
    if not (folder / OWN).exists():
        return config
    own = record(folder / OWN)
    if own.get("format") != native.FORMAT:
        return config
    kept = replace(native.config_of(own.get("model")), quantization=None)
    ids = families.written(kept, said.get("bos_token_id"))
    same = all(said.get(name, value) == value for name, value in ids.items() if name in HELD)
    return kept if same else config


def loaded(folder: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a folder's file, or of the files that its index lists."""
    whole = folder / "model.safetensors"
    if (folder / INDEX).exists():
        where = record(folder / INDEX).get("weight_map") or {}
        names = sorted(set(where.values()))
        found = {}
        for name in names:
            if Path(name).name != name:
                raise Refused(f"{INDEX}", name, "names of files in the folder")
            found |= tensors(folder / name)
        if missing := sorted(where.keys() - found.keys()):
            raise Refused(f"tensor {missing[0]}", "nothing", "all tensors of the index")
        return found
    if not whole.exists():
        accepted = f"model.safetensors, or several with {INDEX}"
        raise Refused("model folder", f"{folder} without safetensors", accepted)
    return tensors(whole)


def tensors(file: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of one file, as they are; `Refused` where it is damaged."""
    try:
        with safe_open(file, framework="np") as opened:  # bfloat16 too: JAX knows it to numpy.
            return {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise Refused("model folder", file, f"a readable safetensors file ({said})") from None
