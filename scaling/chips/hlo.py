"""The text of a compiled program, read: computations, instructions, and how often loops run."""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from refused import Refused

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}

ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
SPACE = re.compile(r"S\((\d+)\)")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
OPCODE = re.compile(r"\s*([\w\-]+)\(")
NAMES = re.compile(r"(?:^|[ ,{/])%?([A-Za-z_][\w.\-]*)(?=[,}]|$)")

# What hands a number on as it is, where a loop's bound is looked for.
SAME = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "optimization-barrier")


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a result: element type, shape, and its memory space, 0 being the device's."""

    type: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes of its elements, without padding; of tokens and other opaque types 0."""
        return BYTES.get(self.type, 1 if self.type.startswith("f8") else 0) * self.size

    @property
    def moved(self) -> float:
        """Bytes that reading or writing it moves in the device's memory; on-chip memory: none."""
        return 0.0 if self.space else self.bytes


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a computation; `arrays` are the leaves of its result, `rest` what follows it."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    rest: str
    root: bool

    def attribute(self, name: str, pattern: str = r"[\w.\-]+") -> str | None:
        """Returns the text after `name=`, if it is there."""
        found = re.search(rf"\b{name}=%?({pattern})", self.rest)
        return found.group(1) if found else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """Returns the numbers of `name={1,2}`; none where it is not there."""
        found = self.attribute(name, r"\{[\d,]*\}")
        return tuple(int(x) for x in re.findall(r"\d+", found or ""))

    @property
    def said(self) -> str:
        """Where in the program it comes from, as JAX named it."""
        return self.attribute("op_name", r'"[^"]*"') or ""

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the computations of which a conditional runs one."""
        listed = self.attribute("branch_computations", r"\{[^}]*\}")
        if listed:
            return tuple(NAMES.findall(listed))
        both = (self.attribute("true_computation"), self.attribute("false_computation"))
        return tuple(name for name in both if name)


@dataclass
class Computation:
    """Instructions by name, in their order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: Instruction | None = None

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def arrays(self, name: str) -> tuple[Array, ...]:
        """Returns the arrays of an instruction's result."""
        return self.instructions[name].arrays

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """Names of the parameters, by number."""
        return {int(x.literal): x.name for x in self if x.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Which instructions read each."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users


@dataclass
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: Computation

    def called(self, instruction: Instruction, name: str = "calls") -> Computation | None:
        """Returns the computation that an instruction calls, if any."""
        found = instruction.attribute(name)
        return self.computations.get(found) if found else None

    def trips(self, inside: Computation, loop: Instruction) -> int | None:
        """Returns how often a loop's body runs; None where the program does not say."""
        known = re.search(r'"known_trip_count":\s*\{"n":\s*"(\d+)"', loop.rest)
        if known:
            return int(known.group(1))
        condition, body = self.called(loop, "condition"), self.called(loop, "body")
        direction, *sides = self.compared(condition)
        if direction not in ("LT", "LE", "GT", "GE", "NE"):
            return None
        start = inside.instructions[loop.operands[0]]
        values = [self.through(inside, start, body, side) for side in sides]
        return count(direction, *values) if None not in values else None

    def compared(self, condition: Computation) -> tuple:
        """Returns the direction of a loop's test and its sides: numbers, or what is carried."""
        root, names = condition.root, condition
        passed = None
        while root.opcode in ("fusion", "call"):
            inner = self.called(root) or self.called(root, "to_apply")
            passed = {inner.parameters[i]: (names, name) for i, name in enumerate(root.operands)}
            root, names = inner.root, inner
        if root.opcode != "compare":
            return (None,)
        sides = [self.value(names, name, passed) for name in root.operands]
        return (root.attribute("direction"), *sides)

    def value(self, inside: Computation, name: str, passed=None) -> int | str | None:
        """Returns a number, `element I` of the carried tuple, or None for anything else."""
        instruction = inside.instructions[name]
        if instruction.opcode == "constant":
            return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal) else None
        if instruction.opcode in SAME:
            return self.value(inside, instruction.operands[0], passed)
        if instruction.opcode == "parameter" and passed:
            return self.value(*passed[name])
        if instruction.opcode == "get-tuple-element":
            source = inside.instructions[instruction.operands[0]]
            if source.opcode == "parameter":
                return f"element {instruction.attribute('index')}"
            if source.opcode == "tuple":
                return self.value(inside, source.operands[int(instruction.attribute("index"))])
        return None

    def through(self, inside, start: Instruction, body: Computation, side) -> tuple | None:
        """Returns (first value, step) of a side of a loop's test; a number's step is 0."""
        if isinstance(side, int):
            return side, 0
        if side is None or start.opcode != "tuple" or body.root.opcode != "tuple":
            return None
        index = int(side.split()[1])
        first = self.value(inside, start.operands[index])
        step = self.step(body, body.root.operands[index], side)
        return (first, step) if isinstance(first, int) and step is not None else None

    def step(self, body: Computation, name: str, side: str) -> int | None:
        """Returns by how much a carried number changes in one turn of a loop."""
        if self.value(body, name) == side:
            return 0
        last, names, passed = body.instructions[name], body, None
        if last.opcode == "get-tuple-element":
            index = int(last.attribute("index"))
            last = body.instructions[last.operands[0]]
        else:
            index = 0
        if last.opcode in ("fusion", "call"):
            inner = self.called(last) or self.called(last, "to_apply")
            passed = {inner.parameters[i]: (names, x) for i, x in enumerate(last.operands)}
            names, last = inner, inner.root
            if last.opcode == "tuple":
                last = names.instructions[last.operands[index]]
        if last.opcode not in ("add", "subtract"):
            return None
        sides = [self.value(names, x, passed) for x in last.operands]
        number = next((x for x in sides if isinstance(x, int)), None)
        if number is None or side not in sides:
            return None
        return number if last.opcode == "add" else -number


def count(direction: str, left: tuple[int, int], right: tuple[int, int]) -> int | None:
    """Returns how often a test holds of two numbers, each (first, step), one of which stands."""
    gap, step = right[0] - left[0], left[1] - right[1]
    if direction in ("GT", "GE"):
        gap, step = -gap, -step
    if direction in ("LE", "GE"):
        gap += 1
    if direction == "NE":
        return gap // step if step and gap % step == 0 and gap // step >= 0 else None
    return max(0, math.ceil(gap / step)) if step > 0 else None


def result(text: str) -> int:
    """Returns where the type at the start of an instruction's right side ends."""
    if not text.startswith("("):
        return text.index(" ")
    return closed(text, 0) + 1


def closed(text: str, begin: int) -> int:
    """Returns the place of the bracket that closes the one at `begin`."""
    depth = 0
    for place in re.finditer(r"[()]", text[begin:]):
        depth += 1 if place.group() == "(" else -1
        if depth == 0:
            return begin + place.start()
    raise Refused("program", text[:60], "a line whose brackets close")


def arrays(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a type."""
    found = []
    for kind, shape, layout in ARRAY.findall(text):
        space = SPACE.search(layout)
        sizes = tuple(int(x) for x in shape.split(",") if x)
        found.append(Array(kind, sizes, int(space.group(1)) if space else 0))
    return tuple(found)


def instruction(line: str) -> Instruction | None:
    """Reads one line of a computation."""
    found = INSTRUCTION.match(line)
    if found is None:
        return None
    root, name, right = found.groups()
    end = result(right)
    opcode = OPCODE.match(right, end)
    begin = opcode.end() - 1
    last = closed(right, begin) if opcode.group(1) != "constant" else right.rindex(")")
    if opcode.group(1) == "constant" and ", metadata=" in right:
        last = right.index(", metadata=") - 1
    inside = right[begin + 1 : last]
    literal = inside if opcode.group(1) in ("constant", "parameter") else ""
    names = () if literal else tuple(NAMES.findall(inside))
    return Instruction(
        name, opcode.group(1), arrays(right[:end]), names, literal, right[last + 1 :], bool(root)
    )


def lines(text: str) -> Iterator[str]:
    """Yields a text's lines, those of an instruction that goes over several as one."""
    held = ""
    for line in text.splitlines():
        if held.startswith(" ") and not line.startswith(" ") and line != "}":
            held += line
        else:
            yield held
            held = line
    yield held


def read(text: str) -> Module:
    """Reads the text of a compiled program, or, as HLO, of one that is only lowered.

    Raises:
      Refused: a text without an entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in lines(text):
        if line == "}":
            current = None
        elif current is None:
            found = COMPUTATION.match(line)
            if found:
                current = computations.setdefault(found.group(2), Computation(found.group(2)))
                entry = current if found.group(1) else entry
        else:
            one = instruction(line)
            if one is not None:
                current.instructions[one.name] = one
                current.root = one if one.root else current.root
    if entry is None:
        raise Refused("program", text[:60], "the text of a compiled program, with its entry")
    return Module(computations, entry)
