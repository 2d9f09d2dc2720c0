"""How a program fits into its devices' memory: micro-batches and recomputation, the least of both.

CPUs keep programs as they are: their memory is large, and their losses stay the same to the bit.
"""

import functools
import math
from dataclasses import replace

from jax.sharding import Mesh

import models
from models.transformer import LOOPED_LAYERS
from scaling.chips.devices import Device, of_kind
from scaling.chips.estimate import (
    gradient_bytes,
    kind_of,
    memory,
    platform_of,
    state_bytes,
    wire,
)
from scaling.mesh import shards
from scaling.recipe import Recipe
from scaling.stacks import runs
from scaling.train import Program

# Of a device's memory. The rest is the CUDA context's, collectives' and what fragments: XLA fills
# a GPU's without refusing. A TPU's compiler refuses what does not fit; by accounting the same is
# asked of both.
MEMORY_SHARE = 0.92
# Time that a step takes longer, over the time of its products, by the roofline of what XLA
# compiles. "full" runs the layers forward once more, a third of forward and backward together;
# "dots" only what is not a product with parameters or a kernel. In a scan on GPUs that moves fewer
# bytes than keeping all, so it comes first: 170 ms instead of 203 on h100:8 (350M, batches as in
# docs/scale.md). In a loop it moves more: 15.6 ms instead of 15.1 for 20M on an H200, with products
# of 3.4. On TPUs it moves a little more, and "full" so much less that half of its products are paid
# for: inside a v5e 148, 153 and 159 ms keeping all, "dots" and "full" (350M, products of 103); 464
# keeping all in two micro-batches, 483 by "dots" (1.3B, 372); inside a v6e 1,163 by "dots" in two,
# 1,271 by "full" (7B, 718). A micro-batch reads the parameters and adds up the gradients once more:
# at the 4,096 tokens and more that a device takes at once a few percent, for every doubling; and
# where the mesh has other axes than `data`, it sends once more along them (`exchange_share`).
FORWARD = 0.33
ON_CUDA = {"dots": 0.0, "full": FORWARD}
ON_CUDA_LOOPED = {"none": 0.0, "dots": 0.15, "full": 0.15 + FORWARD}
ON_TPU = {"none": 0.0, "dots": 0.05, "full": 0.2}
ACCUMULATE_COST = 0.03
LEAST_TOKENS = 4096  # Of a micro-batch on one device; fewer leave its matrix units idle.


def ways(program: Program) -> list[Program]:
    """Returns a program's ways to need less memory, those that cost the least time first.

    The first takes the whole batch at once.
    """
    rows = program.sequences // shards(program.mesh)
    least = max(1, LEAST_TOKENS // program.config.context)
    counts = [n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or rows // n >= least)]
    found = []
    for count in counts:
        some = replace(program, accumulate=count)
        sent = exchange_share(some)
        each = (replace(some, recompute=name) for name in recompute_cost(program))
        found += [(cost(way, sent), way) for way in each]
    return [way for _, way in sorted(found, key=lambda pair: pair[0])]


def cost(program: Program, sent: float | None = None) -> float:
    """Returns the seconds that a step takes beside its products, over theirs.

    `sent` is the `exchange_share` of its mesh and micro-batches, where that is known. Of a program
    whose recomputation is not settled (`auto`) none is counted.
    """
    sent = exchange_share(program) if sent is None else sent
    again = recompute_cost(program).get(program.recompute, 0.0)
    again += ACCUMULATE_COST * math.log2(program.accumulate)
    return sent + again + update_share(program)


def recompute_cost(program: Program) -> dict[str, float]:
    """Returns what each way to recompute costs, in products' time; those that may be chosen."""
    if platform_of(program.mesh) == "cuda":
        return ON_CUDA_LOOPED if program.config.depth <= LOOPED_LAYERS else ON_CUDA
    return ON_TPU


def update_share(program: Program) -> float:
    """Returns the seconds in which a step reads and writes the whole state, over its products'.

    Where layers are scanned, stacks of gradients are made of zeros, written, and read for their
    norm and by the optimizer, and parameters are read to be converted. At few tokens a device it is
    what a mesh that splits the state saves. 0 of unknown devices.
    """
    recipe, mesh, device = program.recipe, program.mesh, of_kind(kind_of(program.mesh))
    if device is None:
        return 0.0
    passed = 2 * state_bytes(recipe, mesh)
    passed += 5 * gradient_bytes(recipe, mesh) if runs(recipe.model) else 0.0
    return passed / device.bandwidth / products(program, device)


def products(program: Program, device: Device) -> float:
    """Returns the seconds of a step's products at the peak of the mesh's devices."""
    flops = models.count(program.config).flops_train * program.batch_tokens
    return flops / (device.peak * program.mesh.size)


def exchange_share(program: Program) -> float:
    """Returns the seconds of what a step sends, over those of its products.

    Each micro-batch sends again what goes along `fsdp` and `expert`; along `data` all is sent after
    the last. 0 of unknown devices.
    """
    mesh, device = program.mesh, of_kind(kind_of(program.mesh))
    if device is None or mesh.size == 1:
        return 0.0
    group = lambda axes: math.prod(mesh.shape[axis] for axis in axes)
    seconds = sum(bytes / device.sent(group(axes)) for axes, bytes in wire(program).items())
    return seconds / products(program, device)


def fitting(program: Program, most: float) -> Program | None:
    """Returns the first of a program's ways that takes at most so many bytes on a device."""
    return next((way for way in ways(program) if memory(way).at_once <= most), None)


@functools.cache
def thrifty(recipe: Recipe, batch_tokens: int, mesh: Mesh) -> Program:
    """Returns the program that trains a recipe on a mesh, within the memory of its devices.

    Where the accounting finds no way, or does not know the device, it is left as it is, and the
    device says whether it fits.
    """
    program = Program(recipe=recipe, batch_tokens=batch_tokens, mesh=mesh)
    device = of_kind(kind_of(mesh))
    if device is None:
        return program
    return fitting(program, MEMORY_SHARE * device.memory) or program
