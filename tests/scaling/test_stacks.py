"""Scanned layers are stacked once, on the mesh: steps as by path, and no stacking in a program."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import scaling.train
from models import Experts, Quantization, transformer
from refused import Refused
from scaling import AdamW, Averaging, Stopped, checkpoint, make_mesh, stacks
from scaling.chips.absent import lowered
from scaling.mesh import place, state_shardings
from scaling.optimizers import OPTIMIZERS, named
from scaling.stacks import by_path, runs, stacked
from scaling.state import average, initial, rules, update
from scaling.train import Program, advance, compiled, gradients_of, on_mesh
from tests.corpora import model, recipe
from tests.rounding import assert_same_steps
from tests.scaling.test_fleet import everything, members, work
from tests.tiers import mostly

EXPERTS = Experts(4, 2, 0, first_dense=1, router="sigmoid")  # With biases: buffers.


@pytest.fixture(autouse=True)
def every_model_scans(monkeypatch):
    monkeypatch.setattr(transformer, "LOOPED_LAYERS", 1)


def program(config, optimizer=None, mesh="data:1", **fields) -> Program:
    of = recipe(config, optimizer, **fields)
    return Program(recipe=of, batch_tokens=256, mesh=make_mesh(mesh))


def test_layers_are_stacked_where_all_that_holds_for_them_is_one():
    assert runs(model(depth=4)) == [range(4)]
    assert runs(model(depth=4, frozen=("layers.1.*",))) == [range(2, 4)]
    assert runs(model(depth=5, feed_forward=replace(EXPERTS, first_dense=2))) == [
        range(2),
        range(2, 5),
    ]


def test_layers_that_are_looped_over_are_not_stacked(monkeypatch):
    monkeypatch.setattr(transformer, "LOOPED_LAYERS", 4)
    state = on_mesh(program(model(depth=4)), initial(recipe(model(depth=4)), 0))
    assert runs(model(depth=4)) == [] and by_path(state, keep=True) == state


@pytest.mark.parametrize("axis", mostly([0, 1], [0]))
def test_stacking_and_its_undoing_give_the_same_bits_and_free_what_they_took(axis):
    config = model(depth=3, width=8)
    one = program(config, mesh="fsdp:4,data:2")
    first = initial(one.recipe, 3)
    if axis:  # Rows of a fleet.
        first = jax.tree.map(lambda x: np.stack([x, x + np.ones_like(x)]), first)
        whole = jax.sharding.NamedSharding(one.mesh, jax.sharding.PartitionSpec())
        taken = jax.device_put(first, whole)
    else:
        taken = place(first, state_shardings(one.mesh, config, first))
    state = stacked(config, taken, axis)
    assert taken.params["layers.1.attention.query"].is_deleted()
    stack = state.params["layers.0-2.attention.query"]
    assert stack.shape[axis] == 3
    if not axis:
        assert jax.tree.all(
            jax.tree.map(
                lambda x, at: x.sharding == at, state, state_shardings(one.mesh, config, state)
            )
        )
    kept = by_path(state, axis, keep=True)
    assert not stack.is_deleted()
    back = by_path(state, axis)
    assert stack.is_deleted()
    for found in (kept, back):
        assert jax.tree.structure(found) == jax.tree.structure(first)
        jax.tree.map(np.testing.assert_array_equal, found, first)


def step(one: Program, windows):
    """Returns a step on a state of either form."""

    @jax.jit
    def taken(state):
        gradients, buffers, metrics = gradients_of(one, state, windows)
        state, norm = update(one.recipe, state, gradients, jnp.float32(0.01), jnp.float32(0.1))
        state = average(one.recipe.averaging, one.batch_tokens, state)
        return state.replace(buffers=buffers), metrics | {"norm": norm}

    return taken


def both_ways(one: Program):
    windows = np.random.default_rng(0).integers(0, 256, (8, 33)).astype(np.int32)
    take = step(one, windows)

    def over_stacks(state):
        state, metrics = take(on_mesh(one, state))
        return by_path(state), metrics

    assert_same_steps(take, over_stacks, initial(one.recipe, 0))


@pytest.mark.equality
@pytest.mark.thorough
def test_a_step_of_stacks_is_a_step_of_leaves_by_path_in_every_part_at_once():
    config = model(
        depth=5,
        width=8,
        feed_forward=EXPERTS,
        quantization=Quantization(4),
        frozen=("layers.2.attention.*",),
    )
    assert runs(config) == [range(3, 5)]
    both_ways(program(config, averaging=Averaging(tokens=10_000)))


@pytest.mark.equality
@pytest.mark.parametrize("name", mostly(OPTIMIZERS, ("adamw",)))
def test_every_optimizer_updates_a_stack_as_it_updates_its_layers(name):
    both_ways(program(model(width=8), named(name, learning_rate=0.01)))


def test_an_optimizer_whose_rates_differ_within_a_stack_is_refused():
    class Deeper(AdamW):
        def rule(self, path, leaf):
            rule = super().rule(path, leaf)
            return replace(rule, rate=0.5) if path.startswith("layers.1.") else rule

    of = recipe(model(width=8), Deeper(learning_rate=0.01))
    assert rules(of, ("layers.0.attention.query", "layers.1.attention.query"))
    with pytest.raises(Refused, match=r"optimizer.*Deeper.*layers\.0\.attention"):
        rules(of, ("layers.0-1.attention.query",))


def test_a_traced_step_stacks_nothing_that_leads_with_its_layers(monkeypatch):
    one = program(model(depth=3, width=8))
    windows = np.zeros((8, 33), np.int32)

    def put_together():
        text = str(jax.make_jaxpr(step(one, windows))(stacks.shapes(one.recipe)))
        return re.findall(r"f32\[3,\S* = (?:concatenate|stack)\b", text)

    assert put_together() == []
    monkeypatch.setattr(stacks, "runs", lambda config: [])  # What is looked for is found by path.
    assert len(put_together()) >= 9


@pytest.mark.thorough
def test_no_compiled_step_stacks_parameters(monkeypatch):
    one = program(model(depth=3, width=24), mesh="fsdp:4,data:2")

    def put_together():
        compiled.cache_clear()
        text = lowered(one).compile().as_text()
        return re.findall(r"= f32\[3,\S* (?:concatenate|pad)\(", text)

    assert put_together() == []
    monkeypatch.setattr(stacks, "runs", lambda config: [])
    assert len(put_together()) >= 9


@pytest.mark.thorough
@pytest.mark.parametrize("most", [None, 2])
def test_runs_of_stacks_go_on_from_checkpoints_by_path(most, corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    several = members(corpus, 2, steps=(12,), config=model(width=8))
    whole = work(corpus, mesh, tmp_path / "whole", several, most)
    stops = 0
    while stops < 100:
        try:
            cut = work(corpus, mesh, tmp_path / "cut", several, most, stop_after=0.0)
            break
        except Stopped:
            stops += 1
    assert 1 < stops < 100
    np.testing.assert_array_equal(everything(cut), everything(whole))


@pytest.mark.equality
@pytest.mark.thorough
def test_micro_batches_on_a_mesh_train_a_stack_as_its_layers():
    one = replace(program(model(width=8), mesh="fsdp:2,data:2"), accumulate=2)
    windows = np.random.default_rng(0).integers(0, 256, (1, 8, 33)).astype(np.int32)

    def over_stacks(state):
        compiled.cache_clear()
        placed = on_mesh(one, jax.tree.map(np.array, state))
        state, metrics = advance(one, placed, windows, np.full(1, 0.01), 0.1)
        return by_path(state), metrics

    def over_layers(state):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stacks, "runs", lambda config: [])
            return over_stacks(state)

    assert_same_steps(over_layers, over_stacks, initial(one.recipe, 0))


@pytest.mark.thorough
def test_a_state_that_went_to_its_hosts_memory_is_saved_as_it_is(tmp_path):
    one = program(model(width=8), mesh="fsdp:4,data:2")
    first = initial(one.recipe, 0)
    kept = by_path(on_mesh(one, first), keep=True)
    moved = jax.tree.map(lambda x: stacks.to_host([x])[0], kept)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(moved)} == {"pinned_host"}
    folder = epath.Path(tmp_path)
    checkpoint.save_tree(folder, 3, checkpoint.to_tree(moved), {"step": 3})
    found, _ = checkpoint.restore(folder, one.recipe, one.mesh)
    jax.tree.map(np.testing.assert_array_equal, found, first)
