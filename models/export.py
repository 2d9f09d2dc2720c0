"""A model as the tensors of a file: packed codes and scales, and back.

A quantised array PATH is two tensors, `PATH:codes` (packed, uint8) and `PATH:scale` (float32);
what is not quantised is float32 under its own path, buffers with `buffer:` before it.
"""

import functools
import math

import jax
import numpy as np

from models.config import ModelConfig
from models.quantize import FLOOR, SUFFIX, Quantizer, scale_of
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


@functools.partial(jax.jit, static_argnums=0)
def codes_of(quantizer: Quantizer, weight: jax.Array, scales: jax.Array) -> jax.Array:
    """Returns the codes that training reads.

    XLA divides by scales as training does; numpy rounds some weights between two levels otherwise.
    """
    return quantizer.codes(weight, scales)


@functools.partial(jax.jit, static_argnums=0)
def scales_of(quantizer: Quantizer, weight: jax.Array) -> jax.Array:
    """Returns the scales that training takes from the weights, where none are learned."""
    return quantizer.start(weight)


def encode(path: str, quantizer: Quantizer, weight: np.ndarray, scales: np.ndarray):
    """Returns an array's packed codes and the scales that belong to them.

    Raises:
      Refused: at 1 bit, weights of exactly zero, which only a whole row of them can stand for.
    """
    scales = np.maximum(scales, np.float32(FLOOR))
    codes = np.asarray(codes_of(quantizer, weight, scales))
    if quantizer.bits == 1:
        empty = ~weight.any(axis=quantizer.axis, keepdims=True)
        if ((codes == 0) & ~empty).any():
            count = int(((codes == 0) & ~empty).sum())
            raise Refused(f"export.{path}", f"{count} zeros", "weights above or below 0 at 1 bit")
        scales = np.where(empty, np.float32(0), scales)
        return pack(codes > 0, 1), scales
    return pack(codes - quantizer.lowest, quantizer.bits), scales


def decode(quantizer: Quantizer, shape, packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the quantised weights [shape] behind packed codes, float32, as training reads them.

    Raises:
      Refused: bytes or scales of another number than the shape needs.
    """
    if packed.nbytes + scales.nbytes != quantizer.payload(shape):
        got, need = packed.nbytes + scales.nbytes, quantizer.payload(shape)
        raise Refused("packed array", f"{got} bytes", f"{need} bytes for the shape {tuple(shape)}")
    codes = unpack(packed, quantizer.bits, math.prod(shape)).reshape(shape).astype(np.float32)
    codes = 2 * codes - 1 if quantizer.bits == 1 else codes + np.float32(quantizer.lowest)
    return quantizer.values(codes, scales).astype(np.float32)


def scales_in_force(path: str, quantizer: Quantizer, params: dict) -> np.ndarray:
    """Returns the scales of one array: the learned ones, or those of its weights."""
    if quantizer.learned:
        return np.asarray(params[scale_of(path)])
    return np.asarray(scales_of(quantizer, params[path]))


def whole_codes(path: str, quantizer: Quantizer, params: dict) -> tuple[np.ndarray, np.ndarray]:
    """Returns an array's codes, as floats, and the scales in force."""
    scales = np.maximum(scales_in_force(path, quantizer, params), np.float32(FLOOR))
    return np.asarray(codes_of(quantizer, np.asarray(params[path]), scales)), scales


def rounded(config: ModelConfig, params: dict) -> dict[str, np.ndarray]:
    """Returns the parameters as the forward pass reads them, without scales."""
    found = {path: np.asarray(x) for path, x in params.items() if not path.endswith(SUFFIX)}
    for path, quantizer in skeleton(config).quantizers.items():
        codes, scales = whole_codes(path, quantizer, params)
        found[path] = quantizer.values(codes, scales).astype(np.float32)
    return found


def tensors(config: ModelConfig, params: dict, buffers: dict) -> dict[str, np.ndarray]:
    """Returns the tensors of a model's file; those of parameters take `count(config).bytes`.

    Raises:
      Refused: a model that its bits cannot hold (`encode`).
    """
    quantizers = skeleton(config).quantizers
    params = {path: np.asarray(x, np.float32) for path, x in params.items()}
    found = {BUFFER + path: np.asarray(x, np.float32) for path, x in buffers.items()}
    for path, weight in params.items():
        if path in quantizers:
            scales = scales_in_force(path, quantizers[path], params)
            packed, scales = encode(path, quantizers[path], weight, scales)
            found |= {path + CODES: packed, scale_of(path): scales}
        elif not path.endswith(SUFFIX):
            found[path] = weight
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def values(config: ModelConfig, found: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Returns parameters and buffers of a model from the tensors of its file.

    Quantised arrays are the rounded weights, with their scales beside them where the model learns
    some: its forward pass reads the same bits as before, and so do its `tensors`.

    Raises:
      Refused: a tensor that is missing, of another shape, or that the model does not have.
    """
    bones, params, left = skeleton(config), {}, dict(found)

    def take(name: str, shape: tuple[int, ...] | None) -> np.ndarray:
        if name not in left:
            raise Refused("model file", f"no tensor {name}", "all tensors of its configuration")
        value = left.pop(name)
        if shape is not None and value.shape != shape:
            raise Refused(f"model file {name}", f"shape {value.shape}", f"shape {shape}")
        return value

    for path, leaf in bones.params.items():
        if path in bones.quantizers:
            quantizer = bones.quantizers[path]
            scales = take(scale_of(path), quantizer.scale_shape(leaf.shape))
            params[path] = decode(quantizer, leaf.shape, take(path + CODES, None), scales)
            if quantizer.learned:
                params[scale_of(path)] = scales
        elif not path.endswith(SUFFIX):
            params[path] = take(path, leaf.shape)
    buffers = {path: take(BUFFER + path, leaf.shape) for path, leaf in bones.buffers.items()}
    if left:
        raise Refused("model file", f"tensors {', '.join(left)}", "those of its configuration")
    return {path: params[path] for path in bones.params}, buffers
