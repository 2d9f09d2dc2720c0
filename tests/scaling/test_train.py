"""The compiled program: cut anywhere, it is the same program and the same bits."""

import numpy as np
import pytest

from scaling import AdamW, make_mesh
from scaling import train as module
from scaling.state import initial
from scaling.train import Program, advance, compiled, evaluate, on_mesh
from tests.corpora import model, recipe

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
