"""Attention by kernels that keep no scores in device memory (Dao et al. 2022, arXiv:2205.14135).

cuDNN's on NVIDIA GPUs, JAX's splash attention on TPUs. Who may read whom is told as structure: no
later key, and of documents by their ids. `choose` says which kernel takes an attention, or why none
does; explicit products (`models.attention.attend`) then compute it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from models.config import ModelConfig
from models.placement import BATCH_AXES, by_device, open_axes

# cuDNN's flash attention takes head sizes up to 128 on every architecture, in steps of 8
# (`check_is_flash_attention` in JAX's cudnn.fused_attention_stablehlo).
LARGEST_HEAD, HEAD_STEP = 128, 8


class Choice(NamedTuple):
    """Which kernel computes an attention: "cudnn", "splash" or "products", and if so, why."""

    kernel: str
    why: str = ""


def choose(
    platform: str, dtype: jnp.dtype, sizes: tuple[int, int], prefix: int, documents: bool
) -> Choice:
    """Chooses the kernel of an attention by the platform that it is compiled for.

    Args:
      sizes: of one head's keys and values; prefix: keys that every query sees, before the tokens.
      documents: whether attention stays within documents.
    """
    if platform == "tpu":
        if prefix and documents:
            return Choice("products", "splash attention has no prefix that all documents see")
        return Choice("splash")
    if platform != "cuda":
        return Choice("products", f"no kernel for {platform}")
    if jnp.dtype(dtype) != jnp.bfloat16:
        return Choice("products", f"cuDNN takes bfloat16, not {jnp.dtype(dtype)}")
    if max(sizes) > LARGEST_HEAD:
        return Choice("products", f"cuDNN takes heads of at most {LARGEST_HEAD}, not {max(sizes)}")
    if documents:
        return Choice("products", "cuDNN has no documents in one sequence without L×L of mask")
    return Choice("cudnn")


def attention_of(config: ModelConfig, platform: str) -> Choice:
    """Chooses the kernel of a model's attention in training, for plans."""
    shared = config.streams is not None and not config.streams.neutral
    prefix = config.streams.prefix if shared else 0
    sizes = (config.key_size, config.key_size)
    return choose(platform, config.dtype, sizes, prefix, config.separator is not None)


def attend_fused(
    kernel: str,
    query: Float[Array, "B H L K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S V"],
    documents: Int[Array, "B L"] | None,
) -> Float[Array, "B H L V"]:
    """Attends by a kernel; keys are those of the L tokens, and S − L before them that all see.

    Equal to the products but for rounding: the kernels scale queries before they multiply, weigh
    values in float32 sums over blocks, and return the inputs' type. On a mesh every device runs
    the kernel on the sequences that it owns.
    """
    if kernel == "splash":
        from models.splash import splash as one  # Imports Pallas, which others need not wait for.
    else:
        one = cudnn
    mesh = jax.sharding.get_abstract_mesh()
    axes = open_axes(BATCH_AXES)
    inputs = (query, key, value) if documents is None else (query, key, value, documents)
    if mesh.size <= 1 or not axes:
        return one(*inputs)
    split = PartitionSpec(axes)
    return by_device(one, split, split)(*inputs)


def cudnn(query: Array, key: Array, value: Array) -> Array:
    """Runs cuDNN's flash attention.

    Its causal mask counts from the first query and key: queries of zeros before the others make
    room for a prefix. Heads are padded with zeros, which neither scores nor outputs feel.
    """
    (length, size), given = query.shape[2:], value.shape[3]
    prefix = key.shape[2] - length
    head = -(-max(size, given) // HEAD_STEP) * HEAD_STEP
    query = jnp.pad(query, [(0, 0), (0, 0), (prefix, 0), (0, 0)])
    wider = lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, head - x.shape[3])])
    sent = (jnp.swapaxes(wider(x), 1, 2) for x in (query, key, value))
    output = jax.nn.dot_product_attention(
        *sent, scale=size**-0.5, is_causal=True, implementation="cudnn"
    )
    return jnp.swapaxes(output, 1, 2)[:, :, prefix:, :given]
