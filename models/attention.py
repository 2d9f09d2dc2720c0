"""Causal self-attention: rotary positions, grouped queries, document masking.

QK-norm and biases are optional.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from models.config import ModelConfig
from models.fused import attend_fused, choose
from models.parts import VECTOR, Count, RMSNorm, constant, normal, parameter, project
from models.placement import platform

MASKED = -1e30  # Finite, so that a fully masked row stays free of NaN.


def rotate(x_BHLK: Array, base: float, start: int | Array = 0) -> Array:
    """Rotates pairs of coordinates by their position (Su et al. 2021, RoFormer, eq. 34).

    Pairs are (i, i + K/2); the angle of pair i at position l is l·base^(−2i/K). The first of the L
    positions is `start`.
    """
    length, size = x_BHLK.shape[-2:]
    frequencies = base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    positions = (start + jnp.arange(length)).astype(jnp.float32)
    angles = positions[:, None] * frequencies[None, :]
    cos, sin = (f(angles)[None, None] for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x_BHLK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BHLK.dtype)


def documents_of(tokens: Int[Array, "B L"], separator: int | None) -> Int[Array, "B L"] | None:
    """Numbers each sequence's documents, which a separator begins; None where there is but one."""
    return None if separator is None else jnp.cumsum(tokens == separator, axis=-1)


def visible(
    tokens: Array, separator: int | None, length: int
) -> Bool[Array, "1 1 L L"] | Bool[Array, "B 1 L L"]:
    """Says which position may read which: none that comes later, none of another document."""
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    document = documents_of(tokens, separator)
    if document is None:
        return causal
    return causal & (document[:, None, :, None] == document[:, None, None, :])


def attend(
    query: Float[Array, "B H L K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S V"],
    mask: Bool[Array, "#B 1 L S"],
) -> Float[Array, "B H L V"]:
    """Computes softmax(QKᵀ/√K)·V with each key/value head shared by H/G query heads.

    Every query must see a key. These are explicit products, which keep all L×S weights: what CPUs
    run (in this layout and with the gradient of `attend_by_products` 1.8 to 3.7 times as fast as
    XLA's own call at L ≤ 256), and others where no kernel of `models.fused` takes an attention.
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    query = query.reshape(batch, groups, heads // groups, length, size)
    return attend_by_products(query, key, value, mask).reshape(batch, heads, length, -1)


@jax.custom_vjp
def attend_by_products(query: Array, key: Array, value: Array, mask: Array) -> Array:
    """Attends with queries [B, G, H/G, L, K]; softmax in float32, products in the inputs' type."""
    return attend_forward(query, key, value, mask)[0]


def wide(x: Array) -> Array:
    """Widens to float32, in which sums are taken."""
    return x.astype(jnp.float32)


def wide_product(subscripts: str, x: Array, y: Array) -> Float[Array, "..."]:
    """Multiplies in the inputs' type and sums in float32, which is returned.

    XLA's CPU back end lacks such products in some layouts, so there the factors are widened first.
    """
    if platform() == "cpu":
        return jnp.einsum(subscripts, wide(x), wide(y))
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)


def attend_forward(query, key, value, mask):
    """Keeps the weights and the output for the gradient."""
    scores = wide_product("bghlk,bgsk->bghls", query, key) / math.sqrt(query.shape[-1])
    scores = jnp.where(mask[:, :, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    output = jnp.einsum("bghls,bgsk->bghlk", weights, value)
    return output, (query, key, value, weights, output)


def attend_backward(kept, gradient):
    """Takes Σ weights · their gradient, which softmax's own needs, as output · its gradient.

    The two are equal (Dao et al. 2022, FlashAttention, arXiv:2205.14135, appendix B.2, eq. 4); the
    first, which JAX's rule has XLA sum over L×L rows, took as long on CPUs as a product.
    """
    query, key, value, weights, output = kept
    to_weights = wide_product("bghlk,bgsk->bghls", gradient, value)
    shared = jnp.sum(wide(gradient) * wide(output), axis=-1, keepdims=True)
    to_scores = wide(weights) * (to_weights - shared) / math.sqrt(query.shape[-1])
    to_scores = to_scores.astype(query.dtype)
    return (
        jnp.einsum("bghls,bgsk->bghlk", to_scores, key),
        jnp.einsum("bghls,bghlk->bgsk", to_scores, query),
        jnp.einsum("bghls,bghlk->bgsk", weights, gradient),
        None,
    )


attend_by_products.defvjp(attend_forward, attend_backward)


def attend_with_prefix(query: Array, key: Array, value: Array, inputs) -> Float[Array, "B H L K"]:
    """Attends to tokens and, where there are streams, to the layer's prefix before them.

    Every query sees the whole prefix, of whatever document it is. Shapes are those of `attend`.
    """
    prefix = inputs.prefix
    if prefix is None:
        return attend_as_seen(query, key, value, inputs)
    prefix_key, prefix_value = prefix.rows(query.shape[0], query.dtype)
    gates = prefix.gates(query.shape[0])
    if gates is not None:
        seen = ones_before(inputs.mask, prefix_key.shape[2])
        added = attend(query, prefix_key, prefix_value, seen)
        added = (gates * added.astype(jnp.float32)).astype(query.dtype)
        return attend_as_seen(query, key, value, inputs) + added
    join = lambda first, second: jnp.concatenate([first, second], axis=2)
    return attend_as_seen(query, join(prefix_key, key), join(prefix_value, value), inputs)


def attend_as_seen(query: Array, key: Array, value: Array, inputs) -> Float[Array, "B H L K"]:
    """Attends to what the inputs say is seen, and all to keys before the tokens'.

    By a kernel that is told so as structure, where one takes it; else by products with a mask.
    """
    mask, sizes = inputs.mask, (key.shape[3], value.shape[3])
    before = key.shape[2] - mask.shape[3]
    chosen = choose(platform(), query.dtype, sizes, before, inputs.documents is not None)
    if inputs.past is None and chosen.kernel != "products":
        return attend_fused(chosen.kernel, query, key, value, inputs.documents)
    if before:
        mask = jnp.concatenate([ones_before(mask, before), mask], axis=3)
    return attend(query, key, value, mask)


def ones_before(mask: Bool[Array, "#B 1 L S"], before: int) -> Bool[Array, "#B 1 L before"]:
    """Returns the mask of keys that every query sees."""
    return jnp.ones((*mask.shape[:3], before), bool)


class Attention(nnx.Module):
    """Multi-head self-attention over a residual stream of width D."""

    def __init__(self, config: ModelConfig):
        self.config = config
        width, size = config.width, config.key_size
        heads, groups = config.heads, config.group_heads
        fan_in = normal(width**-0.5)
        self.query = parameter((width, heads * size), fan_in, fsdp=0)
        self.key = parameter((width, groups * size), fan_in, fsdp=0)
        self.value = parameter((width, groups * size), fan_in, fsdp=0)
        # The two outputs of each block add 2·depth terms to the residual stream: GPT-2's scaling
        # (Radford et al. 2019, section 2.3) keeps its variance at the start.
        out = normal((heads * size) ** -0.5 / math.sqrt(2 * config.depth))
        self.output = parameter((heads * size, width), out, fsdp=1)
        head_norms(self, config)
        if config.qkv_bias:
            bias = lambda count: parameter((count * size,), constant(0.0), VECTOR)
            self.query_bias, self.key_bias = bias(heads), bias(groups)
            self.value_bias = bias(groups)

    def __call__(self, x: Float[Array, "B L D"], inputs) -> tuple[Float[Array, "B L D"], dict]:
        query, key, value = (project(x, kernel) for kernel in (self.query, self.key, self.value))
        if self.config.qkv_bias:
            query, key = biased(query, self.query_bias), biased(key, self.key_bias)
            value = biased(value, self.value_bias)
        return project(between_tokens(self, query, key, value, inputs), self.output), {}

    @staticmethod
    def count(config: ModelConfig) -> Count:
        """Counts one layer: four matrices, and what tokens exchange."""
        size, heads, groups = config.key_size, config.heads, config.group_heads
        biases = Count.vector((heads + 2 * groups) * size if config.qkv_bias else 0)
        products = Count.dense(2 * config.width * size * (heads + groups))
        return products + biases + between_count(config)


def biased(x: Float[Array, "B L I"], bias: nnx.Param) -> Float[Array, "B L I"]:
    """Adds a bias in the type of `x`."""
    return x + jnp.reshape(bias[...], (1, 1, -1)).astype(x.dtype)


def head_norms(part: nnx.Module, config: ModelConfig) -> None:
    """Gives an attention part the gains of its QK-norm, where the model has one."""
    if config.qk_norm:
        part.query_norm = RMSNorm(config.key_size, config.norm_epsilon)
        part.key_norm = RMSNorm(config.key_size, config.norm_epsilon)


def between_tokens(
    part: nnx.Module,
    query: Float[Array, "B L HK"],
    key: Float[Array, "B L GK"],
    value: Float[Array, "B L GK"],
    inputs,
) -> Float[Array, "B L HK"]:
    """Lets tokens attend to tokens: split into heads, QK-norm, rotate, attend, join the heads.

    What every attention shares, however it makes queries, keys and values from the stream. `part`
    has the model's `config` and, with QK-norm, `query_norm` and `key_norm`. Where tokens came
    before (`inputs.past`), theirs are attended to as well.
    """
    config = part.config
    batch, length, _ = query.shape
    heads = lambda y, n: jnp.swapaxes(y.reshape(batch, length, n, config.key_size), 1, 2)
    query, key = heads(query, config.heads), heads(key, config.group_heads)
    value = heads(value, config.group_heads)
    if config.qk_norm:
        query, key = part.query_norm(query), part.key_norm(key)
    start = 0 if inputs.past is None else inputs.past.length
    query, key = (rotate(x, config.rope_base, start) for x in (query, key))
    if inputs.past is not None:
        key, value = inputs.past.joined(key, value)
    mixed = attend_with_prefix(query, key, value, inputs)
    return jnp.swapaxes(mixed, 1, 2).reshape(batch, length, -1)


def between_count(config: ModelConfig) -> Count:
    """Counts `between_tokens` in one layer; a token sees (L + 1)/2 positions on average."""
    products = 4.0 * config.heads * config.key_size * (config.context + 1) / 2
    gains = Count.vector(2 * config.key_size if config.qk_norm else 0)
    return gains + Count(flops_attention=products)
