"""What a study needs on devices that may not be here: meshes that fit, and seconds of a step."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import models
from models import Experts
from refused import Refused
from scaling.chips.absent import Job, missing, result
from scaling.chips.devices import Target
from scaling.chips.estimate import Memory, memory
from scaling.chips.thrift import MEMORY_SHARE, cost, exchange_share, fitting, products, ways
from scaling.mesh import absent_mesh
from scaling.plan import Segment
from scaling.recipe import Recipe
from scaling.train import Program

# The accounting's own error, up to which a program is compiled all the same to see.
WORTH_A_TRY = 1.3
# Meshes are not told apart from the cheapest whose steps take at most such a part of their
# products' time longer, or such a time: hundreds of exchanges each begin with a delay, which no
# vendor's page says. Of these the one that splits least comes first.
TOLD_APART, DELAYS = 0.05, 5e-3
MOST_CHIPS = 1 << 14  # Up to which the smallest number that would fit is looked for.


@dataclass
class Need:
    """A program that segments of a plan share, and how much of it they train."""

    recipe: Recipe
    batch_tokens: int
    segments: int = 0
    steps: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are trained on with it."""
        return self.steps * self.batch_tokens

    @property
    def flops_step(self) -> float:
        """Training FLOPs of a step, of all devices: `models.count`, nothing computed again."""
        return models.count(self.recipe.model).flops_train * self.batch_tokens


@dataclass(frozen=True)
class Fit:
    """A program on a mesh: its memory by accounting, and what compiling found, if it was.

    `accumulate` and `recompute` are the program's, chosen to fit (`scaling.chips.thrift`).
    """

    need: Need
    target: Target
    mesh: str
    memory: Memory
    compiled: dict | None
    accumulate: int = 1
    recompute: str = "auto"

    @property
    def bytes(self) -> float:
        """Bytes on one device: the compiler's, or else the accounting's."""
        if self.compiled is None:
            return self.memory.at_once
        sizes = self.compiled["memory"]
        return (
            sizes["arguments"]
            + sizes["outputs"]
            + sizes["temporaries"]
            - sizes["aliased"]
            + sizes["code"]
        )

    @property
    def seconds(self) -> float:
        """Least seconds of a step: the roofline's, or by accounting products and links alone."""
        return self.compiled["seconds"] if self.compiled else sum(self.by_accounting())

    @property
    def overlapped(self) -> float:
        """The same with all but the longest hidden."""
        return self.compiled["overlapped"] if self.compiled else max(self.by_accounting())

    @property
    def mfu(self) -> float:
        """The share of the devices' peak that these seconds allow."""
        peak = self.target.device.peak * self.target.count
        return self.need.flops_step / (peak * self.seconds)

    @property
    def chip_hours(self) -> float:
        """Chip-hours of all its steps, at least."""
        return self.need.steps * self.seconds * self.target.chips / 3600

    def by_accounting(self) -> tuple[float, float]:
        """Returns the seconds of a step's products, and of what the mesh has to send."""
        program = program_on(self.need, self.mesh, self.target)
        least = products(program, self.target.device)
        return least, least * exchange_share(replace(program, accumulate=self.accumulate))


def needs(segments: Iterable[Segment]) -> list[Need]:
    """Returns the programs that segments need, in their order."""
    found: dict[tuple, Need] = {}
    for segment in segments:
        if segment.steps:
            key = segment.recipe.static, segment.phase.batch_tokens
            need = found.setdefault(key, Need(*key))
            need.segments += 1
            need.steps += segment.steps
    return list(found.values())


def mesh_of(spec: str, target: Target):
    """Returns a mesh of devices that need not be here."""
    device = target.device
    return absent_mesh(spec, target.count, device.kinds[0], device.platform)


def program_on(need: Need, spec: str, target: Target) -> Program:
    """Returns a program on a mesh.

    Raises:
      Refused: a batch or a model that the mesh does not divide.
    """
    mesh = mesh_of(spec, target)
    return Program(recipe=need.recipe, batch_tokens=need.batch_tokens, mesh=mesh)


def meshes(need: Need, count: int) -> Iterator[str]:
    """Yields meshes of so many devices, those that send the least first: data, then more fsdp."""
    experts = need.recipe.model.feed_forward
    for fsdp in (size for size in range(1, count + 1) if count % size == 0):
        parts = {"fsdp": fsdp, "data": count // fsdp}
        if isinstance(experts, Experts) and fsdp > 1:
            over = math.gcd(experts.routed, fsdp)
            if over > 1:
                yield spelled({"expert": over, "fsdp": fsdp // over, "data": count // fsdp})
        yield spelled(parts)


def spelled(sizes: dict[str, int]) -> str:
    """Writes a mesh's axes."""
    return ",".join(f"{name}:{size}" for name, size in sizes.items() if size > 1) or "data:1"


def fitted(need: Need, target: Target, spec: str = "", compiling: bool = True) -> Fit:
    """Returns a program on the cheapest mesh on which it fits, or on the one that is given.

    It is compiled where that is asked for and what compiles for these devices is installed.

    Raises:
      Refused: a program that fits under no mesh, with the smallest number of chips that would by
        accounting, or a mesh that does not divide it.
    """
    compiling = compiling and missing(target) is None
    for mesh, program, found in candidates(need, target, spec, compiling):
        read = None
        if compiling:
            how = program.accumulate, program.recompute
            read = result(Job(need.recipe, need.batch_tokens, mesh, target, *how))
        known = None if read and "full" in read else read
        fit = Fit(need, target, mesh, found, known, program.accumulate, program.recompute)
        if read is not None and target.device.grid:
            if known is not None:  # A TPU's compiler has refused what does not fit.
                return fit
        elif known is read and fit.bytes <= MEMORY_SHARE * target.device.memory:
            return fit
    raise no_fit(need, target, spec)


def candidates(need: Need, target: Target, spec: str, compiling: bool) -> list[tuple]:
    """Returns meshes with the program and its memory on each, the cheapest first.

    A mesh that splits more leaves room for larger micro-batches and less recomputation. Where
    programs are compiled, those that nearly fit by accounting come last.

    Raises:
      Refused: a batch that no mesh of so many devices divides, or not the one that is given.
    """
    most, tried = MEMORY_SHARE * target.device.memory, []
    for mesh, program in (programs := divided(need, target, spec)):
        program = fitting(program, most) or program
        found = memory(program)
        if found.at_once <= most * (WORTH_A_TRY if compiling else 1):
            tried.append((found.at_once > most, cost(program), (mesh, program, found)))
    within = [spent for over, spent, _ in tried if not over]
    least = products(programs[0][1], target.device)
    alike = min(within, default=0.0) + max(TOLD_APART, DELAYS / least)
    ranked = sorted(tried, key=lambda one: (one[0], max(one[1], alike)))
    return [one for *_, one in ranked]


def divided(need: Need, target: Target, spec: str) -> list[tuple[str, Program]]:
    """Returns the meshes that divide a batch, or the one that is given, with the program on each.

    Raises:
      Refused: as `program_on` says it of the first, where none does.
    """
    found, refused = [], None
    for mesh in [spec] if spec else meshes(need, target.count):
        try:
            found.append((mesh, program_on(need, mesh, target)))
        except Refused as error:
            refused = refused or error
    if refused and not found:
        raise refused
    return found


def no_fit(need: Need, target: Target, spec: str) -> Refused:
    """Returns the refusal of a program that fits on no mesh of so many chips."""
    model = need.recipe.model
    got = f"{target.name} for width {model.width} and batch {need.batch_tokens} tokens"
    got += f" on mesh {spec}" if spec else ""
    chips = smallest(need, target)
    if chips is None:
        sequences = need.batch_tokens // model.context
        accepted = "a smaller model, or another batch: by accounting it fits on no number of chips "
        accepted += f"that divides {sequences} sequences"
    else:
        accepted = f"{target.device.name} with {chips} chips or more, by accounting"
    return Refused("--for", got, accepted)


def smallest(need: Need, target: Target) -> int | None:
    """Returns the smallest number of chips on which a program fits by accounting.

    It is a power of two, or on GPUs a multiple of eight.
    """
    device, each = target.device, target.count // target.chips
    sequences = need.batch_tokens // need.recipe.model.context
    for chips in range(1, min(MOST_CHIPS, sequences // each) + 1):
        there = chips & (chips - 1) == 0 or not device.grid and chips % 8 == 0
        if not there or sequences % (chips * each):
            continue
        for spec in meshes(need, chips * each):
            mesh = absent_mesh(spec, chips * each, device.kinds[0], device.platform)
            program = Program(recipe=need.recipe, batch_tokens=need.batch_tokens, mesh=mesh)
            *_, least = ways(program)  # The way that takes the most time, and the least memory.
            if memory(least).at_once <= MEMORY_SHARE * device.memory:
                return chips
    return None
