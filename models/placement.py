"""Where a program will run: the platform it is compiled for, and the mesh its arrays lie on."""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

# Mesh axes over which a batch's sequences are split.
BATCH_AXES = ("data", "fsdp", "expert")


def platform() -> str:
    """Returns "cpu", "tpu", "cuda" or "rocm": of the mesh's devices, which may be of no process.

    Without a mesh it is that of the process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.devices()[0]
    if device.platform != "gpu":
        return device.platform
    return "cuda" if device.device_kind.startswith("NVIDIA") else "rocm"


def split_axes() -> tuple[str, ...]:
    """Lists the axes of the mesh in force over which a batch's sequences really are split.

    Not among them are those along which each device already runs by itself (`jax.shard_map`).
    """
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(name for name in open_axes(BATCH_AXES) if mesh.shape[name] > 1)


def open_axes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Lists those axes of the mesh in force along which arrays can still be laid out."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(n for n in names if n in mesh.axis_names and n not in mesh.manual_axes)


def by_device(run: Callable, in_specs, out_specs) -> Callable:
    """Returns a function that each device of the mesh in force runs on its own parts of arrays.

    The gradient of an array that is whole on every device is summed over devices once, after all
    of the function. Along which axes results vary is not checked: kernels do not say.
    """
    every = set(open_axes(jax.sharding.get_abstract_mesh().axis_names))
    specs = {"in_specs": in_specs, "out_specs": out_specs}
    return jax.shard_map(run, **specs, axis_names=every, check_vma=False)


def mean_of_devices(x: Array) -> Array:
    """Returns the mean over devices that each run by themselves on a part of a micro-batch.

    What is not linear in the batch takes it of the batch's own means: `x` where one program sees
    the whole batch.
    """
    alone = tuple(a for a in jax.sharding.get_abstract_mesh().manual_axes if a in BATCH_AXES)
    return jax.lax.pmean(x, alone) if alone else x


def along(x: Array, *axes: str | tuple[str, ...]) -> Array:
    """Keeps the leading dimensions split over axes of the mesh in force, the others whole.

    Where there is no mesh that has one of the axes it is `x`.
    """
    split = [open_axes((names,) if isinstance(names, str) else names) for names in axes]
    return constrained(x, *(names or None for names in split)) if any(split) else x


def along_batch(x: Array) -> Array:
    """Keeps activations split by sequence over the mesh's batch axes."""
    return along(x, BATCH_AXES)


def constrained(x: Array, *split) -> Array:
    """Lays the leading dimensions out as said, and the others whole, unless there is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if math.prod(mesh.shape[axis] for axis in open_axes(mesh.axis_names)) <= 1:
        return x
    spec = PartitionSpec(*split, *(None,) * (x.ndim - len(split)))
    return jax.lax.with_sharding_constraint(x, spec)
