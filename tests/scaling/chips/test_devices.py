"""Devices by name and by kind, and slices of them."""

import pytest

from refused import Refused
from scaling.chips.devices import DEVICES, Target, of_kind


def test_published_figures_of_a_slice():
    one = Target.of("v5e:8x8")
    assert (one.count, one.chips, one.device.peak) == (64, 64, 197e12)
    assert one.link(64) == 100e9  # Of 400 GB/s on four ports, two ports, one direction each.
    assert Target.of("v5p:4x4x4").link(64) == 200e9


def test_a_chip_of_two_devices_counts_once_in_hours_and_twice_in_a_mesh():
    pair = Target.of("tpu7x:2x2x1")
    assert (pair.chips, pair.count) == (4, 8)
    assert pair.device.peak * 2 == 2307e12


def test_gpus_beyond_a_node_go_over_the_network():
    many = Target.of("h100:16")
    assert many.link(8) == 450e9 and many.link(16) == 50e9


def test_a_device_is_found_by_the_name_that_jax_gives_it():
    assert of_kind("NVIDIA H200").name == "h200" and of_kind("TPU v5 lite").name == "v5e"
    assert of_kind("cpu") is None
    kinds = [kind for device in DEVICES.values() for kind in device.kinds]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize("text", ["h100", "h200:8", "b200", "v5e:2x4", "v6e:16x16", "v4:2x2x1"])
def test_names_read_back(text):
    assert Target.of(Target.of(text).name) == Target.of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v9", "--for: got v9; accepted: a device of v4, v5e"),
        ("v5e:3x5", "--for: got v5e:3x5; accepted: a slice of 1x1, 2x2, 2x4"),
        ("v5e:4x4x4", "--for: got v5e:4x4x4; accepted: a slice of 1x1"),
        ("v5p:4x4x5", "--for: got v5p:4x4x5; accepted: a slice of 1x1x1"),
        ("v5p:4x4", "--for: got v5p:4x4; accepted: a slice of 1x1x1"),
        ("h100:12", "--for: got h100:12; accepted: a number of GPUs: 1, 2, 4, 8"),
        ("h100:x", "--for: got h100:x; accepted: a number of GPUs"),
    ],
)
def test_unknown_devices_and_shapes_are_refused_by_name(text, message):
    with pytest.raises(Refused) as refused:
        Target.of(text)
    assert message in str(refused.value)
