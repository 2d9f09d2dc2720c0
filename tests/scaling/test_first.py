"""First states made on devices: those that the host makes, to the bit."""

import jax
import numpy as np
import pytest

from models import Experts, Quantization, skeleton
from scaling import Averaging, make_mesh
from scaling.first import by_host, on_devices
from scaling.mesh import state_shardings
from scaling.optimizers import OPTIMIZERS, named
from scaling.state import initial
from tests.corpora import model, recipe
from tests.tiers import mostly

# Few leaves, of which some are split by fsdp, some by expert, and some have learned scales.
MIXED = model(width=16, depth=1, feed_forward=Experts(4, 2, 0), quantization=Quantization(2))
FEW = ("adamw", "schedule_free", "soap")


@pytest.mark.parametrize("name", mostly(OPTIMIZERS, FEW))
def test_states_made_on_a_mesh_are_those_of_the_host_to_the_bit(name):
    config = MIXED if name == "adamw" else model(width=8, depth=1)
    averaging = Averaging(tokens=10_000) if name == "adamw" else None
    plan = recipe(config, named(name, learning_rate=0.1), averaging=averaging)
    mesh = make_mesh("expert:2,fsdp:2,data:2")
    bones = skeleton(config)
    drawn = on_devices(plan, mesh, bones.drawn(3), bones.initialise(3, ())[1].items())
    host = initial(plan, 3)
    assert jax.tree.structure(drawn) == jax.tree.structure(host)
    layout = jax.tree.leaves(state_shardings(mesh, config, host))
    arrays = zip(jax.tree.leaves(drawn), jax.tree.leaves(host), layout, strict=True)
    for made, expected, sharding in arrays:
        assert made.dtype == expected.dtype and made.sharding.is_equivalent_to(sharding, made.ndim)
        np.testing.assert_array_equal(made, expected)
    parts = [
        part.data.unsafe_buffer_pointer()
        for x in jax.tree.leaves(drawn)
        for part in x.addressable_shards
        if part.device.id == 0 and x.ndim
    ]
    assert len(set(parts)) == len(parts)  # States are donated: no two share memory.


def test_one_device_of_a_cpu_takes_the_hosts_arrays():
    assert by_host(make_mesh("data:1")) and by_host(make_mesh("run:8"))
    assert not by_host(make_mesh("data:8"))
