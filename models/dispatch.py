"""How routed experts are computed: three back ends, on one device and over a mesh."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from models.experts import Experts
from models.parts import PRODUCT, summed
from models.placement import by_device, platform, split_axes
from models.routing import Routes, starts

# Rows that one expert's kernel is multiplied by at a time, by platform, where XLA would multiply
# each row by every expert for `ragged_dot`. On CPUs of 8,192 tokens a sixteenth is filling at 32
# experts. On an H200 blocks take 12 ms a step instead of 88, by the roofline (32 experts, 4 taken).
BLOCK = {"cpu": 64, "cuda": 256, "rocm": 256}


def back_end(settings: Experts, length: int) -> str:
    """Returns the back end in force.

    "auto" fills a capacity buffer where that saves work over computing everything. Without drops
    it saves none: then CPUs compute everything (`ragged_dot` costs E times its ideal there), and
    accelerators sort.
    """
    if settings.back_end != "auto":
        return settings.back_end
    if settings.slots(length) < length or settings.routed == settings.active:
        return "capacity"
    return "dense" if platform() == "cpu" else "ragged"


def computed(name: str, x: Array, routes: Routes, kernels: list[Array]) -> Float[Array, "B L D"]:
    """Computes the experts; on a mesh every device sees to the sequences that it owns.

    With "capacity" a device keeps the experts that the mesh's `expert` axis gives it, and tokens
    travel to them and back, each by one exchange of all with all: how many is known beforehand.
    "dense" and "ragged" drop no token, so a device may be sent all of them; there the axis splits
    what is stored of the experts, as `fsdp` does, and they travel.
    """
    compute, axes = COMPUTE[name], split_axes()
    if not axes:
        return compute(x, routes, *kernels)
    kept = "expert" if name == "capacity" and "expert" in axes else None

    def own(x, arrays, kernels):
        return compute(x, Routes(*arrays, routes.slots), *kernels)

    split = PartitionSpec(axes)
    specs = (split, split, PartitionSpec(kept))
    return by_device(own, specs, split)(x, routes[:-1], kernels)


def swiglu(x: Array, multiply, gate: Array, up: Array, down: Array) -> Array:
    """Applies every expert's SwiGLU to its rows; `multiply(rows, stacked kernel)` pairs them."""
    named = lambda rows, kernel: checkpoint_name(multiply(rows, kernel), PRODUCT)
    return named(jax.nn.silu(named(x, gate)) * named(x, up), down)


def narrowed(kernel: Array, rows: Array) -> Array:
    """Rounds a kernel to the type of the rows; its gradient is that of the rounded one."""
    return kernel.astype(rows.dtype)


def paired(subscripts: str, rows: Array, kernel: Array) -> Array:
    """Multiplies stacks by experts in the type of `rows`, and sums kernels' gradients in float32.

    Where both are of one type this is the plain product, whose gradient XLA's CPU back end orders
    as it always did.
    """
    if rows.dtype == kernel.dtype:
        return jnp.einsum(subscripts, rows, kernel)
    return mixed_product(subscripts, rows, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mixed_product(subscripts: str, rows: Array, kernel: Array) -> Array:
    """Multiplies rows by kernels rounded to their type."""
    return jnp.einsum(subscripts, rows, narrowed(kernel, rows))


def mixed_forward(subscripts, rows, kernel):
    """Keeps both factors."""
    return mixed_product(subscripts, rows, kernel), (rows, kernel)


def mixed_backward(subscripts, factors, gradient):
    """Returns each factor's gradient in its own type."""
    rows, kernel = factors
    first, rest = subscripts.split(",")
    second, out = rest.split("->")
    to_kernel = functools.partial(jnp.einsum, f"{first},{out}->{second}")
    return (
        jnp.einsum(f"{out},{second}->{first}", gradient, narrowed(kernel, rows)),
        summed(to_kernel, rows, gradient, dtype=kernel.dtype),
    )


mixed_product.defvjp(mixed_forward, mixed_backward)


def dense(x, routes, gate, up, down):
    """Computes every expert for every token: E/k times the work, and the oracle of the others."""
    weights = jnp.sum(
        jax.nn.one_hot(routes.experts, gate.shape[0]) * routes.gates[..., None], axis=2
    )
    rows = jnp.broadcast_to(x[:, :, None], (*x.shape[:2], gate.shape[0], x.shape[2]))
    y = swiglu(rows, functools.partial(paired, "blei,eio->bleo"), gate, up, down)
    return jnp.einsum("ble,bled->bld", weights, y.astype(jnp.float32)).astype(x.dtype)


def capacity(x, routes, gate, up, down):
    """Gathers each expert's tokens into slots, per sequence, and multiplies whole buffers."""
    (batch, length, width), experts = x.shape, routes.counts.shape[1]
    active, slots = routes.experts.shape[2], routes.slots
    flat = routes.experts.reshape(batch, -1)
    begin = starts(routes.counts)
    # Slot (e, c) holds the assignment at place begin[e] + c of the sorted ones, if it is e's.
    place = begin[:, :, None] + jnp.arange(slots)[None, None]
    filled = jnp.arange(slots)[None, None] < routes.counts[:, :, None]
    place = jnp.minimum(place, flat.shape[1] - 1).reshape(batch, -1)
    source = jnp.take_along_axis(routes.order, place, axis=1)
    source = jnp.where(filled.reshape(batch, -1), source, flat.shape[1])
    # An assignment's slot; beyond the last one where it was dropped.
    slot = jnp.where(routes.queue < slots, flat * slots + routes.queue, experts * slots)

    rows = pick(x, source // active, slot.reshape(batch, length, active))
    # Experts first: CPUs multiply stacks of matrices 1.4–1.8 times as fast as inner ones.
    rows = exchanged(jnp.swapaxes(rows.reshape(batch, experts, slots, width), 0, 1), 0, 1)
    shape = rows.shape
    rows = rows.reshape(shape[0], -1, width)
    y = swiglu(rows, functools.partial(paired, "eni,eio->eno"), gate, up, down)
    y = jnp.swapaxes(exchanged(y.reshape(shape), 1, 0), 0, 1)
    y = pick(y.reshape(batch, experts * slots, width), slot, source[..., None])
    return weighted(y.reshape(batch, length, active, width), routes.gates)


def exchanged(rows: Array, split: int, joined: int) -> Array:
    """Exchanges rows over the mesh's `expert` axis: one dimension is cut, another grows by it."""
    if jax.sharding.get_abstract_mesh().shape.get("expert", 1) == 1:
        return rows
    return jax.lax.all_to_all(rows, "expert", split, joined, tiled=True)


def ragged(x, routes, gate, up, down):
    """Sorts the assignments of the whole batch by expert and multiplies groups of rows.

    XLA's back ends for CPUs and GPUs multiply every row by every expert for `ragged_dot`: they get
    blocks.
    """
    if platform() in BLOCK:
        return in_blocks(BLOCK[platform()], x, routes, gate, up, down)
    batch, length, width = x.shape
    active = routes.experts.shape[2]
    order = jnp.argsort(routes.experts.reshape(-1))
    back = jnp.argsort(order)
    sizes = jnp.sum(routes.counts, axis=0)
    one = x.reshape(1, batch * length, width)
    rows = pick(one, order[None] // active, back.reshape(1, batch * length, active))[0]
    multiply = lambda rows, kernel: jax.lax.ragged_dot(rows, narrowed(kernel, rows), sizes)
    y = swiglu(rows, multiply, gate, up, down)
    y = pick(y[None], back[None], order[None, :, None])
    return weighted(y.reshape(batch, length, active, width), routes.gates)


def in_blocks(block: int, x, routes, gate, up, down):
    """Fills each expert's sorted assignments up to whole blocks, and multiplies block by block."""
    (batch, length, width), experts = x.shape, routes.counts.shape[1]
    flat = routes.experts.reshape(-1)
    sizes = jnp.sum(routes.counts, axis=0)
    blocks = -(-sizes // block)
    first = jnp.cumsum(blocks) - blocks
    most = -(-flat.size // block) + experts  # However the assignments fall.
    owner = jnp.repeat(jnp.arange(experts), blocks, total_repeat_length=most)
    rank = jnp.argsort(jnp.argsort(flat)) - (jnp.cumsum(sizes) - sizes)[flat]
    slot = first[flat] * block + rank
    source = jnp.full(most * block, flat.size).at[slot].set(jnp.arange(flat.size))

    one, active = x.reshape(1, batch * length, width), routes.experts.shape[2]
    rows = pick(one, source[None] // active, slot.reshape(1, batch * length, active))
    multiply = lambda rows, kernel: jnp.einsum(
        "nbi,nio->nbo", rows, narrowed(jnp.asarray(kernel)[owner], rows)
    )
    if platform() != "cpu":  # Blocks' copies of kernels are made again where they are needed again.
        multiply = jax.checkpoint(multiply)
    y = swiglu(rows.reshape(most, block, width), multiply, gate, up, down)
    y = pick(y.reshape(1, most * block, width), slot[None], source[None, :, None])
    return weighted(y.reshape(batch, length, active, width), routes.gates)


COMPUTE = {"dense": dense, "capacity": capacity, "ragged": ragged}


def weighted(y: Float[Array, "B L k D"], gates: Float[Array, "B L k"]) -> Float[Array, "B L D"]:
    """Sums a token's experts, each with its gate, in float32."""
    return jnp.einsum("blkd,blk->bld", y.astype(jnp.float32), gates).astype(y.dtype)


@jax.custom_vjp
def pick(
    x: Float[Array, "B N D"], index: Int[Array, "B M"], back: Int[Array, "B N j"]
) -> Float[Array, "B M D"]:
    """Returns rows of `x` by index, zeros beyond its end.

    `back` lists where each row of `x` went (beyond M: nowhere), so that the gradient is a gather
    too: a scatter-add is a serial loop on CPUs and an atomic one on GPUs.
    """
    return rows_at(x, index)


def rows_at(x: Float[Array, "B N D"], index: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    """Gathers rows within each sequence, zeros beyond the end."""
    return jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=0))(x, index)


def pick_forward(x, index, back):
    """Keeps the list of where rows went."""
    return rows_at(x, index), back


def pick_backward(back, gradient):
    """Sums the gradients of the copies of each row."""
    batch, rows, copies = back.shape
    parts = rows_at(gradient, back.reshape(batch, -1))
    return parts.reshape(batch, rows, copies, -1).sum(axis=2), None, None


pick.defvjp(pick_forward, pick_backward)
