"""What a model costs: parameters, bytes and FLOPs, by the rules of the README's accounting."""

import functools
from dataclasses import dataclass
from fnmatch import fnmatchcase

from models.config import PLACES, ModelConfig
from models.embeddings import Head
from models.parts import Count
from models.quantize import SUFFIX
from models.transformer import part, skeleton


@dataclass(frozen=True)
class Accounts:
    """A model's size and cost; parameters are counts, FLOPs are per token.

    `params_non_embedding` leaves out token tables and head; `params_active` are those that one
    token reads. `flops_forward` counts every matrix product (a multiply-add is 2), attention with
    its causal half, and the head; `flops_forward_body` leaves out head and attention.
    `flops_train` is forward plus backward: twice the forward again, less the weight gradients of
    frozen matrices. `flops_train_body` is the same for the body. `bytes` is the size of the
    parameters in float32, and of quantised ones as packed codes with their scales. Scales are not
    counted as parameters, and rounding weights, which costs no token anything, not as FLOPs.
    """

    params_total: int
    params_non_embedding: int
    params_active: int
    bytes: int
    flops_forward: float
    flops_forward_body: float
    flops_train: float
    flops_train_body: float


def parts_count(config: ModelConfig) -> Count:
    """Sums the counts that the parts declare."""
    norm = Count.vector(config.width)
    layers = Count()
    for layer in (config.layer(index) for index in range(config.depth)):
        for place in PLACES[1:]:
            layers += part(layer, place).count(layer) + norm
    return part(config, "embedding").count(config) + layers + norm + Head.count(config)


@functools.cache
def count(config: ModelConfig) -> Accounts:
    """Counts a model's parameters, bytes and FLOPs per token from its configuration alone."""
    parts = parts_count(config)
    forward = parts.flops + parts.flops_attention + parts.flops_head
    frozen = 0.0
    if config.frozen:
        leaves = skeleton(config).params.items()
        frozen = sum(2.0 * x.size for p, x in leaves if x.group.matmul and is_frozen(config, p))
    return Accounts(
        params_total=parts.params,
        params_non_embedding=parts.params - parts.embedding,
        params_active=parts.active,
        bytes=packed_bytes(config) if config.quantization else 4 * parts.params,
        flops_forward=forward,
        flops_forward_body=parts.flops,
        flops_train=3 * forward - frozen,
        flops_train_body=3 * parts.flops - frozen,
    )


def packed_bytes(config: ModelConfig) -> int:
    """Returns the bytes of a quantised model's parameters: packed codes, scales, float32 rest."""
    bones = skeleton(config)
    return sum(
        bones.quantizers[path].payload(leaf.shape) if path in bones.quantizers else 4 * leaf.size
        for path, leaf in bones.params.items()
        if not path.endswith(SUFFIX)
    )


def is_frozen(config: ModelConfig, path: str) -> bool:
    """Says whether a parameter's path matches one of the configuration's frozen patterns."""
    return any(fnmatchcase(path, pattern) for pattern in config.frozen)
