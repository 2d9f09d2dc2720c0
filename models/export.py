"""Export of a model: packed codes and scales in one safetensors file, and back.

A quantised array PATH is two tensors, `PATH:codes` (packed, uint8) and `PATH:scale` (float32);
what is not quantised is float32 under its own path, buffers with `buffer:` before it. The file's
metadata says under `arrays` the bits, shape and scale axis of each quantised array.
"""

import json
import math
from os import PathLike

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from models.config import ModelConfig
from models.quantize import FLOOR, SUFFIX, Quantizer, scale, scale_of
from models.transformer import skeleton
from refused import Refused

CODES, BUFFER = ":codes", "buffer:"
TRITS = 3 ** np.arange(5)  # Five codes of three values in a byte: 3^5 = 243.


def pack(codes: np.ndarray, bits: float) -> np.ndarray:
    """Packs whole numbers from 0 to 2^bits − 1 (0 to 2 at 1.58 bits) into bytes, first code first.

    The last byte is filled up with zeros.
    """
    codes = codes.reshape(-1).astype(np.uint8)
    if bits == 1.58:
        digits = np.pad(codes, (0, -len(codes) % 5)).reshape(-1, 5)
        return (digits * TRITS).sum(axis=1).astype(np.uint8)
    spread = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(spread.astype(np.uint8), bitorder="little")


def unpack(packed: np.ndarray, bits: float, count: int) -> np.ndarray:
    """Returns the first `count` codes of packed bytes."""
    if bits == 1.58:
        return (packed[:, None] // TRITS % 3).reshape(-1)[:count]
    spread = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return (spread.astype(np.int64) << np.arange(bits)).sum(axis=1)


def encode(path: str, quantizer: Quantizer, weight: np.ndarray, scales: np.ndarray):
    """Returns an array's packed codes and the scales that belong to them.

    Raises:
      Refused: at 1 bit, weights of exactly zero, which only a whole row of them can stand for.
    """
    scales = np.maximum(scales, np.float32(FLOOR))
    codes = quantizer.codes(weight, scales)
    if quantizer.bits == 1:
        empty = ~weight.any(axis=quantizer.axis, keepdims=True)
        if ((codes == 0) & ~empty).any():
            count = int(((codes == 0) & ~empty).sum())
            raise Refused(f"export.{path}", f"{count} zeros", "weights above or below 0 at 1 bit")
        scales = np.where(empty, np.float32(0), scales)
        return pack(codes > 0, 1), scales
    return pack(codes - quantizer.lowest, quantizer.bits), scales


def decode(quantizer: Quantizer, shape, packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the quantised weights [shape] behind packed codes, float32."""
    codes = unpack(packed, quantizer.bits, math.prod(shape)).reshape(shape).astype(np.float32)
    codes = 2 * codes - 1 if quantizer.bits == 1 else codes + np.float32(quantizer.lowest)
    return quantizer.values(codes, scales).astype(np.float32)


def tensors(config: ModelConfig, params: dict, buffers: dict) -> dict[str, np.ndarray]:
    """Returns the tensors of a model's file; those of parameters take `count(config).bytes`."""
    quantizers = skeleton(config).quantizers
    params = {path: np.asarray(x, np.float32) for path, x in params.items()}
    found = {BUFFER + path: np.asarray(x, np.float32) for path, x in buffers.items()}
    for path, weight in params.items():
        if path in quantizers:
            scales = scale(path, quantizers[path], params)
            packed, scales = encode(path, quantizers[path], weight, scales)
            found |= {path + CODES: packed, scale_of(path): scales}
        elif not path.endswith(SUFFIX):
            found[path] = weight
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def export(
    file: PathLike | str, config: ModelConfig, params: dict, buffers: dict, about: dict[str, str]
) -> int:
    """Writes a model and returns the bytes of its tensors; `about` is added to the metadata.

    Raises:
      Refused: a model that its bits cannot hold (`encode`).
    """
    found = tensors(config, params, buffers)
    arrays = {
        path: {"bits": q.bits, "axis": q.axis, "shape": params[path].shape}
        for path, q in skeleton(config).quantizers.items()
    }
    save_file(found, file, metadata={"arrays": json.dumps(arrays)} | about)
    return sum(x.nbytes for x in found.values())


def load(file: PathLike | str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads a file of `export` into parameters and buffers of the model without quantisation.

    They are the rounded weights in float32, for `skeleton(config).merge` with `quantization` None.
    """
    with safe_open(file, framework="np") as opened:
        arrays = json.loads(opened.metadata()["arrays"])
        found = {name: opened.get_tensor(name) for name in opened.keys()}
    params = {
        name: x
        for name, x in found.items()
        if not name.startswith(BUFFER) and not name.endswith((CODES, SUFFIX))
    }
    for path, said in arrays.items():
        quantizer = Quantizer(said["bits"], said["axis"])
        codes, scales = found[path + CODES], found[scale_of(path)]
        params[path] = decode(quantizer, said["shape"], codes, scales)
    buffers = {n.removeprefix(BUFFER): x for n, x in found.items() if n.startswith(BUFFER)}
    return params, buffers
