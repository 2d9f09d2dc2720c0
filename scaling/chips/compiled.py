"""What a compiled program does, read from its text: products, bytes moved, and exchanges.

XLA's own `cost_analysis` counts a loop's body once, however often it runs; here every body counts
as often as it does.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from refused import Refused
from scaling.chips.collectives import Collective, collective, kind_of
from scaling.chips.hlo import Array, Computation, Instruction, Module, read
from scaling.chips.kernels import kernel_flops

# What costs nothing: names, numbers, and the ends of what was counted at its start.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")
FREE += ("partition-id", "replica-id", "optimization-barrier", "domain", "add-dependency")
# So do a TPU's marks of memory that is still to be written, and of parts that lie together already.
MARKS = re.compile(r'custom_call_target="(?:AllocateBuffer|ConcatBitcast)"')
SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Work:
    """One instruction that runs `times` a step: FLOPs of products and bytes moved, each time."""

    name: str
    opcode: str
    said: str
    times: int
    flops: float
    bytes: float


@dataclass
class Account:
    """What one device does in a step.

    `unread` names kernels whose products could not be counted. `loops` are the trip counts, by the
    loop's name; that over steps, whose count is data, is 1.
    """

    works: list[Work] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    loops: dict[str, int] = field(default_factory=dict)
    largest: list[tuple[Array, str]] = field(default_factory=list)

    @property
    def flops(self) -> float:
        """FLOPs of all products, a multiply-add being two."""
        return sum(work.times * work.flops for work in self.works)

    @property
    def bytes(self) -> float:
        """Bytes read from and written to the device's memory."""
        return sum(work.times * work.bytes for work in self.works)

    @property
    def wire(self) -> float:
        """Bytes that the device sends to others."""
        return sum(one.times * one.wire for one in self.collectives)


def account(text: str, mesh: Mesh) -> Account:
    """Reads what a device does in one step of a program, compiled for a mesh.

    The program may have one loop at its top whose trip count is data: that over its steps.

    Raises:
      Refused: any other loop whose trip count the text does not give.
    """
    return Reader(read(text), mesh).read()


@dataclass
class Reader:
    """Walks a program's computations as they run."""

    module: Module
    mesh: Mesh
    account: Account = field(default_factory=Account)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def read(self) -> Account:
        """Reads from the entry on."""
        self.run(self.module.entry, 1, top=True)
        self.account.largest = self.arrays()
        return self.account

    def run(self, inside: Computation, times: int, top: bool = False) -> None:
        """Counts a computation that runs so often."""
        for instruction in inside:
            kind = instruction.opcode
            if kind in FREE or kind.endswith(("-done", "-update")) or is_mark(instruction):
                continue
            if kind == "while":
                self.loop(inside, instruction, times, top)
            elif kind == "conditional":
                self.run(self.costliest(instruction), times)
            elif kind in ("call", "async-start"):
                called = self.module.called(instruction, "to_apply")
                called = called or self.module.called(instruction)
                self.run(called, times, top)
            elif kind_of(instruction):
                self.exchange(inside, instruction, times)
            else:
                self.work(inside, instruction, times)

    def loop(self, inside: Computation, instruction: Instruction, times: int, top: bool) -> None:
        """Counts a loop's body as often as it runs."""
        trips = self.module.trips(inside, instruction)
        if trips is None:
            if not top or 1 in self.account.loops.values():
                accepted = "a loop whose trip count the compiled text gives"
                raise Refused("program.loop", f"{instruction.name} {instruction.said}", accepted)
            trips = 1
        self.account.loops[instruction.name] = trips
        self.run(self.module.called(instruction, "body"), times * trips)

    def costliest(self, instruction: Instruction) -> Computation:
        """Returns the branch of a conditional that has the most products."""
        branches = [self.module.computations[name] for name in instruction.branches]
        return max(branches, key=self.products)

    def exchange(self, inside: Computation, instruction: Instruction, times: int) -> None:
        """Counts an exchange; what TPU text splits over several fusions has one chain, once."""
        chain = re.search(r'chain_id="(\d+)"', instruction.rest)
        if chain:
            key = (chain.group(1), instruction.attribute("channel_id") or "")
            if key in self.seen:
                return
            self.seen.add(key)
        found = collective(inside, instruction, self.mesh, times)
        if found is not None:
            self.account.collectives.append(found)

    def work(self, inside: Computation, instruction: Instruction, times: int) -> None:
        """Counts an instruction's products and bytes, and the exchanges inside a fusion."""
        called = self.module.called(instruction) if instruction.opcode == "fusion" else None
        if called is not None:
            for computation in self.within(called):
                for inner in computation:
                    if kind_of(inner):
                        self.exchange(computation, inner, times)
        flops = self.flops(inside, instruction)
        moved = self.moved(inside, instruction, called)
        self.account.works.append(
            Work(instruction.name, instruction.opcode, instruction.said, times, flops, moved)
        )

    def within(self, computation: Computation) -> Iterator[Computation]:
        """Yields a fusion's computation and those of the fusions in it."""
        yield computation
        for instruction in computation:
            called = self.module.called(instruction) if instruction.opcode == "fusion" else None
            if called is not None:
                yield from self.within(called)

    def products(self, computation: Computation) -> float:
        """Returns the FLOPs of a computation that runs once, loops in it included."""
        total = 0.0
        for instruction in computation:
            if instruction.opcode == "while":
                trips = self.module.trips(computation, instruction) or 1
                total += trips * self.products(self.module.called(instruction, "body"))
            else:
                total += self.flops(computation, instruction)
        return total

    def flops(self, inside: Computation, instruction: Instruction) -> float:
        """Returns the FLOPs of an instruction's products, those that it calls included."""
        kind = instruction.opcode
        if kind in ("fusion", "call"):
            called = self.module.called(instruction) or self.module.called(instruction, "to_apply")
            return self.products(called)
        if kind == "dot":
            left = inside.arrays(instruction.operands[0])[0].shape
            over = [left[i] for i in instruction.numbers("lhs_contracting_dims")]
            return 2.0 * instruction.arrays[0].size * np.prod(over, initial=1.0)
        if kind == "ragged-dot":
            left, right = (inside.arrays(name)[0] for name in instruction.operands[:2])
            return 2.0 * left.size * right.shape[-1]
        if kind == "convolution":
            return convolution(inside, instruction)
        if kind == "custom-call":
            return self.kernel(inside, instruction)
        return 0.0

    def kernel(self, inside: Computation, instruction: Instruction) -> float:
        """Returns the FLOPs of a kernel, and notes the name of one that has no formula."""
        found = kernel_flops(inside, instruction)
        if found is None:
            self.account.unread.add(instruction.name.rstrip("0123456789."))
        return found or 0.0

    def moved(self, inside: Computation, instruction: Instruction, called) -> float:
        """Returns the bytes that an instruction reads from and writes to the device's memory."""
        operands = [sum(a.moved for a in inside.arrays(name)) for name in instruction.operands]
        written = sum(array.moved for array in instruction.arrays)
        kind = instruction.opcode
        if called is not None:
            names = [called.parameters[i] for i in range(len(operands))]
            reads = [self.reads(called, n, x) for n, x in zip(names, operands, strict=True)]
            return sum(reads) + self.writes(called, called.root, instruction.arrays)
        if kind == "copy-start":
            return operands[0] + instruction.arrays[0].moved
        if kind == "slice-start":  # Of results the last but one is the slice, the first its source.
            part = instruction.arrays[-2]
            return min(operands[0], part.bytes) + part.moved
        if kind in SLICES:
            return min(operands[0], written) + written + sum(operands[1:])
        if kind == "dynamic-update-slice":
            return 2 * operands[1]
        if kind == "scatter":
            return 2 * operands[-1] + operands[1]
        return sum(operands) + written

    def reads(self, inside: Computation, name: str, whole: float) -> float:
        """Returns how many bytes of a fusion's operand of `whole` bytes are read in it."""
        total = 0.0
        for user in inside.users[name] if whole else ():
            first = user.operands[0] == name and name not in user.operands[1:]
            if user.opcode in SLICES and first:
                total += sum(array.bytes for array in user.arrays)
            elif user.opcode == "bitcast":
                total += self.reads(inside, user.name, whole)
            elif user.opcode == "fusion":
                called = self.module.called(user)
                for index, operand in enumerate(user.operands):
                    if operand == name:
                        total += self.reads(called, called.parameters[index], whole)
            elif not (passes(user) or user.opcode in ("dynamic-update-slice", "scatter") and first):
                return whole
        return min(total, whole)

    def writes(self, inside: Computation, root: Instruction, arrays: tuple[Array, ...]) -> float:
        """Returns how many bytes of a fusion's results are written: of an update, its part."""
        if root.opcode == "tuple" and len(root.operands) == len(arrays):
            parts = zip(root.operands, arrays, strict=True)
            return sum(self.writes(inside, inside.instructions[n], (a,)) for n, a in parts)
        if root.opcode == "bitcast":
            return self.writes(inside, inside.instructions[root.operands[0]], arrays)
        moved = sum(array.moved for array in arrays)
        if passes(root) or root.opcode == "parameter":
            return 0.0
        if root.opcode == "dynamic-update-slice":
            return min(moved, inside.arrays(root.operands[1])[0].bytes)
        if root.opcode == "scatter":
            return min(moved, inside.arrays(root.operands[-1])[0].bytes)
        return moved

    def arrays(self) -> list[tuple[Array, str]]:
        """Returns the ten largest arrays in the device's memory, each with where it comes from."""
        found: dict[Array, str] = {}
        for computation in self.executed():
            for instruction in computation:
                if instruction.opcode in FREE:
                    continue
                for array in instruction.arrays if not handed_on(instruction) else ():
                    if not array.space:
                        found.setdefault(array, instruction.said)
        return sorted(found.items(), key=lambda item: -item[0].bytes)[:10]

    def executed(self) -> Iterator[Computation]:
        """Yields the computations whose results are arrays in memory: all but those of fusions."""
        names = ("body", "to_apply")
        waiting, done = [self.module.entry], set()
        while waiting:
            computation = waiting.pop()
            if computation.name in done:
                continue
            done.add(computation.name)
            yield computation
            for instruction in computation:
                if instruction.opcode in ("while", "call", "async-start"):
                    called = [self.module.called(instruction, name) for name in (*names, "calls")]
                    waiting += [one for one in called if one is not None]
                waiting += [self.module.computations[name] for name in instruction.branches]


def is_mark(instruction: Instruction) -> bool:
    """Says whether an instruction only tells the compiler something."""
    return instruction.opcode == "custom-call" and bool(MARKS.search(instruction.rest))


def handed_on(instruction: Instruction) -> bool:
    """Says whether an instruction hands on arrays that others made."""
    return instruction.opcode in ("while", "conditional", "call")


def passes(instruction: Instruction) -> bool:
    """Says whether an instruction only hands on its operands: a tuple, or part of an exchange."""
    if instruction.opcode in ("tuple", "get-tuple-element") or kind_of(instruction):
        return True
    return instruction.opcode == "custom-call" and "AsyncCollective" in instruction.rest


def convolution(inside: Computation, instruction: Instruction) -> float:
    """Returns the FLOPs of a convolution, as which TPU text writes products.

    A multiply-add counts where the window meets an element: neither padding nor a hole that
    dilation leaves.
    """
    left, right = (inside.arrays(name)[0].shape for name in instruction.operands[:2])
    out = instruction.arrays[0].shape
    labels = instruction.attribute("dim_labels", r"[\w?]+_[\w?]+->[\w?]+")
    of_left, of_right, of_out = re.split(r"_|->", labels)
    window = instruction.attribute("window", r"\{[^}]*\}") or ""

    def given(name: str, default: int) -> list:
        text = re.search(rf"\b{name}=([\d_x-]+)", window)
        return text.group(1).split("x") if text else [default] * len(set(of_out) - set("bf"))

    total = 2.0 * right[of_right.index("i")] * out[of_out.index("f")] * out[of_out.index("b")]
    pads = [str(pad).split("_")[0] for pad in given("pad", 0)]
    for axis in sorted(set(of_out) - set("bf")):
        place = int(axis)
        sizes = left[of_left.index(axis)], right[of_right.index(axis)], out[of_out.index(axis)]
        steps = [int(given(name, 1)[place]) for name in ("stride", "lhs_dilate", "rhs_dilate")]
        total *= meetings(*sizes, *steps, int(pads[place]))
    return total


@functools.cache
def meetings(size: int, kernel: int, out: int, stride: int, holes: int, apart: int, pad: int):
    """Counts pairs of window and output places that meet an element, along one dimension."""
    place = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * apart - pad
    return int(((place >= 0) & (place % holes == 0) & (place // holes < size)).sum())
