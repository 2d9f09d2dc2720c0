"""What devices send each other in a compiled program: which arrays, along which of its axes."""

import re
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from refused import Refused
from scaling.chips.hlo import Array, Computation, Instruction

# Bytes that one device sends, of a group of n, in multiples of the bytes that it puts in: rings, or
# what amounts to the same (Chan et al. 2007, Collective communication, table 1).
SENT = {
    "all-gather": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "collective-broadcast": lambda n: 1.0,
}

IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


@dataclass(frozen=True)
class Collective:
    """One exchange: its kind, the arrays it results in, and bytes a device sends, each time.

    `axes` are those of the mesh along which it goes, `group` the devices that take part together,
    `times` how often it runs in a step, `said` where in the program it comes from.
    """

    kind: str
    arrays: tuple[Array, ...]
    wire: float
    axes: tuple[str, ...]
    group: int
    times: int
    said: str

    @property
    def bytes(self) -> float:
        """Bytes of its result on one device."""
        return sum(array.bytes for array in self.arrays)


def kind_of(instruction: Instruction) -> str | None:
    """Returns the kind of exchange that an instruction is or starts, None if it is none."""
    name = instruction.opcode.removesuffix("-start")
    return name if name in SENT else None


def collective(
    inside: Computation, instruction: Instruction, mesh: Mesh, times: int
) -> Collective | None:
    """Reads an exchange; None where each group is one device."""
    kind = kind_of(instruction)
    if kind == "all-reduce" and inside.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # As TPU text writes it: a fusion that keeps a slice of the sum.
    if kind == "collective-permute":
        pairs = np.array(pairs_of(instruction), int).reshape(-1, 2)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        groups, size = pairs, 2
    else:
        groups = groups_of(instruction, mesh.size)
        size = groups.shape[1]
    if size < 2 or not len(groups):
        return None
    given = [array for name in instruction.operands for array in inside.arrays(name)]
    sent = sum(array.bytes for array in given) * SENT[kind](size)
    if kind == "collective-permute":
        sent *= len(groups) / mesh.size
    return Collective(
        kind, results(kind, given, size), sent, along(groups, mesh), size, times, instruction.said
    )


def results(kind: str, given: list[Array], size: int) -> tuple[Array, ...]:
    """Returns the arrays that an exchange leaves on a device; a gathered one leads with the group.

    Split collectives return buffers beside their results, so results are made from operands.
    """
    if kind == "all-gather":
        return tuple(Array(x.type, (size, *x.shape), x.space) for x in given)
    if kind == "reduce-scatter":
        return tuple(Array(x.type, (-(-x.size // size),), x.space) for x in given)
    return tuple(given)


def along(groups: np.ndarray, mesh: Mesh) -> tuple[str, ...]:
    """Returns the mesh's axes along which the members of a group differ."""
    places = np.array(np.unravel_index(groups, tuple(mesh.shape.values())))
    differs = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(name for name, found in zip(mesh.axis_names, differs, strict=True) if found)


def pairs_of(instruction: Instruction) -> list[tuple[int, int]]:
    """Returns who sends to whom."""
    listed = instruction.attribute("source_target_pairs", r"\{[\d,{} ]*\}") or ""
    return [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", listed)]


def groups_of(instruction: Instruction, devices: int) -> np.ndarray:
    """Returns the groups of an exchange, [groups, members], in any of XLA's three notations.

    Raises:
      Refused: another notation.
    """
    text = instruction.rest.split("replica_groups=", 1)[-1]
    if text.startswith("{"):
        listed = re.findall(r"\{([\d,]+)\}", text[: text.index("}}") + 2] if "}}" in text else "")
        if not listed:
            return np.arange(devices)[None]
        return np.array([[int(x) for x in group.split(",")] for group in listed])
    found = re.match(rf"\[([\d,]+)\]<={IOTA}", text)
    if found:
        shape, sizes, order = found.groups()
        return iota(sizes, order).reshape(numbers(shape))
    found = re.match(rf"mesh\[([^\]]*)\](?:, device_ids=\({IOTA}\))? \{{([^}}]*)\}}", text)
    if found is None:
        raise Refused("replica_groups", text[:60], "a list, [..]<=[..], or mesh[..] {..}")
    axes, sizes, order, chosen = found.groups()
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = iota(sizes, order) if sizes else np.arange(devices)
    return of_axes(ids.reshape(tuple(axes.values())), list(axes), chosen)


def of_axes(ids: np.ndarray, names: list[str], chosen: str) -> np.ndarray:
    """Returns the groups along some axes of a grid of devices; `'a':(2)4` is a part of an axis."""
    kept, parts, shape = [], [], []
    wanted = {name: part for name, *part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)}
    for name, size in zip(names, ids.shape, strict=True):
        before, middle = (int(x) if x else None for x in wanted.get(name, ("", "")))
        split = (size,) if before is None else (before, middle, size // (before * middle))
        inner = None if name not in wanted else (0 if before is None else 1)
        for index in range(len(split)):
            (parts if index == inner else kept).append(len(shape) + index)
        shape += split
    grid = ids.reshape(shape).transpose(kept + parts)
    return grid.reshape(-1, int(np.prod([shape[i] for i in parts], initial=1)))


def iota(sizes: str, order: str | None) -> np.ndarray:
    """Returns 0, 1, … in a shape with its axes in an order."""
    grid = np.arange(np.prod(numbers(sizes))).reshape(numbers(sizes))
    return grid.transpose(numbers(order)) if order else grid


def numbers(text: str) -> tuple[int, ...]:
    """Reads numbers with commas between them."""
    return tuple(int(x) for x in text.split(","))
