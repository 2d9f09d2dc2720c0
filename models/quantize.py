"""Weight quantisation in training: which arrays, at how many bits, and how gradients pass.

Weights stay in float32; the forward pass reads them rounded to few levels times a scale per output
(per row of a token table). The quantisers are ParetoQ's (Liu et al. 2025, arXiv:2502.02631, section
3 and its code at commit 655e338): elastic binarisation at 1 bit, stretched elastic quantisation
(SEQ) at 1.58 and 2 bits, learned step sizes (LSQ; Esser et al. 2020, arXiv:1902.08153) from 3 bits
on, there to 4 bits and here to 8.
"""

import functools
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models.parts import VECTOR, Group
from refused import Refused

BITS = (1, 1.58, 2, 3, 4, 6, 8)
SCALES = ("learned", "absmax")

FLOOR = 1e-5  # Smallest scale (ParetoQ's code): a row of zeros divides by it.
REACH = 0.99  # SEQ clips to this multiple of the scale (ParetoQ's code).
EDGE = 1e-6  # A row's largest weight starts on the clip's edge; rounding must not push it out.

# Token tables and head keep at least this many bits (Dremov et al. 2025, arXiv:2509.22935, 2.1);
# STEM's tables are looked up as the embedding is.
TABLES, FEWEST_TABLE_BITS = ("embedding", "head", "stem"), 4

# Matrices that stay at full precision: a router's few weights decide what the rest computes
# (DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.1, keeps gating modules in high precision).
PLAIN = ("router",)


class Levels(NamedTuple):
    """A quantiser's levels (code + shift)/steps for whole codes, in multiples of the scale.

    Weights are clipped to [low, high] scales before rounding. `saturated` is the scale's gradient
    below and above; `largest` is the Q_p of its damping.
    """

    steps: float
    shift: float
    low: float
    high: float
    saturated: tuple[float, float]
    largest: int


@functools.cache
def levels(bits: float) -> Levels:
    """Returns the levels of SEQ (1.58 and 2 bits) or LSQ (3 and more)."""
    if bits == 1.58:
        # ParetoQ's scale gradient saturates at ±1 although its outer levels are ±2/3.
        return Levels(1.5, 0.0, -REACH, REACH, (-1.0, 1.0), 1)
    if bits == 2:
        return Levels(2.0, 0.5, -REACH, REACH, (-0.75, 0.75), 1)
    low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return Levels(1.0, 0.0, low, high, (low, high), int(high))


@dataclass(frozen=True)
class Quantizer:
    """How one array is quantised.

    The weights along `axis` share a scale: −2, the contracted one of a kernel [..., in, out], or
    −1, a row of a table. `learned` says that scales are trained; else each step takes those that
    learned ones start from.
    """

    bits: float
    axis: int = -2
    learned: bool = True

    @property
    def lowest(self) -> int:
        """The smallest code."""
        if self.bits == 1:
            return -1
        grid = levels(self.bits)
        return round(grid.low * grid.steps - grid.shift)

    @property
    def largest(self) -> int:
        """The largest positive code, Q_p; 1 for the quantisers without LSQ's uniform steps."""
        return 1 if self.bits == 1 else levels(self.bits).largest

    @property
    def group(self) -> Group:
        """The parameter group of the scales: no decay.

        Adam moves every parameter by about the rate, and the clip's edge lies at Q_p scales: the
        rate over Q_p moves the edge as fast as a weight.
        """
        return Group("scale", rate=1 / self.largest, decay=False)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of an array's scales: 1 along the shared axis."""
        axis = self.axis % len(shape)
        return (*shape[:axis], 1, *shape[axis + 1 :])

    def start(self, weight: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the scales that fit the weights: mean at 1 bit, else the largest at the edge."""
        xp = jnp if isinstance(weight, jax.Array) else np
        size = xp.abs(weight)
        if self.bits == 1:
            scale = xp.mean(size, axis=self.axis, keepdims=True)
        else:
            scale = xp.max(size, axis=self.axis, keepdims=True) / self.largest
        return xp.maximum(scale, FLOOR).astype(weight.dtype)

    def codes(self, weight: Float[Array, "..."], scale: Float[Array, "..."]) -> Array:
        """Returns the whole number that stands for each weight, as floats; ties go to even.

        At 1 bit a weight of exactly zero has the code 0, between −1 and 1.
        """
        xp = jnp if isinstance(weight, jax.Array) else np
        if self.bits == 1:
            return xp.sign(weight)
        grid = levels(self.bits)
        clipped = xp.clip(weight / scale, grid.low, grid.high)
        return xp.round(clipped * grid.steps - grid.shift)

    def values(self, codes: Array, scale: Float[Array, "..."]) -> Array:
        """Returns the quantised weights behind some codes."""
        if self.bits == 1:
            return codes * scale
        grid = levels(self.bits)
        return (codes + grid.shift) / grid.steps * scale

    def payload(self, shape: tuple[int, ...]) -> int:
        """Returns the bytes of an array of this shape: packed codes, and scales in float32.

        1.58 bits are packed as five codes to a byte, since 3^5 = 243.
        """
        count = int(np.prod(shape))
        packed = -(-count // 5) if self.bits == 1.58 else -(-count * int(self.bits) // 8)
        return packed + 4 * int(np.prod(self.scale_shape(shape)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def fake_quantize(quantizer: Quantizer, weight: Array, scale: Array) -> Array:
    """Rounds weights to their levels; the gradient passes as if it had not, inside the clip.

    The weight's gradient is the upstream one G where the weight lies in the clip, edges included,
    and 0 outside. The scale's is g·Σ G·u over the weights that share it, with u the level minus
    w/scale inside and the saturated level outside (at 1 bit: sign(w)), and g = 1/√(n·Q_p) for n
    weights in the matrix (Esser et al. 2020, eq. 2–3 and section 2.2). Written out because
    `jnp.clip` halves the gradient at the edge, where every row's largest weight starts.
    """
    scale = jnp.maximum(scale, FLOOR)
    return quantizer.values(quantizer.codes(weight, scale), scale)


def forward(quantizer: Quantizer, weight: Array, scale: Array):
    """Keeps what the gradient needs."""
    return fake_quantize(quantizer, weight, scale), (weight, scale)


def backward(quantizer: Quantizer, kept, upstream: Array):
    """Returns the gradients of weight and scale."""
    weight, scale = kept
    scale = jnp.maximum(scale, FLOOR)
    ratio = weight / scale
    if quantizer.bits == 1:
        inside = jnp.abs(ratio) <= 1 + EDGE
        slope = jnp.sign(weight)
    else:
        grid = levels(quantizer.bits)
        inside = (ratio >= grid.low * (1 + EDGE)) & (ratio <= grid.high * (1 + EDGE))
        level = (quantizer.codes(weight, scale) + grid.shift) / grid.steps
        low, high = grid.saturated
        slope = jnp.where(inside, level - ratio, jnp.where(ratio < 0, low, high))
    count = weight.shape[-1] * weight.shape[-2]  # Of one matrix: stacked experts are many.
    damping = (count * quantizer.largest) ** -0.5
    to_scale = damping * jnp.sum(upstream * slope, axis=quantizer.axis, keepdims=True)
    return jnp.where(inside, upstream, 0.0), to_scale


fake_quantize.defvjp(forward, backward)


@dataclass(frozen=True)
class Quantization:
    """Which parameters of a model are quantised to how many bits.

    By default every array that tokens multiply by has `bits` (stacked experts and parameter tokens
    included), token tables and the head have at least 4, and the rest stays at full precision:
    routers and what is added rather than multiplied, such as prefixes, unless the rule says so;
    gains and biases always. `rule` puts pairs of a path pattern (`fnmatch`) and bits before the
    default; the first match counts, and bits None keeps full precision. `scales` are "learned", one
    trained array beside each quantised one, or "absmax", taken anew from the weights at every step.

    Raises:
      Refused: bits outside `BITS`, or unknown scales.
    """

    bits: float
    rule: tuple[tuple[str, float | None], ...] = ()
    scales: str = "learned"

    def __post_init__(self):
        for name, bits in (("bits", self.bits), *((f"rule {p}", b) for p, b in self.rule)):
            if bits not in BITS and not (bits is None and name != "bits"):
                accepted = f"one of {', '.join(map(str, BITS))}"
                raise Refused(f"quantize.{name}", bits, accepted)
        if self.scales not in SCALES:
            raise Refused("quantize.scales", self.scales, f"one of {', '.join(SCALES)}")
        # One spelling of a number, so that 4 and 4.0 name the same run.
        plain = lambda bits: int(bits) if bits is not None and bits == int(bits) else bits
        object.__setattr__(self, "bits", plain(self.bits))
        object.__setattr__(self, "rule", tuple((p, plain(b)) for p, b in self.rule))

    def default(self, group: Group) -> float | None:
        """Returns the bits of a group that no pattern speaks of."""
        if group.name in TABLES:
            return max(self.bits, FEWEST_TABLE_BITS)
        return self.bits if group.matmul and group.name not in PLAIN else None

    def quantizers(self, leaves: dict) -> dict[str, Quantizer]:
        """Returns the quantisers of a model's leaves, by path.

        Raises:
          Refused: a pattern that matches no array that can be quantised, or a rule that leaves all
            of them at full precision.
        """
        able = {p: x for p, x in leaves.items() if len(x.shape) > 1 and x.group.name != VECTOR.name}
        for pattern, _ in self.rule:
            if not any(fnmatchcase(path, pattern) for path in able):
                raise Refused("quantize.rule", pattern, f"a pattern of some of {', '.join(able)}")
        found = {}
        for path, leaf in able.items():
            matched = [bits for pattern, bits in self.rule if fnmatchcase(path, pattern)]
            bits = matched[0] if matched else self.default(leaf.group)
            if bits is not None:
                axis = -2 if leaf.group.matmul else -1
                found[path] = Quantizer(bits, axis, self.scales == "learned")
        if not found:
            raise Refused("quantize.rule", self.rule, "a rule that quantises some of the arrays")
        return found


SUFFIX = ":scale"


def scale_of(path: str) -> str:
    """Returns the path of the learned scales of an array; no part's path looks like it."""
    return path + SUFFIX


def scales(quantizers: dict[str, Quantizer], params: dict[str, Array]) -> dict[str, Array]:
    """Returns the scales that learned ones start from, by their paths."""
    return {
        scale_of(path): quantizer.start(params[path])
        for path, quantizer in quantizers.items()
        if quantizer.learned
    }


def scale(path: str, quantizer: Quantizer, params: dict[str, Array]) -> Array:
    """Returns the scales in force for one array."""
    if quantizer.learned:
        return params[scale_of(path)]
    start = quantizer.start(params[path])
    return jax.lax.stop_gradient(start) if isinstance(start, jax.Array) else start


def quantized(quantizers: dict[str, Quantizer], params: dict[str, Array]) -> dict[str, Array]:
    """Returns the parameters as the forward pass reads them: quantised, without scales."""
    plain = {path: x for path, x in params.items() if not path.endswith(SUFFIX)}
    return plain | {
        path: fake_quantize(quantizer, plain[path], scale(path, quantizer, params))
        for path, quantizer in quantizers.items()
    }
