"""The project's own file of a model: one safetensors file with the whole configuration.

The file's metadata has one key, `espalier`, a JSON object: `format`, `model` (every setting, those
at their defaults too), `tokenizer` and `run`. Tensors are those of `models.export`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models import ModelConfig
from models.export import tensors, values
from refused import Refused
from scaling.files import write_atomically
from scaling.interchange.kept import Kept
from scaling.specs import decoded

FORMAT = 2  # Raised when an old reader could misread a new file. 1 had no configuration.
KEY = "espalier"


def whole(value):
    """Turns a value of a configuration into JSON, with every field and each class's name."""
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value)]
        return [type(value).__name__, {name: whole(getattr(value, name)) for name in names}]
    if isinstance(value, (tuple, list)):
        return [whole(v) for v in value]
    return value


def config_of(said) -> ModelConfig:
    """Returns the configuration that `whole` wrote.

    Raises:
      Refused: a part or a setting that this version does not know, or no configuration at all.
    """
    try:
        found = decoded(ModelConfig, said)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, Refused):
            raise
        accepted = f"parts and settings of this version ({' '.join(str(error).split())[:120]})"
        raise Refused("model file's configuration", str(said)[:80], accepted) from None
    if not isinstance(found, ModelConfig):
        raise Refused("model file's configuration", str(said)[:80], "a ModelConfig")
    return found


def write(file: Path, kept: Kept, run: str = "") -> int:
    """Writes a model's file, whole or not at all; returns the bytes of its tensors.

    Scales that are taken from the weights anew at each step (`absmax`) are kept as learned ones:
    the rounded weights that the file holds would give others.

    Raises:
      Refused: a model that its bits cannot hold (`models.export.encode`).
    """
    found = tensors(kept.config, dict(kept.params), dict(kept.buffers))
    config = learned(kept.config)
    said = {"format": FORMAT, "model": whole(config), "tokenizer": kept.tokenizer, "run": run}
    metadata = {KEY: json.dumps(said, ensure_ascii=False, sort_keys=True)}
    write_atomically(Path(file), save(found, metadata))
    return sum(x.nbytes for x in found.values())


def learned(config: ModelConfig) -> ModelConfig:
    """Returns a configuration whose scales are learned, where it has any."""
    if config.quantization is None:
        return config
    quantization = dataclasses.replace(config.quantization, scales="learned")
    return dataclasses.replace(config, quantization=quantization)


def read(file: Path) -> Kept:
    """Reads a model's file; its forward pass reads the bits that the exported one's did.

    Raises:
      Refused: a file of another kind or format, or one that is damaged.
    """
    try:
        with safe_open(file, framework="np") as opened:
            metadata: Mapping = opened.metadata() or {}
            if KEY not in metadata:
                accepted = "a file of `espalier export` of this version, or a folder"
                raise Refused(f"model file {file}", "no configuration in it", accepted)
            said = json.loads(metadata[KEY])
            if said.get("format") != FORMAT:
                raise Refused(f"model file {file}", f"format {said.get('format')}", f"{FORMAT}")
            found = {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        accepted = f"a safetensors file ({' '.join(str(error).split())[:120]})"
        raise Refused("model file", file, accepted) from None
    config = config_of(said["model"])
    return Kept(config, *values(config, found), said["tokenizer"])
