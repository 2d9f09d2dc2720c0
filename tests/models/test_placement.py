"""The platform is that of the mesh, whatever the process runs on."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, PartitionSpec

from models.placement import (
    BATCH_AXES,
    along,
    along_batch,
    by_device,
    constrained,
    mean_of_devices,
    platform,
    split_axes,
)
from scaling import make_mesh


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("TPU v5 lite", "tpu", "tpu"),
        ("NVIDIA H200", "gpu", "cuda"),
        ("AMD Instinct MI300X", "gpu", "rocm"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_the_platform_is_that_of_the_devices_compiled_for(kind, name, found):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=name)
    with jax.sharding.use_abstract_mesh(AbstractMesh((4,), ("data",), abstract_device=device)):
        assert platform() == found


def test_without_a_mesh_it_is_that_of_the_process():
    assert platform() == "cpu"
    with jax.set_mesh(make_mesh("data:8")):
        assert jax.jit(lambda: platform() == "cpu")()


def test_arrays_are_split_where_there_is_a_mesh():
    x = np.zeros((8, 4), np.float32)
    assert along(x, "expert") is x and along_batch(x) is x
    with jax.set_mesh(make_mesh("data:2,expert:4")):
        split = jax.jit(along_batch)(x)
        assert {s.data.shape for s in split.addressable_shards} == {(1, 4)}
        split = jax.jit(lambda x: along(x, "expert", ("data", "fsdp")))(x)
        assert {s.data.shape for s in split.addressable_shards} == {(2, 2)}
        assert jax.jit(constrained)(split).is_fully_replicated
    assert BATCH_AXES == ("data", "fsdp", "expert")


def test_a_device_that_runs_by_itself_lays_nothing_out_and_knows_the_mean():
    x = np.arange(8, dtype=np.float32)[:, None]

    def own(x):
        assert split_axes() == () and along_batch(x) is x
        return x - mean_of_devices(x)

    with jax.set_mesh(make_mesh("data:2,expert:4")):
        assert split_axes() == ("data", "expert")
        split = PartitionSpec(split_axes())
        found = jax.jit(by_device(own, split, split))(x)
    np.testing.assert_array_equal(found, x - 3.5)
    assert mean_of_devices(x) is x
