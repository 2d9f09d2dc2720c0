"""What a program needs, by accounting alone: nothing is compiled, no device is there."""

import functools
import math
from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jax.sharding import AbstractDevice, AbstractMesh, Mesh

import models
from models import Experts, ModelConfig, skeleton, stacks
from models.fused import attention_of
from scaling.chips.devices import of_kind
from scaling.chips.footprint import kept
from scaling.mesh import BATCH_AXES, shards, state_shardings
from scaling.recipe import Recipe
from scaling.stacks import runs, shapes
from scaling.state import abstract, array_bytes
from scaling.train import WINDOW_TYPE, Program


def wire(program: Program) -> dict[tuple[str, ...], float]:
    """Returns the bytes that one device sends in a step, by the mesh's axes along which they go.

    Of an array of s bytes a ring of n sends s·(n − 1)/n to gather it or to sum it into parts, and
    twice that to sum it whole. An array split over `fsdp` is gathered for the forward and for the
    backward pass, and its gradient is summed into parts; the part's gradient is summed over the
    other batch axes, as that of a whole array is over all. Gradients are float32, gathered arrays
    of the type that the model computes in. All that is sent once for every micro-batch, but for
    sums over `data`, which follow the last (`scaling.train.gradients_of`). Experts split over
    `expert` get their tokens, and send their results, by an exchange in which each device keeps
    its own n-th: four, with gradients.
    """
    mesh, config, micro = program.mesh, program.config, program.accumulate
    layout = state_shardings(mesh, config, abstract(program.recipe)).params
    sent: Counter[tuple[str, ...]] = Counter()
    width = np.dtype(np.float32).itemsize if config.dtype == "float32" else 2
    for path, leaf in skeleton(config).params.items():
        split = {axis for axis in layout[path].spec if axis}
        size = leaf.size / np.prod([mesh.shape[axis] for axis in split - {"fsdp"}], initial=1)
        if "fsdp" in split:
            share = 1 - 1 / mesh.shape["fsdp"]
            sent["fsdp",] += micro * (2 * width + 4) * size * share
            size /= mesh.shape["fsdp"]
        rest = tuple(a for a in BATCH_AXES if mesh.shape[a] > 1 and a not in split)
        last = tuple(a for a in rest if a == "data" and micro > 1)
        for axes, times in ((tuple(a for a in rest if a not in last), micro), (last, 1)):
            group = math.prod(mesh.shape[axis] for axis in axes)
            sent[axes] += times * 2 * 4 * size * (1 - 1 / group)
    over = mesh.shape["expert"]
    for layer in map(config.layer, range(config.depth if over > 1 else 0)):
        if isinstance(layer.feed_forward, Experts):
            sequences = program.sequences * config.stream_count / shards(mesh)
            rows = sequences * layer.feed_forward.routed * layer.feed_forward.slots(config.context)
            sent["expert",] += 4 * width * rows * config.width * (1 - 1 / over)
    return {axes: float(count) for axes, count in sent.items() if count}


@dataclass(frozen=True)
class Memory:
    """Bytes that training a program takes on one device, by accounting alone.

    `state` is parameters, optimizer's state, averages and buffers; `inputs` the tokens of a
    dispatch; `activations` all that a step keeps at its fullest, gradients included; `gathered`
    what is put together of split parameters for a while. `again` is what XLA's figure counts
    beside these for a TPU that scans over stacks. It is not there at once: 7B compiles for a v5e of
    15.8 GiB with a figure of 17.3, and XLA's own report of that program's memory says 12.2.
    """

    state: float
    inputs: float
    activations: float
    gathered: float
    again: float = 0.0

    @property
    def at_once(self) -> float:
        """What has to fit."""
        return self.state + self.inputs + self.activations + self.gathered

    @property
    def total(self) -> float:
        """XLA's figure: arguments, outputs and temporaries without what is aliased."""
        return self.at_once + self.again


def share(layout, mesh) -> float:
    """Returns the part of an array that one device has."""
    return 1 / math.prod(mesh.shape[axis] for axis in layout.spec if axis)


@functools.lru_cache(maxsize=64)  # Of one program on several meshes, and its ways to fit.
def state_bytes(recipe: Recipe, mesh: Mesh | AbstractMesh) -> float:
    """Returns the bytes of the parameters and all that is kept of them on one device."""
    like = shapes(recipe)
    layout = state_shardings(mesh, recipe.model, like)
    parts = jax.tree.map(lambda x, at: array_bytes(x) * share(at, mesh), like, layout)
    return float(sum(jax.tree.leaves(parts)))


@functools.lru_cache(maxsize=64)
def gradient_bytes(recipe: Recipe, mesh: Mesh | AbstractMesh) -> float:
    """Returns the bytes of the gradients on one device, in float32, split as their parameters."""
    like = shapes(recipe)
    layout = state_shardings(mesh, recipe.model, like).params
    return float(sum(array_bytes(like.params[p]) * share(layout[p], mesh) for p in like.moments))


def memory(program: Program) -> Memory:
    """Predicts the memory of a program on one device; nothing is compiled.

    A step is traced for the sequences that one device has, of a micro-batch where there are some,
    and what it keeps at once is counted (`footprint`). Gradients of arrays that are split over
    `fsdp` are split as well; with micro-batches there is their sum beside them.
    """
    mesh, config, recipe = program.mesh, program.config, program.recipe
    like = shapes(recipe)
    layout = state_shardings(mesh, config, like)
    held = program.sequences // shards(mesh)
    rows = held // program.accumulate
    step = traced(recipe, rows, program.recompute, alone(mesh, config))
    gradients = gradient_bytes(recipe, mesh)
    sums = gradients if program.accumulate > 1 else 0.0
    # Trained parameters come first, in the order of their paths; so do their gradients.
    split = {i: share(layout.params[path], mesh) for i, path in enumerate(sorted(like.moments))}
    activations = kept(step, platform_of(mesh), split, split, near(program)) + sums
    scans = platform_of(mesh) == "tpu" and bool(runs(config))
    return Memory(
        state=state_bytes(recipe, mesh),
        inputs=float(program.dispatch_steps * held * (config.context + 1) * 4),
        activations=activations + (converted(program, layout.params) if scans else 0.0),
        gathered=gathered(program),
        again=gradients + sums + carried(config, rows) if scans else 0.0,
    )


def near(program: Program) -> float:
    """Returns the bytes of a loop's needs that are in a device's vector memory.

    With experts none: what they exchange is there (4 layers on a v5e: .84 of XLA's if it counted).
    """
    device, layers = of_kind(kind_of(program.mesh)), range(program.config.depth)
    experts = any(isinstance(program.config.layer(i).feed_forward, Experts) for i in layers)
    return device.near if device and not experts else 0.0


def carried(config: ModelConfig, rows: int) -> float:
    """Returns the bytes of the inputs of all layers that are scanned.

    With the gradients and their sum over micro-batches they are the stacks into which loops write:
    what a TPU's figure has beside what its compiler's own report says, within 0.9 of 1.0 to 15.7
    GiB on ten programs of 350M to 7B.
    """
    layers = sum(map(len, runs(config)))
    width = jnp.dtype(config.dtype).itemsize * config.width
    return float(layers * rows * config.stream_count * config.context * width)


def converted(program: Program, layout: dict) -> float:
    """Returns the bytes of a device's matrices in the type of products, where that is another.

    A TPU's compiler takes their conversion out of the loops over layers and micro-batches: all of
    them are there through the step.
    """
    width = jnp.dtype(program.config.dtype).itemsize
    params = shapes(program.recipe).params
    matrices = {path: x for path, x in params.items() if x.ndim - stacks.is_stack(path) > 1}
    sizes = (share(layout[path], program.mesh) * x.size for path, x in matrices.items())
    return float(width * sum(sizes)) if width < 4 else 0.0


@functools.lru_cache(maxsize=16)  # Of one program on several meshes, and its ways to fit.
def traced(recipe: Recipe, rows: int, recompute: str, mesh: AbstractMesh) -> Jaxpr:
    """Traces a step on some rows of one device."""
    like, config = shapes(recipe), recipe.model
    train = {path: like.params[path] for path in like.moments}
    rest = {path: x for path, x in like.params.items() if path not in train}

    def step(train, rest, buffers, windows):
        loss = lambda train: models.loss(config, rest | train, buffers, windows, recompute)
        gradients, (after, metrics) = jax.grad(loss, has_aux=True)(train)
        return gradients, after, metrics, sum(jnp.vdot(x, x) for x in gradients.values())

    windows = jax.ShapeDtypeStruct((rows, config.context + 1), WINDOW_TYPE)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.make_jaxpr(step)(train, rest, like.buffers, windows).jaxpr


def platform_of(mesh: Mesh | AbstractMesh) -> str:
    """Returns the platform of a mesh's devices: cpu, tpu or cuda."""
    mesh = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    return {"gpu": "cuda"}.get(mesh.abstract_device.platform, mesh.abstract_device.platform)


def kind_of(mesh: Mesh | AbstractMesh) -> str:
    """Returns JAX's name of a mesh's devices."""
    mesh = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    return mesh.abstract_device.device_kind


def alone(mesh: Mesh | AbstractMesh, config: ModelConfig) -> AbstractMesh:
    """Returns the mesh of one device of a mesh's kind.

    cuDNN's attention can be traced only where cuDNN is installed; splash attention keeps the same.
    """
    mesh = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    one = mesh.update(axis_sizes=(1,) * len(mesh.axis_sizes))
    if platform_of(mesh) == "cuda":
        if attention_of(config, "cuda").kernel == "cudnn":
            like = AbstractDevice(device_kind="TPU", num_cores=None, platform="tpu")
            return one.update(abstract_device=like)
    return one


def gathered(program: Program) -> float:
    """Returns the bytes of two layers' parameters put together, in the type of products.

    Two, since the next layer's come while one is computed; the head, which is kept whole through
    the loss, with its gradient in float32; and the gradient of a token table, in float32.
    """
    config, mesh = program.config, program.mesh
    if mesh.shape["fsdp"] == 1:
        return 0.0
    layout = state_shardings(mesh, config, abstract(program.recipe)).params
    width = jnp.dtype(config.dtype).itemsize
    layers: Counter[str] = Counter()
    total = 0.0
    for path, leaf in skeleton(config).params.items():
        if "fsdp" not in layout[path].spec:
            continue
        if path.startswith("layers."):
            layers[path.split(".")[1]] += leaf.size * width
        elif leaf.group.name == "head" or config.tied:
            total += leaf.size * (width + 4)
        elif path.startswith("embedding."):
            total += leaf.size * 4
    return total + sum(sorted(layers.values())[-2:])
