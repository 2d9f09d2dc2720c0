"""The device mesh, and how state and batches lie on it."""

import math

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from models import Leaf, ModelConfig, skeleton, stacks
from models.placement import BATCH_AXES
from refused import Refused
from scaling.state import State

AXES = ("run", "data", "fsdp", "expert")


def mesh_sizes(spec: str, devices: int) -> dict[str, int]:
    """Reads a text such as "fsdp:4,data:2": axes not named have size 1; none, all on `data`.

    Raises:
      Refused: an unknown axis, a size that is no positive integer, or too many devices.
    """
    sizes = dict.fromkeys(AXES, 1)
    for item in filter(None, spec.split(",")):
        name, _, size = item.partition(":")
        if name not in AXES:
            raise Refused("mesh", item, f"an axis of {', '.join(AXES)} with a size, as in data:2")
        if not size.isdecimal() or int(size) < 1:
            raise Refused(f"mesh.{name}", size, "a positive integer")
        sizes[name] = int(size)
    if not spec:
        sizes["data"] = devices
    if math.prod(sizes.values()) > devices:
        raise Refused("mesh", spec, f"a product of sizes of at most {devices} devices")
    return sizes


def make_mesh(spec: str = "", devices=None) -> Mesh:
    """Builds a mesh from a text such as "fsdp:4,data:2" (`mesh_sizes`).

    Raises:
      Refused: what `mesh_sizes` refuses, or devices of some process that take no part.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(spec, len(devices))
    wanted = math.prod(sizes.values())
    if wanted < len(devices) and jax.process_count() > 1:
        accepted = f"a product of sizes of {len(devices)}: every process's devices take part"
        raise Refused("mesh", spec, accepted)
    grid = laid_out(devices[:wanted], tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def absent_mesh(spec: str, devices: int, kind: str, platform: str) -> AbstractMesh:
    """Builds the mesh of devices of a kind that are not here, for what is only traced."""
    sizes = mesh_sizes(spec, devices)
    return AbstractMesh(
        tuple(sizes.values()),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        abstract_device=AbstractDevice(device_kind=kind, num_cores=None, platform=platform),
    )


def laid_out(devices: list, shape: tuple[int, ...]) -> np.ndarray:
    """Arranges devices in the shape of a mesh; TPUs so that neighbours on an axis are linked.

    Their numbers go host by host, not along the links of their torus. Devices that do not fill a
    box of it stay in the order of their numbers.
    """
    if devices[0].platform == "tpu":
        places = np.array([(*device.coords, device.core_on_chip) for device in devices])
        if np.prod(np.ptp(places, axis=0) + 1) == len(devices):
            return create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(shape)


def shards(mesh: Mesh) -> int:
    """Returns over how many parts a batch's sequences are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def of_one_run(mesh: Mesh) -> Mesh:
    """Returns the devices that one run is on: the first along the `run` axis."""
    if mesh.shape["run"] == 1:
        return mesh
    return Mesh(mesh.devices[:1], mesh.axis_names, axis_types=mesh.axis_types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps an array whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, ndim: int, axis: int) -> NamedSharding:
    """Splits one axis of an array, that of its sequences, over the mesh's batch axes."""
    spec = [None] * ndim
    spec[axis] = BATCH_AXES
    return NamedSharding(mesh, PartitionSpec(*spec))


def fsdp_dimension(leaf: Leaf, devices: int) -> int | None:
    """Returns the dimension of a parameter that `fsdp` devices split; None where there is none.

    It is the one that the part declared or, where that does not divide, the largest that does.
    """
    if leaf.fsdp is None:
        return None
    others = sorted(range(len(leaf.shape)), key=lambda axis: -leaf.shape[axis])
    wanted = (leaf.fsdp, *(axis for axis in others if axis != leaf.expert))
    return next((axis for axis in wanted if leaf.shape[axis] % devices == 0), None)


def unsplit(mesh: Mesh, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of parameters, by path, that no dimension lets `fsdp` split.

    They, their gradients and their optimizer's state are whole on every device. Gains and biases,
    which are whole by choice, are not among them.
    """
    devices, leaves = mesh.shape["fsdp"], skeleton(config).params
    return {
        path: leaf.shape
        for path, leaf in leaves.items()
        if leaf.fsdp is not None and fsdp_dimension(leaf, devices) is None
    }


def state_shardings(mesh: Mesh, config: ModelConfig, state: State) -> State:
    """Returns the sharding of every array of a state.

    A parameter is split over `fsdp` along the dimension of `fsdp_dimension`, and stacked experts
    over `expert`; so are its average and whatever of its optimizer's state has its shape.
    Everything else is whole on every device (`unsplit`). Stacks of layers are split as their layers
    are.

    Raises:
      Refused: a number of experts that the `expert` axis does not divide.
    """
    leaves = skeleton(config).params

    def of(name, array):
        path, lead = stacks.paths(name)[0], int(stacks.is_stack(name))
        if path not in leaves or array.shape[lead:] != leaves[path].shape:
            return replicated(mesh)
        leaf, spec = leaves[path], [None] * len(leaves[path].shape)
        if (dimension := fsdp_dimension(leaf, mesh.shape["fsdp"])) is not None:
            spec[dimension] = "fsdp"
        if leaf.expert is not None:
            experts, over = leaf.shape[leaf.expert], mesh.shape["expert"]
            if experts % over:
                raise Refused("mesh.expert", over, f"a divisor of the {experts} experts of {path}")
            spec[leaf.expert] = "expert"
        spec = [None] * lead + spec  # Of a stack every device has all layers.
        return NamedSharding(mesh, PartitionSpec(*spec)) if any(spec) else replicated(mesh)

    each = lambda path, tree: jax.tree.map(lambda x: of(path, x), tree)
    return State(
        params={path: of(path, x) for path, x in state.params.items()},
        buffers={path: replicated(mesh) for path in state.buffers},
        moments={path: each(path, tree) for path, tree in state.moments.items()},
        averages={path: each(path, tree) for path, tree in state.averages.items()},
    )


def place(tree, shardings):
    """Puts arrays where their shardings say; every process passes the same values."""

    def put(x, sharding):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if isinstance(x, jax.Array):
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree, shardings)
