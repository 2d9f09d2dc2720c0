"""Our parameters under the names and in the layout of transformers, both ways.

There a matrix is [out, in], here [in, out]; each expert has its own there, here they are stacked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import ml_dtypes
import numpy as np

from models import ModelConfig, skeleton
from refused import Refused

NORMS = {
    "attention_norm.gain": "input_layernorm",
    "feed_forward_norm.gain": "post_attention_layernorm",
}
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
HEAD_NORMS = {"query_norm.gain": "q_norm", "key_norm.gain": "k_norm"}
FEED_FORWARD = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
OUTER = {
    "embedding.table": "model.embed_tokens.weight",
    "final_norm.gain": "model.norm.weight",
    "head.kernel": "lm_head.weight",
}
# All of them are in float32 exactly.
FLOATS = tuple(map(np.dtype, ("float32", ml_dtypes.bfloat16, "float16")))
# Buffers that old files hold, of what follows from the configuration.
COMPUTED = ("rotary_emb.inv_freq",)


class Pair(NamedTuple):
    """One of their tensors, and which of our arrays it is; `expert` is its place in a stack."""

    theirs: str
    ours: str
    turned: bool = False
    expert: int | None = None


def pairs(config: ModelConfig) -> Iterator[Pair]:
    """Yields the tensors of a model of `families.CLASSES`."""
    for path, leaf in skeleton(replace(config, quantization=None)).params.items():
        if path in OUTER:
            yield Pair(OUTER[path], path, path == "head.kernel")
            continue
        _, number, inner = path.split(".", 2)
        layer, (place, _, rest) = f"model.layers.{number}.", inner.partition(".")
        if inner in NORMS:
            yield Pair(f"{layer}{NORMS[inner]}.weight", path)
        elif place == "attention" and rest in HEAD_NORMS:
            yield Pair(f"{layer}self_attn.{HEAD_NORMS[rest]}.weight", path)
        elif place == "attention":
            matrix, bias, _ = rest.partition("_bias")
            kind = "bias" if bias else "weight"
            yield Pair(f"{layer}self_attn.{ATTENTION[matrix]}.{kind}", path, not bias)
        elif rest == "router":
            yield Pair(f"{layer}mlp.gate.weight", path, True)
        elif len(leaf.shape) == 3:
            name = FEED_FORWARD[rest]
            for expert in range(leaf.shape[0]):
                yield Pair(f"{layer}mlp.experts.{expert}.{name}.weight", path, True, expert)
        else:
            yield Pair(f"{layer}mlp.{FEED_FORWARD[rest]}.weight", path, True)


def output_biases(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the biases that Llama and Qwen3 have where queries have one, and ours do not."""
    if not config.qkv_bias:
        return {}
    names = (f"model.layers.{i}.self_attn.o_proj.bias" for i in range(config.depth))
    return dict.fromkeys(names, (config.width,))


def theirs(config: ModelConfig, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a model's tensors, float32, under their names."""
    found = {}
    for pair in pairs(config):
        value = np.asarray(params[pair.ours], np.float32)
        value = value if pair.expert is None else value[pair.expert]
        found[pair.theirs] = np.ascontiguousarray(value.T if pair.turned else value)
    return found | {n: np.zeros(s, np.float32) for n, s in output_biases(config).items()}


def ours(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a model's parameters from their tensors, float32.

    Raises:
      Refused: a tensor that is missing, of another shape, or has no counterpart here.
    """
    leaves, found, left = skeleton(config).params, {}, dict(tensors)
    for pair in pairs(config):
        leaf = leaves[pair.ours]
        shape = leaf.shape if pair.expert is None else leaf.shape[1:]
        value = left.pop(pair.theirs, None)
        if value is None:
            raise Refused(f"tensor {pair.theirs}", "nothing", "all tensors of config.json's model")
        if value.dtype not in FLOATS:
            raise Refused(f"tensor {pair.theirs}", value.dtype, ", ".join(map(str, FLOATS)))
        value = value.astype(np.float32)
        value = value.T if pair.turned else value
        if value.shape != shape:
            raise Refused(f"tensor {pair.theirs}", f"shape {value.shape}", f"shape {shape}")
        if pair.expert is None:
            found[pair.ours] = np.ascontiguousarray(value)
        else:
            found.setdefault(pair.ours, np.empty(leaf.shape, np.float32))[pair.expert] = value
    check_left(config, left, tensors)
    return {path: found[path] for path in leaves}


def check_left(config: ModelConfig, left: dict, tensors: Mapping[str, np.ndarray]) -> None:
    """Refuses tensors that change logits and that no array of ours holds."""
    for name in [*left]:
        if name.endswith(COMPUTED):
            del left[name]
    if config.tied and (head := left.pop("lm_head.weight", None)) is not None:
        if not np.array_equal(head, tensors[OUTER["embedding.table"]]):
            accepted = "the token table, since config.json ties them"
            raise Refused("tensor lm_head.weight", "another matrix", accepted)
    for name in output_biases(config):
        if (bias := left.pop(name, None)) is not None and bias.any():
            raise Refused(f"tensor {name}", "values other than 0", "zeros: no bias there is ours")
    if left:
        got = f"{', '.join([*left][:3])}{', ...' * (len(left) > 3)}"
        raise Refused("tensors", got, "those of config.json's model alone")
