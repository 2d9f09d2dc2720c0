"""The rule of equality finds faults, and takes rounding for what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from scaling import make_mesh
from scaling.state import initial
from scaling.train import Program, advance, compiled, on_mesh
from tests.corpora import model, recipe
from tests.rounding import (
    NUDGES,
    excesses,
    state_nudged,
)
from tests.tiers import mostly

CONFIG = model()
DEVICES = 8


def step(state, spec: str):
    """Returns the state after one step of 16 sequences on a mesh."""
    program = Program(recipe=recipe(CONFIG), batch_tokens=16 * CONFIG.context, mesh=make_mesh(spec))
    windows = np.random.default_rng(0).integers(0, 256, (1, 16, CONFIG.context + 1))
    copy = jax.tree.map(np.array, state)
    return advance(program, on_mesh(program, copy), windows, np.full(1, 0.01), 0.1)[0]


def with_fault(path: str, where: str, size: float):
    """Returns a loss of unchanged value whose gradient of one leaf is wrong in one device's part.

    Either that of its sequences, or, in its `rows` of the leaf, that of all sequences.
    """
    right = models.loss

    def loss(config, params, buffers, windows, *how):
        value, rest = right(config, params, buffers, windows, *how)
        still = {p: jax.lax.stop_gradient(x) for p, x in params.items()}
        leaf = params[path]
        if where == "rows":
            part = (jnp.arange(leaf.shape[0]) < leaf.shape[0] // 4).astype(leaf.dtype)
            leaf = leaf * part[:, None] + still[path] * (1 - part[:, None])
            share, some = 1.0, windows
        else:
            own = windows[: len(windows) // DEVICES]
            share, some = 1 / DEVICES, jnp.tile(own, (DEVICES, 1))  # The mean over them alone.
        extra = share * right(config, still | {path: leaf}, buffers, some, *how)[0]
        return value + size * (extra - jax.lax.stop_gradient(extra)), rest

    return loss


@pytest.fixture(scope="module")
def start():
    return initial(recipe(CONFIG), 0)


FAULTS = [
    ("layers.1.feed_forward.up", "rows"),
    ("embedding.table", "sequences"),
    ("layers.1.feed_forward.up", "sequences"),
    ("embedding.table", "rows"),
]


@pytest.fixture(scope="module")
def reference(start):
    """One step on one device, also from nudged states."""
    return step(start, "data:1"), [step(state_nudged(start, seed), "data:1") for seed in NUDGES]


@pytest.mark.equality
def test_another_order_of_sums_is_within_the_rule(start, reference):
    found = excesses(step(start, "fsdp:4,data:2"), *reference)
    assert max(found.values()) < 0.5


@pytest.mark.equality
@pytest.mark.parametrize(("path", "where"), mostly(FAULTS, FAULTS[:2]))
def test_a_fault_of_one_in_ten_thousand_in_one_shard_of_one_leaf_is_found(
    path, where, start, reference, monkeypatch
):
    compiled.cache_clear()
    monkeypatch.setattr(models, "loss", with_fault(path, where, 1e-4))
    found = excesses(step(start, "fsdp:4,data:2"), *reference)
    compiled.cache_clear()  # No other test may train with the fault.
    beyond = {leaf for leaf, excess in found.items() if excess > 1}
    assert beyond and all(f"['{path}']" in leaf for leaf in beyond), found
    assert max(found.values()) > 2
