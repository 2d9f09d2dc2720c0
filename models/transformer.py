"""The one decoder-only Transformer: parts in, loss out."""

import functools
import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from models.attention import Attention, documents_of, visible
from models.cache import Past
from models.codes import CodeEmbedding
from models.config import ModelConfig
from models.embeddings import Head, LearnedEmbedding, cross_entropy, logits
from models.feed_forward import GELU, SwiGLU
from models.moe import MixtureOfExperts
from models.norms import block_norm, final_norm
from models.parscale import Aggregation, Prefix, per_stream
from models.parts import ATTENTION, PRODUCT, Buffer, Group, Init, constant
from models.placement import along_batch
from models.quantize import SUFFIX, Quantizer, quantized, scale_of, scales
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
# beyond it compile time grows with depth, and only a scan lets recomputation save memory.
LOOPED_LAYERS = 12

# What of the layers the backward pass computes again: nothing; all but products with parameters and
# attention by a kernel; all but their inputs. "auto" is none in a loop and all in a scan.
DOTS = jax.checkpoint_policies.save_only_these_names(PRODUCT, ATTENTION)
RECOMPUTE = {
    "auto": None,
    "none": lambda layer: layer,
    "dots": lambda layer: jax.checkpoint(layer, policy=DOTS),
    "full": jax.checkpoint,
}


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
    """A decoder-only Transformer with pre-norm blocks and a final norm."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.embedding = part(config, "embedding")(config)
        self.layers = nnx.List([Block(config.layer(i)) for i in range(config.depth)])
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
        `recompute` is a key of `RECOMPUTE`.
        """
        config = self.config
        x = self.embedding(tokens, jnp.dtype(config.dtype))
        x, tokens = per_stream(config, x), per_stream(config, tokens)
        if past is None:
            mask = visible(tokens, config.separator, tokens.shape[1])
        else:
            mask = past.mask(tokens, config.separator)
        inputs = Inputs(tokens, mask, None, past, documents_of(tokens, config.separator))
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


def looped(layers, x, inputs, recompute):
    """Applies the layers one after the other; reports are one value a layer that has it."""
    reports = {}
    for layer in layers:
        if recompute in ("auto", "none"):
            x, report = layer(x, inputs)
        else:
            definition, state = nnx.split(layer)
            x, (report, buffers) = RECOMPUTE[recompute](body(definition, inputs))(x, state)
            nnx.update(layer, buffers)
        for key, value in report.items():
            reports.setdefault(key, []).append(value)
    return x, {key: jnp.stack(values) for key, values in reports.items()}


def scanned(layers, x, inputs, recompute):
    """Applies layers of one structure after another by a scan over their stacked parameters.

    Layers whose neighbours are of other structures are looped over.
    """
    reports, begin = [], 0
    split = [nnx.split(layer) for layer in layers]
    for definition, group in itertools.groupby(split, key=lambda pair: pair[0]):
        states = [state for _, state in group]
        some, begin = layers[begin : begin + len(states)], begin + len(states)
        if len(states) == 1:
            x, report = looped(some, x, inputs, recompute)
        else:
            again = RECOMPUTE["full" if recompute == "auto" else recompute]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            x, (report, buffers) = jax.lax.scan(again(body(definition, inputs)), x, stacked)
            for index, layer in enumerate(some):
                nnx.update(layer, jax.tree.map(lambda leaf, i=index: leaf[i], buffers))
        reports.append(report)
    named = dict.fromkeys(key for report in reports for key in report)
    found = {key: [report[key] for report in reports if key in report] for key in named}
    return x, {k: v[0] if len(v) == 1 else jnp.concatenate(v) for k, v in found.items()}


def body(definition, inputs):
    """Returns a layer as a function of the residual stream and its state."""

    def run(x, state):
        layer = nnx.merge(definition, state)
        x, report = layer(x, inputs)
        return x, (report, nnx.state(layer, Buffer))

    return run


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
        read = quantized(self.quantizers, params)
        values = [(tuple(split_path(p)), nnx.Param(v)) for p, v in read.items()]
        values += [(tuple(split_path(p)), Buffer(v)) for p, v in buffers.items()]
        return nnx.merge(self.graph, nnx.from_flat_state(values))

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

    Parts report scalars: those named `loss.*` are added to the loss, all are metrics. `nll` is the
    cross-entropy alone. `recompute` says what the backward pass computes again (`RECOMPUTE`).
    """
    model = skeleton(config).merge(params, buffers)
    nll, normaliser, reports = model.nll(windows, recompute)
    metrics = {"nll": jnp.mean(nll)} | reports
    total = metrics["nll"] + sum((v for k, v in reports.items() if k.startswith("loss.")), 0.0)
    if config.z_loss:
        # Chowdhery et al. 2022 (PaLM, section 5): keeps the softmax normaliser near one.
        total = total + config.z_loss * jnp.mean(normaliser**2)
    after = {".".join(map(str, p)): v[...] for p, v in nnx.to_flat_state(nnx.state(model, Buffer))}
    return total, (after, metrics)


def held_out_nll(
    config: ModelConfig, params: dict, buffers: dict, windows: Int[Array, "B L+1"]
) -> Float[Array, "B L"]:
    """Returns every target's negative log-likelihood in nats, of the model as it is evaluated."""
    return skeleton(config.evaluated).merge(params, buffers).nll(windows)[0]
