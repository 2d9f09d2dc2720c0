"""The compiled program: cut anywhere, it is the same program and the same bits."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from models import Experts
from refused import Refused
from scaling import AdamW, make_mesh
from scaling import train as module
from scaling.chips.compiled import account
from scaling.state import initial
from scaling.train import Program, advance, compiled, evaluate, gradients_of, on_mesh
from tests.corpora import model, recipe
from tests.rounding import NUDGES, assert_same_step, state_nudged

CONFIG = model()


def inputs(steps):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (steps, 8, 33)).astype(np.uint8), np.linspace(0.01, 0.001, steps)


def run(cuts, mesh):
    program = Program(
        recipe=recipe(CONFIG, AdamW(learning_rate=0.01, weight_decay=0.1)),
        batch_tokens=256,
        mesh=mesh,
    )
    state = on_mesh(program, initial(recipe(CONFIG), 0))
    windows, rates = inputs(sum(cuts))
    losses, begin = [], 0
    for cut in cuts:
        part = slice(begin, begin + cut)
        state, metrics = advance(program, state, windows[part], rates[part], 0.1)
        losses += np.asarray(metrics["nll"])[:cut].tolist()
        begin += cut
    return losses, state


@pytest.mark.parametrize("cuts", [(8, 8, 1, 7), (24,), (1,) * 24])
def test_where_training_is_cut_changes_no_bit(cuts, mesh):
    losses, state = run(cuts, mesh)
    expected, other = run((16, 8), mesh)
    assert losses == expected
    for path, value in other.params.items():
        np.testing.assert_array_equal(state.params[path], value)


def test_rates_decays_and_seeds_share_one_program(mesh):
    programs = {
        Program(
            recipe=recipe(CONFIG, AdamW(learning_rate=rate, weight_decay=decay)),
            batch_tokens=256,
            mesh=mesh,
        )
        for rate, decay in ((1.0, 0.0), (2.0, 0.3))
    }
    assert len(programs) == 1
    run((4,), mesh)
    program = programs.pop()
    launches = compiled(program)._cache_size()
    windows, rates = inputs(7)
    advance(program, on_mesh(program, initial(recipe(CONFIG), 9)), windows, 3 * rates, 0.7)
    assert compiled(program)._cache_size() == launches


def test_dispatches_shrink_for_large_batches(mesh):
    small, large = (
        Program(recipe=recipe(CONFIG, AdamW(learning_rate=1.0)), batch_tokens=b, mesh=mesh)
        for b in (256, 1 << 20)
    )
    assert small.dispatch_steps == module.DISPATCH_STEPS and large.dispatch_steps == 2


def test_evaluation_does_not_depend_on_its_batches(mesh, monkeypatch):
    state = initial(recipe(CONFIG), 0)
    windows = np.random.default_rng(1).integers(0, 256, (37, 33)).astype(np.int32)
    whole = evaluate(CONFIG, mesh, state, windows)
    monkeypatch.setattr(module, "EVALUATION_TOKENS", 32 * 5)
    parts = evaluate(CONFIG, mesh, state, windows)
    eight = evaluate(CONFIG, make_mesh("data:8"), state, windows)
    assert whole.shape == (37,)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    np.testing.assert_allclose(eight, whole, rtol=1e-6)
    assert whole.mean() / 32 == pytest.approx(np.log(256), abs=0.1)


BATCH = np.random.default_rng(2).integers(0, 256, (8, 33)).astype(np.int32)


def experts(**fields):
    return model(feed_forward=Experts(8, 2, 1, granularity=4.0, capacity_factor=1.0, **fields))


def gradient(config, spec="data:1", accumulate=1, tokens=256):
    program = Program(
        recipe=recipe(config, AdamW(learning_rate=0.01)),
        batch_tokens=tokens,
        mesh=make_mesh(spec),
        accumulate=accumulate,
    )

    given = initial(program.recipe, 0), BATCH[: tokens // 32]
    with jax.set_mesh(program.mesh):
        return jax.jit(functools.partial(gradients_of, program)).lower(*given).compile()


@pytest.mark.equality
def test_micro_batches_have_the_gradient_of_the_whole_batch():
    config = replace(experts(balance=0.0), z_loss=1e-4)  # Capacity is of a sequence: it is linear.
    state, whole = initial(recipe(config), 0), gradient(config)
    linear = lambda gradients, buffers, metrics: (gradients, metrics["nll"])
    moved = [linear(*whole(state_nudged(state, seed), BATCH)) for seed in NUDGES]
    expected = linear(*whole(state, BATCH))
    one = gradient(config, accumulate=2)(state, BATCH)
    assert_same_step(linear(*one), expected, moved)
    for spec in ("data:4", "expert:2,data:2"):
        step, mesh = gradient(config, spec, accumulate=2), make_mesh(spec)
        found = step(state, BATCH)
        assert_same_step(linear(*found), expected, moved)
        assert float(found[2]["router.load"]) == pytest.approx(float(one[2]["router.load"]), 1e-5)
        assert_sent_once(account(step.as_text(), mesh).collectives, state, mesh)


def assert_sent_once(exchanges, state, mesh):
    """All gradients go along `data`, and that after the loop over micro-batches."""
    split = lambda x: x.ndim == 3  # Experts, over the axis of their name.
    held = sum(x.size / (mesh.shape["expert"] if split(x) else 1) for x in state.params.values())
    sent = [one for one in exchanges if "data" in one.axes]
    assert {(one.axes, one.times) for one in sent} == {(("data",), 1), (("data",), 2)}
    total = lambda times: sum(a.size for one in sent for a in one.arrays if one.times == times)
    assert held <= total(1) < held + 20
    assert total(2) <= 2 * 8 * 2  # Of two layers' eight experts, the load and its gradient.


@pytest.mark.thorough
@pytest.mark.equality
def test_what_is_not_linear_in_the_batch_is_the_mean_over_micro_batches():
    config = experts(router="sigmoid", balance=0.01)
    state, half = initial(recipe(config), 0), gradient(config, tokens=128)
    ways = (state, *(state_nudged(state, seed) for seed in NUDGES))
    mean = lambda state: jax.tree.map(
        lambda one, other: (np.asarray(one) + np.asarray(other)) / 2,
        *(half(state, BATCH[some::2]) for some in (0, 1)),
    )
    expected, *moved = map(mean, ways)
    for spec in ("data:1", "data:2"):
        found = gradient(config, spec, accumulate=2)(state, BATCH)
        assert np.any(found[1]["layers.0.feed_forward.bias"]) and found[2]["loss.balance"] > 0
        assert_same_step(found, expected, moved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulate": 3}, "phase.batch_tokens: got 256; accepted: a number of sequences"),
        ({"accumulate": 3}, "accumulate 3 = 6 divides"),
        ({"accumulate": 0}, "accumulate: got 0; accepted: 1 or more micro-batches"),
        ({"recompute": "some"}, "recompute: got some; accepted: one of auto, none, dots, full"),
    ],
)
def test_micro_batches_that_do_not_divide_are_refused(fields, message):
    with pytest.raises(Refused) as refused:
        Program(recipe=recipe(CONFIG), batch_tokens=256, mesh=make_mesh("data:2"), **fields)
    assert message in str(refused.value)
