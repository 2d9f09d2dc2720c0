"""What every optimizer of the registry does in a few steps, on the smallest model."""

import dataclasses
import functools
from collections.abc import Iterator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from models import Experts, skeleton
from scaling import Recipe, checkpoint, make_mesh
from scaling.mesh import place, state_shardings
from scaling.optimizers import OPTIMIZERS, named
from scaling.state import State, initial, update
from tests.corpora import model, recipe
from tests.rounding import assert_same_steps
from tests.scaling.optimizers.by_hand import REFERENCES, reference
from tests.tiers import mostly

SMALLEST = model(
    width=4, depth=1, context=8, vocabulary=8, feed_forward=Experts(2, 1, 0, granularity=4.0)
)
# One leaf of every kind, two stacked matrices [4, 2] among them: each costs compiling.
MATRICES = "layers.0.feed_forward.up"
LEAVES = {
    path: skeleton(SMALLEST).params[path]
    for path in ("embedding.table", "head.kernel", "final_norm.gain", MATRICES)
}
# At a rate as large as this an error of 1e-6 in a parameter is one of 1e-5 in the direction.
RATE, DECAY = 0.1, 0.5
# Static settings at which small matrices show what large ones would.
STATIC = {
    "soap": {"every": 1},
    "cosmos": {"rank": 2},
    "adafactor": {"least": 2},
    "ademamix": {"warmup_steps": 4},
}
BY_HAND = sorted(OPTIMIZERS.keys() & REFERENCES.keys())


def optimizer(name: str, **settings):
    fields = dict(learning_rate=RATE, weight_decay=DECAY, clip=1e9, swept=True)
    return named(name, **fields | STATIC.get(name, {}) | settings)


# Every optimizer's steps are compared; these also through a checkpoint and over a mesh.
FEW = ("adamw", "muon", "soap", "adafactor", "schedule_free")


@functools.cache
def steps_of(name: str):
    """Returns a recipe and its compiled update (state, gradients, settings) → state."""
    plan = recipe(SMALLEST, optimizer(name).static)
    take = lambda s, g, settings: update(plan, s, g, jnp.float32(RATE), settings)[0]
    # By the emitter that users have, since rounding is what is asked about.
    return plan, jax.jit(take, compiler_options={"xla_cpu_use_fusion_emitters": True})


def begun(plan: Recipe) -> State:
    """Returns the leaves' initial state."""
    return part(initial(plan, 0))


def part(state: State) -> State:
    """Returns the leaves' part of a state."""
    some = lambda by_path: {path: by_path[path] for path in LEAVES}
    return state.replace(params=some(state.params), moments=some(state.moments), buffers={})


def gradient(shape: tuple[int, ...], seed) -> np.ndarray:
    """Draws matrices whose singular values are 1, 2, 3, …: bases are well determined."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal(shape)
    if len(shape) > 1:
        left, values, right = np.linalg.svd(drawn, full_matrices=False)
        drawn = (left * np.arange(1, values.shape[-1] + 1.0)) @ right
    return drawn.astype(np.float32)


def gradients(seed: int) -> dict[str, np.ndarray]:
    return {p: gradient(x.shape, [seed, i]) for i, (p, x) in enumerate(LEAVES.items())}


def bases(state: State) -> Iterator[np.ndarray]:
    """Gives the bases of SOAP's matrices, left and right in turn."""
    sides = state.moments[MATRICES].left, state.moments[MATRICES].right
    yield from (side.basis[i] for i in range(LEAVES[MATRICES].shape[0]) for side in sides)


def neighbour(name: str):
    """Returns an optimizer with every swept setting another, where the rule allows it."""
    one = optimizer(name)
    other = lambda v: v * 0.9 if v < 1 else v * 1.25
    values = {f: other(getattr(one, f)) for f in one.arrays if f not in ("clip", "epsilon")}
    return dataclasses.replace(one, **values)


@pytest.mark.parametrize("name", BY_HAND)
def test_three_steps_are_those_written_out_in_float64_at_any_setting(name):
    (plan, step), sizes = steps_of(name), []
    for chosen in (optimizer(name), neighbour(name)):
        # The program has settings in float32, and so has the reference.
        floats = {f: float(np.float32(getattr(chosen, f))) for f in chosen.arrays}
        h = SimpleNamespace(**dataclasses.asdict(chosen) | floats)
        state = begun(plan)
        values = {p: x.astype(np.float64) for p, x in state.params.items()}
        by_hand = {p: reference(name, h, leaf) for p, leaf in LEAVES.items()}
        for seed in range(3):
            drawn = gradients(seed)
            state = step(state, drawn, chosen.settings)
            h.bases = bases(state) if name == "soap" else None
            for path, leaf in LEAVES.items():
                rule = chosen.rule_of(path, leaf)
                direction = by_hand[path](drawn[path].astype(np.float64), values[path])
                decayed = DECAY * rule.decay * values[path]
                values[path] = values[path] - RATE * rule.rate * (direction + decayed)
                found = state.params[path]
                np.testing.assert_allclose(found, values[path], rtol=0, atol=1e-6, err_msg=path)
        sizes.append(step._cache_size())
    assert sizes[0] == sizes[1]  # A neighbour costs no compile.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_a_gradient_there_is_nothing_but_decay(name):
    plan, step = steps_of(name)
    state, chosen = begun(plan), optimizer(name)
    zero = {path: np.zeros_like(x) for path, x in state.params.items()}
    after, steps = state, 1 if name == "schedule_free" else 2  # That one averages its steps.
    for _ in range(steps):
        after = step(after, zero, chosen.settings)
    for path, leaf in LEAVES.items():
        rule = chosen.rule_of(path, leaf)
        assert rule.decay == (0.0 if leaf.group.name == "vector" else 1.0)
        kept = (1 - RATE * rule.rate * rule.decay * DECAY) ** steps
        np.testing.assert_allclose(after.params[path], kept * state.params[path], rtol=1e-6)


@pytest.mark.parametrize("name", mostly(OPTIMIZERS, FEW))
def test_a_state_read_back_from_a_checkpoint_goes_on_to_the_same_bits(name, tmp_path):
    plan, step = steps_of(name)
    chosen, whole = optimizer(name), initial(plan, 0)
    state = step(step(begun(plan), gradients(0), chosen.settings), gradients(1), chosen.settings)
    kept = whole.replace(
        params=whole.params | jax.tree.map(np.array, state.params),
        moments=whole.moments | jax.tree.map(np.array, state.moments),
    )
    checkpoint.save(epath.Path(tmp_path), 2, kept, {})
    found, _ = checkpoint.restore(epath.Path(tmp_path), plan, make_mesh("data:1"))
    ends = [step(part(s), gradients(2), chosen.settings) for s in (state, found)]
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.equality
@pytest.mark.parametrize("name", mostly(OPTIMIZERS, FEW))
def test_eight_devices_take_the_steps_of_one(name):
    plan, step = steps_of(name)
    chosen, drawn = optimizer(name), gradients(0)
    state = step(begun(plan), gradients(1), chosen.settings)
    mesh = make_mesh("fsdp:4,data:2")
    lay = lambda s: place(s, state_shardings(mesh, SMALLEST, s))

    def here(s):  # What moves a parameter moves its gradient.
        pulled = {p: drawn[p] + np.asarray(s.params[p]) for p in drawn}
        return jax.tree.map(np.array, step(s, pulled, chosen.settings))

    def there(s):
        pulled = {p: drawn[p] + np.asarray(s.params[p]) for p in drawn}
        spread = lay(jax.tree.map(np.array, s)), lay(s.replace(params=pulled, moments={})).params
        with jax.set_mesh(mesh):
            return jax.tree.map(np.array, step(*spread, chosen.settings))

    assert_same_steps(here, there, jax.tree.map(np.array, state))
