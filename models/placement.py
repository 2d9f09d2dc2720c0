"""Where a program will run: the platform it is compiled for, and the mesh its arrays lie on."""

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
    """Lists the axes of the mesh in force over which a batch's sequences really are split."""
    shape = jax.sharding.get_abstract_mesh().shape
    return tuple(name for name in BATCH_AXES if shape.get(name, 1) > 1)


def along(x: Array, *axes: str | tuple[str, ...]) -> Array:
    """Keeps the leading dimensions split over axes of the mesh in force, the others whole.

    Where there is no mesh that has one of the axes it is `x`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    present = lambda names: tuple(name for name in names if name in mesh.axis_names)
    split = [present((names,) if isinstance(names, str) else names) for names in axes]
    return constrained(x, *(names or None for names in split)) if any(split) else x


def along_batch(x: Array) -> Array:
    """Keeps activations split by sequence over the mesh's batch axes."""
    return along(x, BATCH_AXES)


def gathered(x: Array) -> Array:
    """Has every device hold the whole of an array that is split."""
    return constrained(x)


def constrained(x: Array, *split) -> Array:
    """Lays the leading dimensions out as said, and the others whole, unless there is one device."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return x
    spec = PartitionSpec(*split, *(None,) * (x.ndim - len(split)))
    return jax.lax.with_sharding_constraint(x, spec)
