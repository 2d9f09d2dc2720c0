"""Few bits in compressed-tensors' packed layout, which transformers opens: written and read.

A matrix NAME.weight [out, in] is three tensors: `NAME.weight_packed` (int32, each row's whole
numbers side by side from the lowest bit on, less the smallest number), `NAME.weight_scale` [out,
groups] and `NAME.weight_shape`; config.json says the bits (`quantization_config`). Layout of
compressed-tensors 0.15 and later, whose words have no unused bits.
"""

import re
from collections.abc import Mapping

import numpy as np

from models import ModelConfig, skeleton
from models.export import pack, unpack, whole_codes
from models.quantize import Quantizer
from refused import Refused
from scaling.interchange import weights

METHOD, LAYOUT = "compressed-tensors", "pack-quantized"
PARTS = ("weight_packed", "weight_scale", "weight_shape")


def whole(quantizer: Quantizer, codes: np.ndarray, scales: np.ndarray):
    """Returns whole numbers, the bits that hold them, and scales, whose product are the weights.

    From 3 bits on they are the codes. At 1 bit they are −1, 0 and 1 in 2 bits; at 1.58 bits the
    same, times the outer level; at 2 bits the odd numbers from −3 to 3 in 3 bits, times a quarter
    of the scale. Each product is rounded once from the same real number, and so is the same.
    """
    if quantizer.bits == 1:
        return codes, 2, scales
    if quantizer.bits == 1.58:
        return codes, 2, quantizer.values(np.float32(1), scales)
    if quantizer.bits == 2:
        return 2 * codes + 1, 3, scales / 4
    return codes, quantizer.bits, scales


def rows(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Packs whole numbers [out, in] into words [out, ⌈in·bits/32⌉] of int32."""
    words = -(-numbers.shape[1] * bits // 32)
    shifted = numbers.astype(np.int64) + (1 << (bits - 1))
    packed = np.stack([pack(row, bits) for row in shifted])
    return np.pad(packed, ((0, 0), (0, 4 * words - packed.shape[1]))).view("<i4")


def written(config: ModelConfig, params: Mapping, tensors: dict) -> dict | None:
    """Puts packed tensors in place of quantised matrices, and returns `quantization_config`.

    Token tables and stacked experts stay the rounded floats that they are in `tensors`:
    transformers unpacks linear layers alone. None where nothing is packed.
    """
    quantizers, groups = skeleton(config).quantizers, {}
    for pair in weights.pairs(config):
        if pair.ours not in quantizers or not pair.turned or pair.expert is not None:
            continue
        codes, scales = whole_codes(pair.ours, quantizers[pair.ours], dict(params))
        numbers, bits, scales = whole(quantizers[pair.ours], codes, scales)
        name = pair.theirs.removesuffix(".weight")
        values = (rows(numbers.T, bits), scales.T, np.array(numbers.T.shape, np.int64))
        del tensors[pair.theirs]
        for part, value in zip(PARTS, values, strict=True):
            tensors[f"{name}.{part}"] = np.ascontiguousarray(value)
        groups.setdefault(bits, []).append(name)
    if not groups:
        return None
    linear = (p.theirs.removesuffix(".weight") for p in weights.pairs(config) if p.turned)
    return {
        "quant_method": METHOD,
        "format": LAYOUT,
        "quantization_status": "compressed",
        "ignore": [name for name in linear if f"{name}.weight_packed" not in tensors],
        "config_groups": {f"bits_{bits}": group(bits, names) for bits, names in groups.items()},
    }


def group(bits: int, names: list[str]) -> dict:
    """Returns what config.json says of the matrices of one width."""
    how = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel"}
    return {"targets": names, "weights": how | {"dynamic": False}}


def read(said: Mapping, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a folder's tensors with packed ones as the floats that they stand for.

    Raises:
      Refused: another method or layout, zero points, or a matrix that no group speaks of.
    """
    settings = said.get("quantization_config")
    if not settings:
        return tensors
    how = settings.get("quant_method"), settings.get("format")
    if how != (METHOD, LAYOUT):
        got = " ".join(map(str, how))
        raise Refused("config.json quantization_config", got, f"{METHOD} {LAYOUT}, or none")
    found = {}
    for name, value in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "weight_packed":
            found[f"{module}.weight"] = unpacked(module, settings, tensors)
        elif part == "weight_zero_point":
            raise Refused(f"tensor {name}", "a zero point", "symmetric whole numbers")
        elif part not in PARTS:
            found[name] = value
    return found


def unpacked(module: str, settings: Mapping, tensors: Mapping) -> np.ndarray:
    """Returns one matrix [out, in], float32."""
    try:
        packed, scales, shape = (tensors[f"{module}.{part}"] for part in PARTS)
        bits = next(
            one["weights"]["num_bits"]
            for one in settings["config_groups"].values()
            if any(matches(target, module) for target in one["targets"])
        )
        out, inner = map(int, shape)
        numbers = np.stack([unpack(row.view(np.uint8), bits, inner) for row in packed])
        numbers = (numbers - (1 << (bits - 1))).astype(np.float32)
        scales = np.repeat(scales.astype(np.float32), inner // scales.shape[1], axis=1)
        return numbers.reshape(out, inner) * scales
    except (KeyError, StopIteration, ValueError, TypeError) as error:
        accepted = f"packed numbers, scales, a shape and a group of config.json ({error!r})"
        raise Refused(f"tensors {module}", "others", accepted) from None


def matches(target: str, module: str) -> bool:
    """Says whether a group's target means a linear layer: all, one by name, or by a pattern."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), module) is not None
    return target in ("Linear", module)
