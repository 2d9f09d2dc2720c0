"""What every part of the zoo is made of: declared parameters, their groups, and counts."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

# What recomputation may spare, by name: products with parameters, what attention kernels keep.
PRODUCT, ATTENTION = "product", "attention"


@dataclass(frozen=True)
class Group:
    """How a kind of parameter is trained; declared once, by the part that owns the parameter.

    `rate` multiplies the learning rate; `decay` says whether weight decay applies; `lazy` asks that
    rows of zero gradient stay as they are (`scaling.optimizers.rule.by_row`). `matmul` is the share
    of the array that a token multiplies by, so that freezing it saves the FLOPs of its gradient;
    True is the whole.
    """

    name: str
    rate: float = 1.0
    decay: bool = True
    lazy: bool = False
    matmul: float = False

    @property
    def hidden(self) -> bool:
        """Says whether hidden states are multiplied by it: a matrix that is not the head."""
        return bool(self.matmul) and self.name != HEAD.name


MATRIX = Group("matrix", matmul=True)
EMBEDDING = Group("embedding")
HEAD = Group("head", matmul=True)
VECTOR = Group("vector", decay=False)  # Gains and biases: decay would pull a norm's gain to zero.


@dataclass(frozen=True)
class Init:
    """How a parameter starts: `draw(generator, shape)` gives float32 values."""

    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(std: float) -> Init:
    """Starts a parameter from independent normal values with standard deviation `std`."""
    return Init(lambda generator, shape: generator.standard_normal(shape, np.float32) * std)


def constant(value: float) -> Init:
    """Starts a parameter with one value everywhere."""
    return Init(lambda generator, shape: np.full(shape, value, np.float32))


def parameter(
    shape: tuple[int, ...],
    init: Init,
    group: Group = MATRIX,
    fsdp: int | None = None,
    expert: int | None = None,
) -> nnx.Param:
    """Declares a trained array; its values come later from `skeleton(config).initialise(seed)`.

    `fsdp` and `expert` are the dimensions that are split over the mesh's axes of those names;
    None keeps it whole.
    """
    value = jnp.zeros(shape, jnp.float32)
    return nnx.Param(value, init=init, group=group, fsdp=fsdp, expert=expert)


class Buffer(nnx.Variable):
    """State that the forward pass updates outside the gradient, such as a router's balance."""


def buffer(shape: tuple[int, ...], init: Init) -> Buffer:
    """Declares a buffer; a part assigns its new value during the forward pass."""
    return Buffer(jnp.zeros(shape, jnp.float32), init=init, group=None, fsdp=None, expert=None)


@dataclass(frozen=True)
class Count:
    """What a part costs: parameters, and forward FLOPs per token (a multiply-add is 2).

    `embedding` is the share of `params` that sits in token tables (embedding and head); `active`
    are the parameters that one token reads. FLOPs are kept apart as `flops` (matrix products with
    parameters, without the head), `flops_attention` (products between tokens) and `flops_head`.
    """

    params: int = 0
    embedding: int = 0
    active: int = 0
    flops: float = 0.0
    flops_attention: float = 0.0
    flops_head: float = 0.0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Count)))

    def __rmul__(self, times: int) -> "Count":
        return Count(*(times * getattr(self, f.name) for f in fields(Count)))

    @classmethod
    def dense(cls, params: int, **shares) -> "Count":
        """Counts parameters that are all read, each once in a matrix product, by every token."""
        return cls(params=params, active=params, flops=2.0 * params, **shares)

    @classmethod
    def vector(cls, params: int) -> "Count":
        """Counts gains and biases: read by every token, without a matrix product."""
        return cls(params=params, active=params)


def project(x: jax.Array, kernel: nnx.Param) -> jax.Array:
    """Multiplies [..., in] by a kernel [in, out] in the type of `x`."""
    return checkpoint_name(product(x.dtype, x, kernel[...]), PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(dtype: jnp.dtype, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies [..., in] by [in, out] in the type of `x` and returns `dtype`.

    The kernel's gradient is summed over rows and devices in the kernel's own type, float32, also
    where `x` is bfloat16: it is rounded nowhere before the optimizer reads it.

    JAX's own rule writes the kernel's gradient as (gradientᵀ x)ᵀ. XLA's CPU back end makes of it a
    product with a transposed copy of the gradient: half as fast as xᵀ gradient (60 and 150 GFLOP/s
    at 1,024 × 128 by 1,024 × 344, one thread of a Zen 5), and the copy is written by column.
    """
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=dtype)


def product_forward(dtype, x, kernel):
    """Keeps both factors."""
    return product(dtype, x, kernel), (x, kernel)


def product_backward(dtype, factors, gradient):
    """Returns gradient kernelᵀ and xᵀ gradient, each in the type of what it is the gradient of."""
    x, kernel = factors
    rows, contract = tuple(range(x.ndim - 1)), jax.lax.dot_general
    gradient, narrow = gradient.astype(x.dtype), kernel.astype(x.dtype)
    to_x = contract(
        gradient, narrow, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=x.dtype
    )
    return to_x, summed(contract, x, gradient, ((rows, rows), ((), ())), dtype=kernel.dtype)


product.defvjp(product_forward, product_backward)


def summed(multiply: Callable, x: jax.Array, y: jax.Array, *how, dtype: jnp.dtype) -> jax.Array:
    """Multiplies two arrays of a narrow type and sums in a wide one, which is returned.

    XLA's CPU back end lacks such products in some layouts, so there the factors are widened first.
    """
    narrow = lambda x, y: multiply(x, y, *how, preferred_element_type=dtype)
    if x.dtype == dtype:
        return narrow(x, y)
    wide = lambda x, y: multiply(x.astype(dtype), y.astype(dtype), *how)
    return jax.lax.platform_dependent(x, y, cpu=wide, default=narrow)


class RMSNorm(nnx.Module):
    """Divides by the root mean square, then scales (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, size: int, epsilon: float):
        self.epsilon = epsilon
        self.gain = parameter((size,), constant(1.0), VECTOR)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        gain = jnp.reshape(self.gain[...], (1,) * (x.ndim - 1) + (-1,))
        return (wide * scale * gain).astype(x.dtype)
