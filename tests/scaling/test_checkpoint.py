"""Checkpoints: every bit comes back, on any mesh."""

import errno
import threading

import jax
import numpy as np
import pytest
from etils import epath

from scaling import Freeze, background, make_mesh
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
    background.wait()
    steps = sorted(f.name for f in (tmp_path / "checkpoint").iterdir() if f.name.isdecimal())
    assert steps == ["12", "8"]
    assert checkpoints.restore(folder, recipe(config), make_mesh("data:1"))[1]["step"] == 12
    checkpoints.discard(folder)
    checkpoints.discard(folder)
    assert checkpoints.restore(folder, recipe(config), make_mesh("data:1")) is None


def test_what_training_does_to_a_state_after_it_was_saved_is_not_in_the_checkpoint(
    tmp_path, monkeypatch
):
    config, mesh = model(depth=1), make_mesh("fsdp:4,data:2")
    state, folder, hold = scrambled(config), epath.Path(tmp_path), threading.Event()
    placed = place(state, state_shardings(mesh, config, state))
    written = checkpoints.seal
    monkeypatch.setattr(checkpoints, "seal", lambda *given: (hold.wait(), written(*given)))
    checkpoints.save(folder, 4, placed, {"step": 4})
    table = placed.params["embedding.table"]
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(table))
    # It is being written: not there yet, and nobody who looks finds half of it.
    assert background.busy() and checkpoints.steps(folder) == []
    hold.set()
    found, _ = checkpoints.restore(folder, recipe(config), mesh)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_error_while_it_is_written_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    state, folder = initial(recipe(model(depth=1)), 0), epath.Path(tmp_path)
    monkeypatch.setattr(checkpoints, "sync_tree", full)
    checkpoints.save(folder, 4, state, {"step": 4})
    with pytest.raises(OSError, match="No space left"):
        background.wait()
    assert list((tmp_path / "checkpoint").iterdir()) == []
    monkeypatch.undo()
    checkpoints.save(folder, 4, state, {"step": 4})
    background.wait()
    assert checkpoints.steps(folder) == [4]


def test_adamws_checkpoints_are_laid_out_as_in_stores_from_before_other_optimizers():
    tree = checkpoints.to_tree(initial(recipe(model(depth=1)), 0))
    assert set(tree) == {"params", "moments"}
    assert tree["moments"].keys() == tree["params"].keys()
    for path, moments in tree["moments"].items():
        assert set(moments) == {"count", "mu", "nu"}
        assert moments["mu"].shape == moments["nu"].shape == tree["params"][path].shape
        assert moments["count"].shape == () and moments["count"].dtype == np.int32
