"""What a program needs, by accounting alone: nothing is compiled, no device is there."""

from collections import Counter

import numpy as np

from models import Experts, skeleton
from scaling.mesh import BATCH_AXES, shards, state_shardings
from scaling.state import abstract
from scaling.train import Program


def wire(program: Program) -> dict[tuple[str, ...], float]:
    """Returns the bytes that one device sends in a step, by the mesh's axes along which they go.

    Of an array of s bytes a ring of n sends s·(n − 1)/n to gather it or to sum it into parts, and
    twice that to sum it whole. An array split over `fsdp` is gathered for the forward and for the
    backward pass, and its gradient is summed into parts; the part's gradient is summed over the
    other batch axes, as that of a whole array is over all. Gradients are float32, gathered arrays
    of the type that the model computes in. Experts split over `expert` get their tokens, and send
    their results, by an exchange in which each device keeps its own n-th: four, with gradients.
    """
    mesh, config = program.mesh, program.config
    layout = state_shardings(mesh, config, abstract(program.recipe)).params
    sent: Counter[tuple[str, ...]] = Counter()
    width = np.dtype(np.float32).itemsize if config.dtype == "float32" else 2
    for path, leaf in skeleton(config).params.items():
        split = {axis for axis in layout[path].spec if axis}
        size = leaf.size / np.prod([mesh.shape[axis] for axis in split - {"fsdp"}], initial=1)
        if "fsdp" in split:
            share = 1 - 1 / mesh.shape["fsdp"]
            sent["fsdp",] += (2 * width + 4) * size * share
            size /= mesh.shape["fsdp"]
        rest = tuple(a for a in BATCH_AXES if mesh.shape[a] > 1 and a not in split)
        group = np.prod([mesh.shape[axis] for axis in rest], initial=1)
        sent[rest] += 2 * 4 * size * (1 - 1 / group)
    over = mesh.shape["expert"]
    for layer in map(config.layer, range(config.depth if over > 1 else 0)):
        if isinstance(layer.feed_forward, Experts):
            sequences = program.sequences * config.stream_count / shards(mesh)
            rows = sequences * layer.feed_forward.routed * layer.feed_forward.slots(config.context)
            sent["expert",] += 4 * width * rows * config.width * (1 - 1 / over)
    return {axes: float(count) for axes, count in sent.items() if count}
