"""What a model costs: parameters, bytes and FLOPs, by the rules of the README's accounting."""

import functools
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase

from models.config import PLACES, ModelConfig
from models.embeddings import Head
from models.experts import Experts
from models.norms import count_block, count_final
from models.parscale import count_streams
from models.parts import Count
from models.quantize import SUFFIX
from models.transformer import part, skeleton
from refused import Refused


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
    norm, layers = count_block(config), Count()
    for layer, times in Counter(map(config.layer, range(config.depth))).items():
        for place in PLACES[1:]:
            layers += times * (part(layer, place).count(layer) + norm)
    layers = count_streams(config, layers)
    return (
        part(config, "embedding").count(config) + layers + count_final(config) + Head.count(config)
    )


@functools.cache
def count(config: ModelConfig) -> Accounts:
    """Counts a model's parameters, bytes and FLOPs per token from its configuration alone."""
    parts = parts_count(config)
    forward = parts.flops + parts.flops_attention + parts.flops_head
    frozen = 0.0
    if config.frozen:
        leaves = skeleton(config).params.items()
        passes = lambda path: config.stream_count if path.startswith("layers.") else 1
        frozen = sum(
            2.0 * x.size * x.group.matmul * passes(path)
            for path, x in leaves
            if is_frozen(config, path)
        )
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


def leverage_flops(config: ModelConfig, head: bool = False) -> float:
    """Returns training FLOPs per token as efficiency leverage is published in (M of C = M·D).

    Three times the forward pass of Tian et al. 2025 (arXiv:2507.17702, appendix C): attention's
    projections with one FLOP per multiply-add, products between tokens without the causal half,
    feed-forwards with two FLOPs per multiply-add, no router, and the logits only with `head` (their
    eq. 16 has them, their M is called non-embedding). `count` has the exact number.

    Raises:
      Refused: a feed-forward that is neither SwiGLU nor experts.
    """
    width, forward = config.width, 2.0 * config.width * config.vocabulary if head else 0.0
    for layer in map(config.layer, range(config.depth)):
        chosen, inner = layer.feed_forward, layer.inner_width
        if isinstance(chosen, Experts):
            inner = (chosen.active + chosen.shared) * chosen.width_in(layer)
        elif chosen != "swiglu":
            raise Refused("model.feed_forward", chosen, "swiglu or experts")
        projections = width**2 * (2 + 2 * config.group_heads / config.heads)
        forward += projections + 4.0 * config.context * width + 6.0 * width * inner
    return 3 * forward


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
