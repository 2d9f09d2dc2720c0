"""JAX's splash attention, which TPUs run: blocks by shape, padded lengths, a prefix, documents."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from models.parts import ATTENTION

# Positions that a block may hold: multiples of the kernels' 128 lanes. Scores of 512 × 512 in
# float32 are 1 MiB of a TPU core's vector memory, of which a kernel gets 16 MiB.
BLOCKS = (512, 384, 256, 128)
# Positions that padding to a larger block may add, as a share of those at the smallest one.
PADDING = 0.125


def splash(
    query: Float[Array, "B H L K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S V"],
    documents: Int[Array, "B L"] | None = None,
    interpret: bool = False,
) -> Float[Array, "B H L V"]:
    """Attends to the S − L keys before the tokens' and to those of no later token.

    With `documents`, of which tokens see their own alone, there may be no keys before. Lengths are
    padded at their ends to whole blocks: no token sees padding, and what it sees itself is cut off.
    `interpret` runs the kernels step by step on any device, for tests.
    """
    heads, length, size = query.shape[1:]
    before = key.shape[2] - length
    blocks, blocks_kv = block_of(length), block_of(key.shape[2])
    query = (query.astype(jnp.float32) * size**-0.5).astype(query.dtype)
    query = padded(query, 2, blocks)
    key, value = padded(key, 2, blocks_kv), padded(value, 2, blocks_kv)
    causal = masks.CausalMask((query.shape[2], key.shape[2]), offset=before)
    run = kernels.make_splash_mha(
        masks.MultiHeadMask([causal] * heads),
        block_sizes=block_sizes(blocks, blocks_kv),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION,
        interpret=interpret,
    )
    if documents is None:
        return jax.vmap(run)(query, key, value)[:, :, :length]
    ids = kernels.SegmentIds(padded(documents, 1, blocks), padded(documents, 1, blocks_kv))
    return jax.vmap(run)(query, key, value, ids)[:, :, :length]


def padded(x: Array, axis: int, block: int) -> Array:
    """Pads one axis with zeros at its end to a multiple of the block."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, widths)


def block_of(length: int) -> int:
    """Returns the largest block that pads a length little."""
    whole = lambda block: -(-length // block) * block
    return next(b for b in BLOCKS if whole(b) <= (1 + PADDING) * whole(BLOCKS[-1]))


def block_sizes(queries: int, keys: int) -> kernels.BlockSizes:
    """Gives all three kernels, one forward and two backward, the same blocks."""
    return kernels.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_kv_compute=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_kv_dkv_compute=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )
