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


def along(x: Array, *axes: str | tuple[str, ...]) -> Array:
    """Keeps the leading dimensions split over axes of the mesh in force, the others whole.

    Without a mesh, or on one device, it is `x`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    present = lambda names: tuple(name for name in names if name in mesh.axis_names)
    split = [present((names,) if isinstance(names, str) else names) for names in axes]
    if mesh.size <= 1 or not any(split):
        return x
    spec = PartitionSpec(*(names or None for names in split), *(None,) * (x.ndim - len(axes)))
    return jax.lax.with_sharding_constraint(x, spec)


def along_batch(x: Array) -> Array:
    """Keeps activations split by sequence over the mesh's batch axes."""
    return along(x, BATCH_AXES)
