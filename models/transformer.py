"""The one decoder-only Transformer: parts in, loss out."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from models import stacks
from models.attention import Attention, documents_of, visible
from models.cache import Past
from models.codes import CodeEmbedding
from models.config import ModelConfig
from models.embeddings import Head, LearnedEmbedding, cross_entropy, logits
from models.feed_forward import GELU, SwiGLU
from models.moe import MixtureOfExperts
from models.norms import block_norm, final_norm
from models.parscale import Aggregation, Prefix, per_stream
from models.parts import Buffer, Group, Init, constant
from models.placement import along_batch
from models.quantize import SUFFIX, Quantizer, quantized, scale_of, scales
from models.scans import looped, over_stacks, scanned
from models.stem import StemFeedForward
from models.tokenformer import ParameterAttention, ParameterFeedForward
from refused import Refused, listed

# The part that fills each place of the Transformer. A new one is a class with `__init__(config)`,
# `__call__` and `count(config)`, and one entry here; if it has choices of its own, a `Settings`.
PARTS = {
    "embedding": {"learned": LearnedEmbedding, "codes": CodeEmbedding},
    "attention": {"softmax": Attention, "parameter_tokens": ParameterAttention},
    "feed_forward": {
        "swiglu": SwiGLU,
        "gelu": GELU,
        "parameter_tokens": ParameterFeedForward,
        "stem": StemFeedForward,
        "experts": MixtureOfExperts,
    },
}

# Up to this many layers a Python loop compiles as fast as a scan and runs 10–50 % faster on CPU;
# beyond it compile time grows with depth, and only a scan lets recomputation save memory. On TPUs a
# loop of ten layers compiles in 158 CPU-s instead of 73, within half of the memory, and by the
# roofline a step takes 56 ms instead of 60 (120M on v5e:8x8); one of twelve (width 2,048) in 169.
LOOPED_LAYERS = 12


def part(config: ModelConfig, place: str):
    """Returns the class that fills a place of the Transformer."""
    chosen = getattr(config, place)
    name = chosen if isinstance(chosen, str) else chosen.part
    if name not in PARTS[place]:
        raise Refused(f"model.{place}", name, f"one of {listed(PARTS[place], name)}")
    return PARTS[place][name]


class Inputs(NamedTuple):
    """What every part may read besides the residual stream."""

    tokens: Array  # [B, L] token ids.
    mask: Array  # [1 or B, 1, L, S], true where the query (L) may read the key (S = L, or cached).
    prefix: Prefix | None = None  # The layer's own, where the model runs several streams.
    past: Past | None = None  # Keys and values of the tokens before these, where some are kept.
    documents: Array | None = None  # [B, L] a token's document, where attention stays within it.


@dataclass(frozen=True)
class Labels:
    """Which layers, or stacks of them, a model's blocks stand for (`models.stacks`)."""

    all: tuple[str, ...]

    @property
    def stacked(self) -> bool:
        """Says whether there is a stack among them."""
        return any(len(stacks.numbers(label)) > 1 for label in self.all)


class Block(nnx.Module):
    """One pre-norm layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig):
        self.attention_norm = block_norm(config)
        self.attention = part(config, "attention")(config)
        self.feed_forward_norm = block_norm(config)
        self.feed_forward = part(config, "feed_forward")(config)
        if config.streams is not None:
            self.prefix = Prefix(config)

    def __call__(self, x: Float[Array, "B L D"], inputs: Inputs):
        if hasattr(self, "prefix"):
            inputs = inputs._replace(prefix=self.prefix)
        mixed, attention = self.attention(self.attention_norm(x), inputs)
        x = x + mixed
        fed, feed_forward = self.feed_forward(self.feed_forward_norm(x), inputs)
        return along_batch(x + fed), attention | feed_forward


class Transformer(nnx.Module):
    """A decoder-only Transformer with pre-norm blocks and a final norm.

    `labels` are the layers' own numbers, or "4-23" where one block stands for a stack of them.
    """

    def __init__(self, config: ModelConfig, labels: tuple[str, ...] = ()):
        self.config = config
        self.embedding = part(config, "embedding")(config)
        labels = labels or tuple(map(str, range(config.depth)))
        self.layers = nnx.List([Block(config.layer(stacks.numbers(x)[0])) for x in labels])
        self.labels = Labels(labels)
        self.final_norm = final_norm(config)
        if config.streams is not None:
            self.aggregation = Aggregation(config)
        if not config.tied:
            self.head = Head(config)

    def hidden(
        self, tokens: Int[Array, "B L"], past: Past | None = None, recompute: str = "auto"
    ) -> tuple[Float[Array, "B L D"], dict]:
        """Returns the normed final hidden states, and what the layers report (`together`).

        With a `past`, the tokens go on where it ends, and it takes up their keys and values.
        `recompute` is a key of `models.scans.RECOMPUTE`.
        """
        config = self.config
        x = self.embedding(tokens, jnp.dtype(config.dtype))
        x, tokens = per_stream(config, x), per_stream(config, tokens)
        if past is None:
            mask = visible(tokens, config.separator, tokens.shape[1])
        else:
            mask = past.mask(tokens, config.separator)
        inputs = Inputs(tokens, mask, None, past, documents_of(tokens, config.separator))
        if self.labels.stacked:
            run = functools.partial(over_stacks, self.labels.all)
        else:
            run = looped if past is not None or len(self.layers) <= LOOPED_LAYERS else scanned
        x, reports = run(self.layers, along_batch(x), inputs, recompute)
        reports = {key: together(key, values) for key, values in reports.items()}
        x = self.final_norm(x)
        if config.streams is None:
            return x, reports
        x, report = self.aggregation(x)
        return along_batch(x), reports | report

    def __call__(
        self, tokens: Int[Array, "B L"], past: Past | None = None
    ) -> Float[Array, "B L V"]:
        """Returns next-token logits in float32; `past` as in `hidden`."""
        x, _ = self.hidden(tokens, past)
        return logits(x, self.head_kernel())

    def head_kernel(self) -> Float[Array, "D V"]:
        """Returns the head's matrix; the transposed table when tied."""
        return self.embedding.table[...].T if self.config.tied else self.head.kernel[...]

    def nll(self, windows: Int[Array, "B L+1"], recompute: str = "auto"):
        """Returns per-target loss and log-normaliser [B, L] in nats, and the parts' reports."""
        windows = windows.astype(jnp.int32)
        x, reports = self.hidden(windows[:, :-1], None, recompute)
        nll, normaliser = cross_entropy(x, self.head_kernel(), windows[:, 1:])
        return nll, normaliser, reports


def together(key: str, values: Float[Array, " layers"]) -> Float[Array, ""]:
    """Joins what layers report: losses are summed; of all else the mean over those that have it."""
    return jnp.sum(values) if key.startswith("loss.") else jnp.mean(values)


@dataclass(frozen=True)
class Leaf:
    """One array of a model's state: shape, start, group (None for a buffer), sharded dimensions."""

    shape: tuple[int, ...]
    init: Init
    group: Group | None
    fsdp: int | None
    expert: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Skeleton:
    """A model without values: its graph and the leaves that values are needed for, by path.

    Where the model is quantised, `quantizers` says how, by path, and the learned scales are leaves
    that no part knows of.
    """

    graph: nnx.GraphDef
    params: dict[str, Leaf]
    buffers: dict[str, Leaf]
    quantizers: dict[str, Quantizer] = field(default_factory=dict)

    def merge(self, params: dict[str, Array], buffers: dict[str, Array]) -> Transformer:
        """Builds the module that reads these values, quantised; paths must be the skeleton's.

        Scales that the skeleton does not ask for are left out, so the parameters of a quantised
        model are also those of the plain one.
        """
        return built(self.graph, quantized(self.quantizers, params), buffers)

    def drawn(self, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the values of `params` that `initialise` returns, one after the other."""
        for path in self.params:
            if not path.endswith(SUFFIX):
                value = self.initialise(seed, (path,))[0][path]
                yield path, value
                own = {p: q for p, q in self.quantizers.items() if p == path}
                yield from scales(own, {path: value}).items()

    def initialise(self, seed: int, paths=None) -> tuple[dict, dict]:
        """Draws numpy values for `params` and `buffers`, each leaf from its own stream.

        A leaf's values depend on the seed and its path alone, so a model that gains a part keeps
        the start of all others. `paths` limits the draw to some leaves. Learned scales are not
        drawn but start from the weights, where all of them are drawn.
        """
        wanted = lambda path: (paths is None or path in paths) and not path.endswith(SUFFIX)
        draw = lambda path, leaf: np.asarray(leaf.init.draw(stream(seed, path), leaf.shape))
        params, buffers = (
            {path: draw(path, leaf) for path, leaf in leaves.items() if wanted(path)}
            for leaves in (self.params, self.buffers)
        )
        return params | (scales(self.quantizers, params) if paths is None else {}), buffers


def built(graph: nnx.GraphDef, params: dict, buffers: dict) -> Transformer:
    """Builds a module of values by their paths in its graph."""
    values = [(tuple(split_path(p)), nnx.Param(v)) for p, v in params.items()]
    values += [(tuple(split_path(p)), Buffer(v)) for p, v in buffers.items()]
    return nnx.merge(graph, nnx.from_flat_state(values))


def merged(config: ModelConfig, params: dict, buffers: dict) -> Transformer:
    """Builds the module that reads values, of which some may be stacks of layers, quantised."""
    labels, bones = stacks.labels(params), skeleton(config)
    if not any(map(stacks.is_stack, params)):
        return bones.merge(params, buffers)
    at = {label: str(index) for index, label in enumerate(labels)}
    read = {}
    for label in ("", *labels):
        own = {path: x for path, x in params.items() if stacks.label(path) == label}
        one = {path: bones.quantizers.get(stacks.paths(path)[0]) for path in own}
        read_one = functools.partial(quantized, {p: q for p, q in one.items() if q is not None})
        read |= (jax.vmap(read_one) if len(stacks.numbers(label or "0")) > 1 else read_one)(own)
    place = lambda leaves: {stacks.renamed(path, at): x for path, x in leaves.items()}
    return built(stacked_graph(config, labels), place(read), place(buffers))


@functools.cache
def stacked_graph(config: ModelConfig, labels: tuple[str, ...]) -> nnx.GraphDef:
    """Returns the graph of a model that has one block for each of some layers and stacks."""
    return nnx.split(nnx.eval_shape(lambda: Transformer(config, labels)))[0]


def stream(seed: int, path: str) -> np.random.Generator:
    """Returns the random stream of one leaf."""
    return np.random.Generator(np.random.PCG64([seed, *path.encode()]))


def split_path(path: str) -> list[str | int]:
    """Turns "layers.0.attention.query" into NNX's path."""
    return [int(step) if step.isdigit() else step for step in path.split(".")]


@functools.cache
def skeleton(config: ModelConfig) -> Skeleton:
    """Builds a model's graph and the list of its leaves without allocating any of them."""
    graph, params, buffers = nnx.split(
        nnx.eval_shape(lambda: Transformer(config)), nnx.Param, Buffer
    )

    def leaves(state):
        return {
            ".".join(map(str, path)): Leaf(
                tuple(variable.shape),
                *(variable.init, variable.group, variable.fsdp, variable.expert),
            )
            for path, variable in nnx.to_flat_state(state)
        }

    params, buffers = leaves(params), leaves(buffers)
    quantizers = config.quantization.quantizers(params) if config.quantization else {}
    for path, quantizer in quantizers.items():
        if quantizer.learned:
            shape = quantizer.scale_shape(params[path].shape)
            params[scale_of(path)] = Leaf(shape, constant(1.0), quantizer.group, None)
    return Skeleton(graph, params, buffers, quantizers)


def loss(
    config: ModelConfig,
    params: dict,
    buffers: dict,
    windows: Int[Array, "B L+1"],
    recompute: str = "auto",
) -> tuple[Float[Array, ""], tuple[dict, dict]]:
    """Returns the training loss in nats per token, the new buffers and the metrics.

    `params` and `buffers` are by path, or stacks of layers by their names (`models.stacks`).
    Parts report scalars: those named `loss.*` are added to the loss, all are metrics. `nll` is the
    cross-entropy alone. `recompute` says what the backward pass computes again: a key of
    `models.scans.RECOMPUTE`.
    """
    model = merged(config, params, buffers)
    nll, normaliser, reports = model.nll(windows, recompute)
    metrics = {"nll": jnp.mean(nll)} | reports
    total = metrics["nll"] + sum((v for k, v in reports.items() if k.startswith("loss.")), 0.0)
    if config.z_loss:
        # Chowdhery et al. 2022 (PaLM, section 5): keeps the softmax normaliser near one.
        total = total + config.z_loss * jnp.mean(normaliser**2)
    names = {str(index): label for index, label in enumerate(model.labels.all)}
    after = {
        stacks.renamed(".".join(map(str, path)), names): value[...]
        for path, value in nnx.to_flat_state(nnx.state(model, Buffer))
    }
    return total, (after, metrics)


def held_out_nll(
    config: ModelConfig, params: dict, buffers: dict, windows: Int[Array, "B L+1"]
) -> Float[Array, "B L"]:
    """Returns every target's negative log-likelihood in nats, of the model as it is evaluated."""
    return skeleton(config.evaluated).merge(params, buffers).nll(windows)[0]
