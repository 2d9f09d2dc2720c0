"""Accelerators, by their vendors' pages: peaks, memory, bandwidths, links; and slices of them."""

import math
from dataclasses import dataclass

from refused import Refused

GB, MIB, GIB, TERA = 1e9, float(1 << 20), float(1 << 30), 1e12


@dataclass(frozen=True)
class Device:
    """One accelerator as JAX sees it; all figures are of one device.

    `peak` is dense bfloat16 in FLOP/s, `memory` in bytes, `bandwidth` of that memory in bytes/s.
    `link` is what a device sends to others in a ring, in bytes/s: on TPUs both directions of one
    dimension of the torus, on GPUs one direction of NVLink (or of PCIe). `network` is the same
    beyond a node of `node` GPUs. `kinds` are JAX's names. `grid` is the dimensions of a TPU slice.
    `near` is how much of a TPU's vector memory its compiler gives to arrays, 0 where that was not
    seen.
    """

    name: str
    kinds: tuple[str, ...]
    peak: float
    memory: float
    bandwidth: float
    link: float
    grid: int = 0
    network: float = 0.0
    node: int = 8
    near: float = 0.0

    @property
    def platform(self) -> str:
        """The name of JAX's back end."""
        return "tpu" if self.grid else "cuda"

    def sent(self, group: int) -> float:
        """Returns the bytes/s that a device sends in an exchange among so many."""
        return self.network if self.network and group > self.node else self.link


def tpu(name, kinds, peak, memory, bandwidth, chip, grid, near=0) -> Device:
    """Returns a TPU whose links together carry `chip` bytes/s, both ways, as its page says.

    `near` is in MiB.
    """
    figures = (peak * TERA, memory * GIB, bandwidth * GB, chip * GB / grid / 2, grid)
    return Device(name, kinds, *figures, near=near * MIB)


def gpu(name, kinds, peak, memory, bandwidth, link, network) -> Device:
    """Returns a GPU."""
    figures = (peak * TERA, memory * GIB, bandwidth * GB, link * GB)
    return Device(name, kinds, *figures, network=network * GB)


# TPUs: cloud.google.com/tpu/docs, pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x",
# tables of key specifications (read in November 2026). Of 16 GB a v5e's compiler uses 15.75 GiB.
# JAX sees a TPU7x chip as two devices, each with half of everything; v4 and v5p as one. `near` is
# the least that libtpu 0.0.42.1 gave to the programs of docs/scale.md, by its buffer assignment.
# GPUs: NVIDIA's data sheets, without sparsity, one direction of NVLink; networks are those of DGX
# A100 (200 Gbit/s a GPU) and of DGX H100 to B200 (400 Gbit/s a GPU); memory as devices report it
# (openxla/xla, xla/backends/gpu/target_config/specs).
DEVICES = {
    device.name: device
    for device in (
        tpu("v4", ("TPU v4",), 275, 32, 1200, 600, 3),
        tpu("v5e", ("TPU v5 lite", "TPU v5e"), 197, 15.75, 819, 400, 2, near=112),
        tpu("v5p", ("TPU v5", "TPU v5p"), 459, 95, 2765, 1200, 3, near=40),
        tpu("v6e", ("TPU v6 lite", "TPU v6e"), 918, 31.25, 1638, 800, 2, near=94),
        tpu("tpu7x", ("TPU7x", "TPU v7x"), 2307 / 2, 192 / 2, 7380 / 2, 1200 / 2, 3),
        gpu("a100", ("NVIDIA A100-SXM4-80GB",), 312, 79.26, 2039, 300, 25),
        gpu("a100-40gb", ("NVIDIA A100-SXM4-40GB",), 312, 39.39, 1555, 300, 25),
        gpu("h100", ("NVIDIA H100 80GB HBM3",), 989, 79.1, 3350, 450, 50),
        gpu("h100-pcie", ("NVIDIA H100 PCIe",), 756, 79.1, 2000, 64, 50),
        gpu("h200", ("NVIDIA H200",), 989, 140, 4800, 450, 50),
        gpu("b200", ("NVIDIA B200",), 2250, 178.36, 7672, 900, 50),
    )
}

# Slices of two dimensions that there are; of three, those below a cube of 4x4x4 (larger ones are
# made of such cubes). Pages as above, tables of configurations.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4")


def of_kind(kind: str) -> Device | None:
    """Returns the device that JAX names so; None where the table has none."""
    return next((device for device in DEVICES.values() if kind in device.kinds), None)


@dataclass(frozen=True)
class Target:
    """Devices that a program is compiled for: `count` of them, a TPU slice in `shape`."""

    device: Device
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many chips are paid for."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many devices a mesh has."""
        return self.chips * (2 if self.device.name == "tpu7x" else 1)

    @property
    def name(self) -> str:
        """The text that names it."""
        return f"{self.device.name}:{'x'.join(map(str, self.shape))}"

    def link(self, group: int) -> float:
        """Returns the bytes/s that a device sends in an exchange among so many."""
        return self.device.sent(group)

    @classmethod
    def of(cls, text: str) -> "Target":
        """Reads DEVICE[:SHAPE], as h100, h200:8, v5e:8x8 or v5p:4x4x4; without a shape, one.

        Raises:
          Refused: an unknown device, or a shape that there is not.
        """
        name, colon, shape = text.partition(":")
        if name not in DEVICES:
            raise Refused("--for", name, f"a device of {', '.join(DEVICES)}")
        device = DEVICES[name]
        sizes = shape.split("x") if colon else ["1"] * max(1, device.grid)
        whole = all(size.isdecimal() and int(size) for size in sizes)
        numbers = tuple(int(size) for size in sizes) if whole else ()
        accepted = {
            0: f"a number of GPUs: 1, 2, 4, 8, or a multiple of 8, as {name}:8",
            2: f"a slice of {', '.join(FLAT)}",
            3: f"a slice of {', '.join(SMALL)}, or with multiples of 4 up to 24, as 4x4x8",
        }[device.grid]
        if not numbers or not exists(device.grid, numbers):
            raise Refused("--for", text, accepted)
        return cls(device, numbers)


def exists(grid: int, shape: tuple[int, ...]) -> bool:
    """Says whether there is a slice of a shape, or so many GPUs."""
    text = "x".join(map(str, shape))
    if grid == 2:
        return text in FLAT
    if grid == 3:
        cubes = len(shape) == 3 and all(size % 4 == 0 and size <= 24 for size in shape)
        return text in SMALL or cubes
    return len(shape) == 1 and (shape[0] in (1, 2, 4) or shape[0] % 8 == 0)
