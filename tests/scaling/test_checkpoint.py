"""Checkpoints: every bit comes back, on any mesh."""

import jax
import numpy as np
import pytest
from etils import epath

from scaling import Freeze, make_mesh
from scaling import checkpoint as checkpoints
from scaling.mesh import place, state_shardings
from scaling.state import initial
from tests.corpora import model, recipe


def scrambled(config):
    rng = np.random.default_rng(0)
    state = initial(recipe(config), 0)
    noise = lambda x: rng.standard_normal(x.shape).astype(x.dtype) if x.ndim else x + 7
    return jax.tree.map(noise, state)


@pytest.mark.parametrize("spec", ["data:1", "fsdp:4,data:2"])
@pytest.mark.parametrize("config", [model(), Freeze("layers.*").config(model())])
def test_a_state_comes_back_bit_for_bit_on_another_mesh(tmp_path, spec, config):
    state, one = scrambled(config), make_mesh("data:1")
    folder = epath.Path(tmp_path)
    placed = place(state, state_shardings(one, config, state))
    checkpoints.save(folder, 12, placed, {"step": 12, "seconds": 1.5})
    found, meta = checkpoints.restore(folder, recipe(config), make_mesh(spec))
    assert meta == {"step": 12, "seconds": 1.5}
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    kernel = found.params["head.kernel"]
    assert len(kernel.sharding.device_set) == (1 if spec == "data:1" else 8)


def test_the_newest_two_are_kept_and_saving_twice_is_harmless(tmp_path):
    config = model()
    folder, state = epath.Path(tmp_path), initial(recipe(config), 0)
    for step in (4, 8, 8, 12):
        checkpoints.save(folder, step, state, {"step": step})
    steps = sorted(f.name for f in (tmp_path / "checkpoint").iterdir() if f.name.isdecimal())
    assert steps == ["12", "8"]
    assert checkpoints.restore(folder, recipe(config), make_mesh("data:1"))[1]["step"] == 12
    checkpoints.discard(folder)
    checkpoints.discard(folder)
    assert checkpoints.restore(folder, recipe(config), make_mesh("data:1")) is None
