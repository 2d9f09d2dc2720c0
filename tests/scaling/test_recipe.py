"""Recipes: what a new optimizer or an average needs to reach the program and survive changes."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from models import Leaf, Streams
from refused import Refused
from scaling import (
    AddStreams,
    Averaging,
    Data,
    GrowParameterTokens,
    Quantize,
    Rate,
    Recipe,
    Run,
    make_mesh,
)
from scaling import checkpoint as checkpoints
from scaling.growth import first_rows
from scaling.optimizers import OPTIMIZERS, Optimizer, Rule, named
from scaling.state import State, initial, optimizer_bytes
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe, tokenformer

KINDS = (
    *(State, Recipe, Averaging, Program, Rule, Optimizer, *OPTIMIZERS.values()),
    *(Run, Data, Rate),
)


@pytest.mark.parametrize("kind", KINDS)
def test_building_one_by_position_is_refused_by_python(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    for count in range(1, len(names) + 1):
        with pytest.raises(TypeError, match="positional argument"):
            kind(*range(count))


class Slow(NamedTuple):
    """State that starts neither at zero nor in the parameter's shape alone."""

    slow: jax.Array
    square: jax.Array
    count: jax.Array


@dataclass(frozen=True, kw_only=True)
class Scratch(Optimizer):
    """Descends while it is pulled towards slow weights that follow it."""

    pull: float = 0.1

    def rule(self, path: str, leaf: Leaf) -> Rule:
        def init(value):
            return Slow(jnp.array(value), jnp.eye(leaf.shape[-1]), jnp.zeros((), jnp.int32))

        def step(gradient, state, value):
            slow = state.slow + self.pull * (value - state.slow)
            square = state.square + 1e-3 * jnp.mean(gradient)
            return gradient + value - slow, Slow(slow, square, state.count + 1)

        return Rule(transformation=optax.GradientTransformation(init, step))


@pytest.fixture
def scratch(monkeypatch):
    """The scratch optimizer's one line in the registry, and how to get one by name."""
    monkeypatch.setitem(OPTIMIZERS, "scratch", Scratch)
    return lambda **settings: named("scratch", learning_rate=0.1, **settings)


def train(plan: Recipe, state: State | None = None, steps: int = 3) -> State:
    """Takes a few steps on one device; returns the state as numpy arrays."""
    program = Program(recipe=plan, batch_tokens=256, mesh=make_mesh("data:1"))
    start = jax.tree.map(np.array, initial(plan, 0) if state is None else state)
    windows = np.random.default_rng(0).integers(0, 256, (steps, 8, 33)).astype(np.int32)
    after, _ = advance(program, on_mesh(program, start), windows, np.full(steps, 0.1), 0.0)
    return jax.tree.map(np.array, after)


def test_a_new_optimizers_field_reaches_the_program_and_its_results(scratch):
    plans = [recipe(model(depth=1), scratch(pull=pull)) for pull in (0.1, 0.2)]
    mesh = make_mesh("data:1")
    programs = {Program(recipe=p, batch_tokens=256, mesh=mesh) for p in plans}
    assert len(programs) == 2
    ends = [train(plan) for plan in plans]
    assert any((ends[0].params[p] != ends[1].params[p]).any() for p in ends[0].params)
    slower = scratch(pull=0.1, weight_decay=0.3)
    same = Program(recipe=recipe(model(depth=1), slower), batch_tokens=256, mesh=mesh)
    assert same in programs


def part(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array[tuple(slice(size) for size in shape)]


def test_a_new_optimizers_state_survives_growth(scratch):
    plan = recipe(tokenformer(depth=1), scratch(), averaging=Averaging(tokens=1000))
    change, before = GrowParameterTokens(20, 48), train(plan)
    after = dataclasses.replace(plan, model=change.config(plan.model))
    grown = jax.tree.map(np.asarray, change.state(before, after, 0))
    assert jax.tree.structure(grown) == jax.tree.structure(initial(after, 0))
    path = "layers.0.feed_forward.only.keys"
    for path, moments in grown.moments.items():
        old, value = before.moments[path], grown.params[path]
        np.testing.assert_array_equal(part(moments.slow, old.slow.shape), old.slow)
        np.testing.assert_array_equal(part(moments.square, old.square.shape), old.square)
        assert int(moments.count) == 3
        # What was added starts as the optimizer says: slow weights at the new rows themselves.
        new = np.ones(value.shape, bool)
        part(new, old.slow.shape)[...] = False
        np.testing.assert_array_equal(moments.slow[new], value[new])
        np.testing.assert_array_equal(grown.averages[path].value[new], value[new])
        size = old.square.shape[0]
        assert (np.diag(moments.square)[size:] == 1).all()
        average = before.averages[path]
        np.testing.assert_array_equal(
            part(grown.averages[path].value, average.value.shape), average.value
        )
        assert grown.averages[path].weight == average.weight > 0
    assert grown.moments["layers.0.feed_forward.only.keys"].square.shape == (48, 48)
    cut = first_rows(grown, plan)
    for one, other in zip(jax.tree.leaves(cut), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(train(after, grown).moments[path].count) == 6


@pytest.mark.parametrize("change", [AddStreams(Streams(2, prefix=4)), Quantize(4)])
def test_a_new_optimizers_state_survives_changes_that_add_leaves(change, scratch):
    plan = recipe(model(depth=1), scratch(), averaging=Averaging(tokens=1000))
    before = initial(plan, 0)
    after = dataclasses.replace(plan, model=change.config(plan.model))
    changed = change.state(before, after, 0)
    assert jax.tree.structure(changed) == jax.tree.structure(initial(after, 0))
    for name in ("moments", "averages"):
        had, has = getattr(before, name), getattr(changed, name)
        assert all(has[path] is had[path] for path in had)
    added = changed.moments.keys() - before.moments.keys()
    assert added
    for path in added:
        np.testing.assert_array_equal(changed.moments[path].slow, changed.params[path])
        np.testing.assert_array_equal(changed.averages[path].value, changed.params[path])
        assert changed.averages[path].weight == 0


@pytest.mark.parametrize("name", ["adamw", "scratch"])
def test_every_optimizers_state_comes_back_from_a_checkpoint(name, scratch, tmp_path):
    optimizer = scratch() if name == "scratch" else named(name, learning_rate=0.1)
    plan = recipe(model(depth=1), optimizer, averaging=Averaging(tokens=1000))
    noise = lambda x: np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)
    state = jax.tree.map(noise, initial(plan, 0))
    checkpoints.save(epath.Path(tmp_path), 3, state, {"step": 3})
    found, _ = checkpoints.restore(epath.Path(tmp_path), plan, make_mesh("fsdp:2,data:2"))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_optimizer_without_state_leaves_nothing_in_a_checkpoint(monkeypatch, tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Signs(Optimizer):
        def rule(self, path: str, leaf: Leaf) -> Rule:
            return Rule(transformation=optax.scale_by_sign())

    plan = recipe(model(depth=1), Signs(learning_rate=0.1))
    state = train(plan)
    assert optimizer_bytes(plan) == 0
    checkpoints.save(epath.Path(tmp_path), 3, state, {"step": 3})
    found, _ = checkpoints.restore(epath.Path(tmp_path), plan, make_mesh("data:1"))
    assert jax.tree.structure(found) == jax.tree.structure(state)


def test_the_average_is_the_weighted_mean_of_the_weights_after_every_step():
    batch, tokens = 256, 1000.0
    plan = recipe(model(depth=1), averaging=Averaging(tokens=tokens))
    states = [train(plan, steps=steps) for steps in (1, 2, 3, 4)]
    plain = train(recipe(plan.model), steps=4)
    weights = np.exp(-batch / tokens * np.arange(3, -1, -1.0))
    for path, average in states[-1].averages.items():
        np.testing.assert_array_equal(states[-1].params[path], plain.params[path])
        each = np.stack([state.params[path].astype(np.float64) for state in states])
        mean = np.tensordot(weights, each, 1) / weights.sum()
        np.testing.assert_allclose(average.value, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(states[-1].averaged.params[path], average.value)
    assert plain.averages == {} and plain.averaged.params == plain.params


def test_averages_are_off_until_asked_for_and_then_another_program():
    assert recipe(model()).averaging is None
    with pytest.raises(Refused, match="averaging.tokens: got 0; accepted: a positive number of"):
        Averaging(tokens=0)
    mesh = make_mesh("data:1")
    programs = {
        Program(recipe=recipe(model(), averaging=a), batch_tokens=256, mesh=mesh)
        for a in (None, Averaging(tokens=10), Averaging(tokens=20))
    }
    assert len(programs) == 3


def test_bytes_are_those_of_what_an_optimizer_and_averages_keep():
    size = lambda name, **fields: optimizer_bytes(
        recipe(model(), named(name, learning_rate=0.1), **fields)
    )
    leaves = initial(recipe(model()), 0).params.values()
    params = sum(x.nbytes for x in leaves)
    counts = 4 * len(leaves)
    assert size("adamw") == 2 * params + counts
    assert size("lion") == params + counts
    assert params < size("muon") < size("adamw")
    assert size("lion", averaging=Averaging(tokens=10)) == 2 * (params + counts)
