"""Growth of TokenFormer models: what it keeps, what it adds, and what it refuses."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from models import ParameterTokens, count, held_out_nll, loss, skeleton
from models.tokenformer import NORMS
from refused import Refused
from scaling import AdamW, GrowParameterTokens, Phase, Quantize, make_mesh, plan
from scaling.grouping import planned
from scaling.growth import first_rows
from scaling.state import State, fresh, initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import STEP, model, recipe, study_runs, tokenformer
from tests.rounding import NUDGES, assert_same_step, assert_same_trajectory, state_nudged
from tests.scaling.test_fleet import ends, with_nudged, work

CONFIG = tokenformer()
EXACT = GrowParameterTokens(20, 48)
OPTIMIZER = AdamW(learning_rate=0.01, weight_decay=0.01)


def windows(steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.integers(-2, 3, (steps, 8, 33)), axis=2) % 24 + 40


def train(config, state: State, steps: int, seed: int = 0) -> State:
    """Takes some steps and returns the state as numpy arrays."""
    program = Program(recipe=recipe(config, OPTIMIZER), batch_tokens=256, mesh=make_mesh("data:1"))
    copy = jax.tree.map(np.array, state)
    after, _ = advance(
        program, on_mesh(program, copy), windows(steps, seed), np.full(steps, 0.01), 0.01
    )
    return jax.tree.map(np.asarray, after)


@pytest.fixture(scope="module")
def trained() -> State:
    """A small model after ten steps, with moments that are not zero."""
    return train(CONFIG, initial(recipe(CONFIG), 0), 10)


def grow(change, state, config=CONFIG, seed=0):
    after = change.config(config)
    return after, jax.tree.map(np.asarray, change.state(state, recipe(after), seed))


def nll(config, state):
    return jax.jit(lambda p, b: held_out_nll(config, p, b, windows(1)[0]))(
        state.params, state.buffers
    )


def assert_same(left: State, right: State) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for path, other in zip(
        jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True
    ):
        np.testing.assert_array_equal(path[1], other, err_msg=str(path[0]))


def test_exact_growth_leaves_every_loss_as_it_was(trained):
    after, state = grow(EXACT, trained)
    assert (after.attention.rows, after.feed_forward.rows) == (20, 48)
    assert (after.attention.base, after.feed_forward.base) == (12, 32)
    np.testing.assert_allclose(nll(after, state), nll(CONFIG, trained), rtol=1e-6, atol=1e-6)
    # A second growth too: τ is still that of the first construction.
    again, state = grow(GrowParameterTokens(feed_forward_rows=64), state, after)
    assert (again.attention.rows, again.feed_forward.base) == (20, 32)
    np.testing.assert_allclose(nll(again, state), nll(CONFIG, trained), rtol=1e-6, atol=1e-6)


def test_exact_growth_leaves_every_logit_as_it_was(trained):
    after, state = grow(EXACT, trained)
    tokens = windows(1)[0][:, :-1]
    logits = lambda c: lambda p, b: skeleton(c).merge(p, b)(tokens)
    before = jax.jit(logits(CONFIG))(trained.params, trained.buffers)
    found = jax.jit(logits(after))(state.params, state.buffers)
    np.testing.assert_allclose(found, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        GrowParameterTokens(20, 48, "random"),
        GrowParameterTokens(20, 48, "random", "rows"),
        GrowParameterTokens(20, 48, "zero", "rows"),
    ],
)
def test_random_rows_or_a_new_tau_change_the_loss(change, trained):
    after, state = grow(change, trained)
    assert float(np.abs(nll(after, state) - nll(CONFIG, trained)).max()) > 1e-2
    assert after.attention.tau == (change.tau or "base_rows")


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_but_softmax_grows_exactly(norm, trained):
    fields = {p: replace(getattr(CONFIG, p), norm=norm) for p in ("attention", "feed_forward")}
    config = replace(CONFIG, **fields)
    after, state = grow(EXACT, trained, config)
    change = float(np.abs(nll(after, state) - nll(config, trained)).max())
    assert change > 1e-3 if norm == "softmax" else change < 1e-5


def test_the_first_rows_of_a_grown_model_are_the_smaller_model(trained):
    for new in ("zero", "random"):
        after, state = grow(GrowParameterTokens(20, 48, new), trained)
        assert_same(first_rows(state, recipe(CONFIG)), trained)
    # And so after training: what is cut is a model of the smaller configuration.
    cut = first_rows(train(after, state, 2), recipe(CONFIG))
    assert {p: x.shape for p, x in cut.params.items()} == {
        p: x.shape for p, x in trained.params.items()
    }


def test_new_rows_are_drawn_apart_from_the_old_ones():
    state = initial(recipe(CONFIG), 0)
    path = "layers.0.attention.query.keys"
    rows = {}
    for seed in (0, 1):
        _, grown = grow(GrowParameterTokens(24, 48, "random"), state, seed=seed)
        rows[seed] = grown.params[path][:, 12:]
        values = grown.params[path.replace("keys", "values")]
        assert values[12:].std() == pytest.approx(24**-0.5, rel=0.15)
    old = state.params[path]
    assert not np.isin(rows[0], old).any()  # No draw of the start is used twice.
    assert not np.isin(rows[0], rows[1]).any()
    assert rows[0].std() == pytest.approx(old.std(), rel=0.15)


def test_moments_of_old_rows_are_carried_and_new_ones_are_zero(trained):
    after, state = grow(EXACT, trained)
    for path, moments in state.moments.items():
        old = trained.moments[path]
        assert int(moments.count) == int(old.count) == 10
        for name in ("mu", "nu"):
            now, before = getattr(moments, name), getattr(old, name)
            inside = tuple(slice(size) for size in before.shape)
            np.testing.assert_array_equal(now[inside], before)
            assert before.any()
            outside = np.ones(now.shape, bool)
            outside[inside] = False
            assert not now[outside].any()
    # Zero further steps change nothing.
    assert_same(train(after, state, 0), state)


@pytest.mark.thorough
@pytest.mark.equality
def test_the_next_step_of_old_rows_is_that_of_the_model_that_was_not_grown(trained):
    unclipped = replace(OPTIMIZER, clip=1e9)  # New rows add to the norm that clipping sees.

    def step(config, state):
        program = Program(
            recipe=recipe(config, unclipped), batch_tokens=256, mesh=make_mesh("data:1")
        )
        copy = jax.tree.map(np.array, state)
        return advance(program, on_mesh(program, copy), windows(1, 5), np.full(1, 0.01), 0.01)[0]

    after, state = grow(EXACT, trained)
    grown, plain = step(after, state), step(CONFIG, trained)
    moved = [step(CONFIG, state_nudged(trained, seed)) for seed in NUDGES]
    assert_same_step(first_rows(grown, recipe(CONFIG)), plain, moved)
    keys = "layers.1.feed_forward.only.keys"
    assert np.asarray(grown.params[keys])[:, 32:].any()  # New keys leave zero at once.


def test_a_reset_starts_moments_and_schedule_anew(trained):
    after, state = grow(EXACT, trained)
    reset = fresh(recipe(after), {path: state.params[path] for path in state.moments})
    for path, moments in reset.items():
        assert int(moments.count) == 0
        assert moments.mu.shape == moments.nu.shape == state.params[path].shape
        assert not moments.mu.any() and not moments.nu.any()


def test_a_phase_restarts_its_schedule_and_counts_its_own_flops(corpus):
    runs = study_runs("grown", corpus)
    last = runs[-1]
    sizes = [count(last.model_at(i)).params_total for i in range(3)]
    assert sizes == sorted(set(sizes))
    assert (last.phases[-1].rates(0, 2) < 1).all()  # A warmup of its own.
    each = [count(last.model_at(i)).flops_train * p.tokens for i, p in enumerate(last.phases)]
    assert last.flops() == sum(each)
    assert runs[1].trunk == last.trunk


def test_growth_enters_the_identity(corpus):
    run = study_runs("grown", corpus)[1]
    phases = lambda change: (run.phases[0], Phase(STEP, STEP, change=change))
    changes = [EXACT, GrowParameterTokens(20, 48, "random"), GrowParameterTokens(24, 48)]
    assert len({replace(run, phases=phases(change)).identity for change in changes}) == 3


def test_a_sharded_state_grows_to_the_same_bits(trained):
    program = Program(
        recipe=recipe(CONFIG, OPTIMIZER), batch_tokens=256, mesh=make_mesh("fsdp:4,data:2")
    )
    after, alone = grow(EXACT, trained)
    split = EXACT.state(on_mesh(program, trained), recipe(after), 0)
    wider = Program(recipe=recipe(after, OPTIMIZER), batch_tokens=256, mesh=program.mesh)
    placed = on_mesh(wider, split)
    keys = placed.params["layers.0.attention.query.keys"]
    assert keys.addressable_shards[0].data.shape == (16, 20 // 4)
    assert_same(jax.tree.map(np.asarray, placed), alone)


@pytest.mark.equality
@pytest.mark.thorough
def test_growth_and_looks_right_after_it_are_the_same_in_a_fleet(corpus, mesh, tmp_path):
    runs = [replace(run, seed=seed) for run in study_runs("grown", corpus) for seed in range(2)]
    reference, *moved = map(ends, with_nudged(corpus, mesh, tmp_path, runs))
    together = work(corpus, mesh, tmp_path / "fleet", runs, most=4)
    assert_same_trajectory(ends(together), reference, moved)
    sizes = {f.segments[0].steps: f.size for f in planned(plan(runs), mesh, lambda program: 4)}
    assert sizes[0] == sizes[6] == 2


def test_a_frozen_place_grows_without_moments(trained):
    config = replace(CONFIG, frozen=("layers.0.*",))
    moments = {p: m for p, m in trained.moments.items() if not p.startswith("layers.0")}
    after, state = grow(EXACT, trained.replace(moments=moments), config)
    assert state.moments.keys() == moments.keys()
    assert state.params["layers.0.attention.key.keys"].shape == (16, 20)
    assert float(loss(after, state.params, {}, windows(1)[0])[0]) > 0


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (
            GrowParameterTokens(8, 48),
            CONFIG,
            "grow.attention_rows: got 8; accepted: 12 or more: growth keeps every row",
        ),
        (GrowParameterTokens(12, 31), CONFIG, "grow.feed_forward_rows: got 31; accepted: 32"),
        (
            GrowParameterTokens(20, 48),
            model(),
            "grow.attention_rows: got 20; accepted: None, or a model whose attention is",
        ),
        (
            GrowParameterTokens(20, 48),
            replace(model(), attention=ParameterTokens(12)),
            "grow.feed_forward_rows: got 48; accepted: None, or a model whose feed_forward is",
        ),
        (GrowParameterTokens(), CONFIG, "grow: got no rows; accepted: attention_rows or"),
    ],
)
def test_growth_that_cannot_be_is_refused_by_name(change, config, message):
    with pytest.raises(Refused) as refused:
        change.config(config)
    assert message in str(refused.value)


def test_unknown_starts_and_taus_are_refused_by_name():
    with pytest.raises(Refused, match="grow.new: got ones; accepted: zero or random"):
        GrowParameterTokens(20, 48, "ones")
    with pytest.raises(Refused, match="grow.tau: got n; accepted: one of base_rows, rows"):
        GrowParameterTokens(20, 48, tau="n")


def test_a_quantised_model_is_not_grown():
    quantised = Quantize(4).config(CONFIG)
    with pytest.raises(Refused, match="grow: got a model at 4 bits; accepted: a model at full pr"):
        GrowParameterTokens(feed_forward_rows=64).config(quantised)
