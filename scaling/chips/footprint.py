"""How much memory a traced computation keeps at once, as a compiler that fuses would keep it.

Results of products, reductions, gathers, loops and kernels are kept while anything needs them.
What is computed element by element is not kept but computed again where it is read, unless that
would read more than keeping it: then it is.
"""

from dataclasses import dataclass, field

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

# An elementwise result is kept where what it is computed from takes more than so many times its
# bytes. On accelerators two factors of a gated unit do not, a residual stream and all that was
# added to it does; XLA's CPU back end keeps all but what is spread out from less. Foretold over
# what XLA takes, with state (baseline, bfloat16): an H200 at 20M 1.07, scanned 350M 1.06, 7B 1.02;
# TPUs by docs/scale.md 0.94 to 1.15; a CPU at width 64 0.98.
KEPT_ABOVE = {"tpu": 2.0, "cuda": 2.0, "cpu": 0.99}

FUSED = frozenset(
    (
        "abs add add_any and atan2 broadcast_in_dim cbrt ceil clamp convert_element_type copy "
        "copy_p cos div eq erf erf_inv exp exp2 expand_dims expm1 floor ge gt imag integer_pow "
        "iota is_finite le log log1p logistic lt max min mul name ne neg nextafter not or pad pow "
        "pvary real reduce_precision rem reshape rev round rsqrt select_n sharding_constraint "
        "shift_left shift_right_arithmetic shift_right_logical sign sin slice split sqrt square "
        "squeeze stop_gradient sub tan tanh transpose unstack xor "
    ).split()
)
ALSO = {"cuda": ("concatenate",)}  # As in rotary positions.
# What only says how an array lies; its operand's bytes serve as they are.
LAYOUT = ("reshape", "transpose", "squeeze", "expand_dims", "name", "copy_p", "pvary")
# Who reads arrays from memory alone, so that operands which were computed element by element are
# written first, and kept for whoever reads them later: loops, and on GPUs the libraries' products.
LOOPS = ("scan", "while", "cond")
INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")
INLINED += ("remat", "remat2", "checkpoint", "custom_vjp_call_jaxpr", "shard_map")


@dataclass
class Buffer:
    """Bytes that are kept from the step at which they are made to the last that reads them."""

    bytes: float
    made: int
    last: int


@dataclass
class Trace:
    """Walks a computation; `passing` are the bytes that a step needs only while it runs.

    `near` of these are in a memory of their own.
    """

    platform: str
    near: float = 0.0
    buffers: list[Buffer] = field(default_factory=list)
    sources: dict[Var, frozenset[int]] = field(default_factory=dict)
    passing: dict[int, float] = field(default_factory=dict)
    shares: dict[Var, float] = field(default_factory=dict)
    plain: set[Var] = field(default_factory=set)
    now: int = 0

    def of(self, atom) -> frozenset[int]:
        """Returns what a value is computed from; numbers and inputs need nothing kept."""
        return frozenset() if isinstance(atom, Literal) else self.sources.get(atom, frozenset())

    def share(self, atoms) -> float:
        """Returns the part that one device has of what is computed from values that are split."""
        arrays = [atom for atom in atoms if not isinstance(atom, Literal)]
        return max((self.shares.get(atom, 1.0) for atom in arrays), default=1.0)

    def keep(self, var: Var, share: float = 1.0) -> None:
        """Keeps a result from now on."""
        self.plain.add(var)
        self.sources[var] = frozenset((len(self.buffers),))
        self.buffers.append(Buffer(share * size(var), self.now, self.now))

    def read(self, atoms) -> frozenset[int]:
        """Reads values now, and returns what they are computed from."""
        needed = frozenset().union(*map(self.of, atoms))
        for index in needed:
            self.buffers[index].last = self.now
        return needed

    def run(self, jaxpr: Jaxpr) -> None:
        """Takes a computation's steps in their order."""
        for step in jaxpr.eqns:
            self.now += 1
            inner = inside(step)
            if inner is not None and step.primitive.name in INLINED:
                self.inline(step, inner)
            elif step.primitive.name in FUSED or step.primitive.name in ALSO.get(self.platform, ()):
                self.fuse(step)
            else:
                if self.platform == "cuda" or step.primitive.name in LOOPS:
                    self.write(step.invars)
                self.read(step.invars)
                self.passing[self.now] = max(0.0, loop_bytes(step, self.platform) - self.near)
                # Split arrays that are put together, as layers' in a stack, stay split.
                joined = step.primitive.name in ("concatenate", "stack")
                for var in step.outvars:
                    self.keep(var, self.share(step.invars) if joined else 1.0)

    def write(self, atoms) -> None:
        """Keeps what was not: operands that are read from memory."""
        for atom in atoms:
            if not isinstance(atom, Literal) and atom not in self.plain and size(atom):
                self.read((atom,))
                self.keep(atom, self.share((atom,)))

    def inline(self, step, inner: Jaxpr) -> None:
        """Takes the steps of a call as if they stood here."""
        given = step.invars[len(step.invars) - len(inner.invars) :]
        for var, atom in zip(inner.invars, given, strict=True):
            self.sources[var] = self.of(atom)
            self.shares[var] = self.share((atom,))
            self.alias(var, atom)
        self.run(inner)
        for var, atom in zip(inner.invars, given, strict=True):
            if var in self.plain and not isinstance(atom, Literal):  # Written there: it lies here.
                self.sources[atom], self.shares[atom] = self.of(var), self.share((var,))
                self.plain.add(atom)
        for var, atom in zip(step.outvars, inner.outvars, strict=True):
            self.sources[var] = self.of(atom)
            self.shares[var] = self.share((atom,))
            self.alias(var, atom)

    def alias(self, var: Var, atom) -> None:
        """Notes that a value lies in memory where another does."""
        if not isinstance(atom, Literal) and atom in self.plain:
            self.plain.add(var)

    def fuse(self, step) -> None:
        """Takes an elementwise step: its result is kept only where that needs less."""
        needed = frozenset().union(*map(self.of, step.invars))
        weight = sum(self.buffers[index].bytes for index in needed)
        for var in step.outvars:
            self.shares[var] = self.share(step.invars)
            if weight > KEPT_ABOVE.get(self.platform, 2.0) * size(var) and size(var):
                for index in needed:
                    self.buffers[index].last = max(self.buffers[index].last, self.now - 1)
                self.keep(var)
            else:
                self.sources[var] = needed
                if step.primitive.name in LAYOUT:
                    self.alias(var, step.invars[0])

    def peak(self) -> float:
        """Returns the most bytes that are kept at once."""
        change = np.zeros(self.now + 3)
        for buffer in self.buffers:
            change[buffer.made] += buffer.bytes
            change[buffer.last + 1] -= buffer.bytes
        for step, passing in self.passing.items():
            change[step] += passing
            change[step + 1] -= passing
        return float(change.cumsum().max())


def size(var: Var) -> float:
    """Returns the bytes of a value."""
    shape, kind = getattr(var.aval, "shape", ()), getattr(var.aval, "dtype", None)
    if kind is None or jax.dtypes.issubdtype(kind, jax.dtypes.extended):
        return 0.0
    return float(np.prod(shape, dtype=float) * np.dtype(kind).itemsize)


def inside(step) -> Jaxpr | None:
    """Returns the computation that a step calls, if it is one."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = step.params.get(name)
        if isinstance(found, ClosedJaxpr):
            return found.jaxpr
        if isinstance(found, Jaxpr):
            return found
    return None


def loop_bytes(step, platform: str) -> float:
    """Returns the bytes that a loop's body, or the costliest of several branches, needs."""
    names = {"scan": ("jaxpr",), "while": ("body_jaxpr",)}.get(step.primitive.name, ())
    bodies = [step.params[name] for name in names]
    if step.primitive.name == "cond":
        bodies = list(step.params["branches"])
    return max((kept(getattr(body, "jaxpr", body), platform) for body in bodies), default=0.0)


def kept(
    jaxpr: Jaxpr,
    platform: str,
    outputs: dict[int, float] | None = None,
    inputs: dict[int, float] | None = None,
    near: float = 0.0,
) -> float:
    """Returns the most bytes that a computation keeps at once, beside its inputs.

    `platform` is that of JAX which it is compiled for. `outputs` are the parts that one device has
    of some results, by their number, `inputs` those of some inputs. So many bytes as `near` says,
    of what a loop's body needs while it runs, are in a memory of their own.
    """
    trace = Trace(platform, near)
    trace.plain.update(jaxpr.invars)
    trace.plain.update(jaxpr.constvars)
    trace.shares = {jaxpr.invars[index]: part for index, part in (inputs or {}).items()}
    trace.run(jaxpr)
    trace.now += 1
    trace.read(jaxpr.outvars)
    scales: dict[int, float] = {}  # Several results may be parts of one buffer.
    for index, scale in (outputs or {}).items():
        for source in trace.of(jaxpr.outvars[index]):
            scales[source] = max(scale, scales.get(source, 0.0))
    for source, scale in scales.items():
        trace.buffers[source].bytes *= scale
    return trace.peak()
