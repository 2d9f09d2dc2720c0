"""Optimizers of entries and of matrices train, alone, in fleets, over a mesh, through a stop."""

import jax
import numpy as np
import pytest

import scaling.train
from data import Mixture
from models import Experts
from scaling import (
    Averaging,
    Data,
    Evaluation,
    Run,
    Stopped,
    Store,
    Worker,
    make_mesh,
    plan,
    tables,
    wsd,
)
from scaling.optimizers import named
from scaling.schedule import in_fleets
from scaling.speed import training_bytes
from scaling.state import initial
from scaling.train import WINDOW_TYPE, Program, advance, compiled, on_mesh, place_windows
from tests.corpora import STEP, model, recipe, tokenformer
from tests.rounding import (
    NUDGES,
    assert_same_steps,
    assert_same_trajectory,
    starts_nudged,
    state_nudged,
)
from tests.scaling.test_trainer import assert_equal_bits, end_state
from tests.tiers import mostly

MODELS = {
    "baseline": model(depth=1),
    "experts": model(depth=1, feed_forward=Experts(4, 2, 1, granularity=4.0)),
    "tokenformer": tokenformer(depth=1),
}
# Rates at which 50 steps learn; Lion's are smaller than AdamW's, as its authors say.
RATES = {"lion": 0.002, "muon": 0.005}
# Every optimizer's own step: `test_steps.py`.
CASES = [(optimizer, kind) for optimizer in RATES for kind in MODELS]
SPEC = "fsdp:4,data:2"

FEW = [("muon", "baseline")]

pytestmark = pytest.mark.parametrize(("optimizer", "kind"), mostly(CASES, FEW), scope="module")


@pytest.fixture(scope="module", autouse=True)
def short_dispatches(optimizer, kind, programs):
    """One case after the other, each with its programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling.train, "DISPATCH_STEPS", 4)
        yield
    programs()


def program_of(optimizer: str, kind: str, spec: str) -> Program:
    rate = RATES[optimizer]
    plan_ = recipe(MODELS[kind], named(optimizer, learning_rate=rate, weight_decay=0.01))
    return Program(recipe=plan_, batch_tokens=STEP, mesh=make_mesh(spec))


def train(program: Program, state, steps: range, rate: float):
    """Returns the losses of some steps over a random walk of symbols, and the state as numpy."""
    rng = np.random.default_rng(0)
    shape = (50, program.sequences, program.config.context + 1)
    walk = np.cumsum(rng.integers(-2, 3, shape), axis=2) % 24 + 40
    state, losses = on_mesh(program, jax.tree.map(np.array, state)), []
    for begin in range(steps.start, steps.stop, program.dispatch_steps):
        some = walk[begin : min(begin + program.dispatch_steps, steps.stop)]
        state, metrics = advance(program, state, some, np.full(len(some), rate), 0.01)
        losses.append(np.asarray(metrics["nll"])[: len(some)])
    return np.concatenate(losses), jax.tree.map(np.array, state)


@pytest.mark.equality
def test_eight_devices_agree_with_one_over_a_step_and_over_fifty(optimizer, kind):
    rate = RATES[optimizer]
    one, eight = (program_of(optimizer, kind, spec) for spec in ("data:1", SPEC))
    start = initial(one.recipe, 0)
    _, state = train(one, start, range(8), rate)
    here, there = (lambda s, p=p: train(p, s, range(8, 9), rate)[1] for p in (one, eight))
    assert_same_steps(here, there, state)

    losses, _ = train(one, start, range(50), rate)
    moved = [train(one, state_nudged(start, s), range(50), rate)[0] for s in NUDGES]
    assert_same_trajectory(train(eight, start, range(50), rate)[0], losses, moved)
    assert losses[-1] < losses[0] - 0.4


def runs_of(optimizer: str, kind: str, corpus, **fields) -> list[Run]:
    """Returns two runs that differ in seed, rate and mixture, for a fleet of two."""
    mixtures = (Mixture.uniform(corpus.names), Mixture.of({"low": 0.7, "high": 0.3}))
    return [
        Run(
            model=MODELS[kind],
            data=Data.of(corpus, mixture),
            optimizer=named(
                optimizer, learning_rate=RATES[optimizer] / (1 + seed), weight_decay=0.01
            ),
            seed=seed,
            phases=wsd(20 * STEP, STEP, 2 * STEP),
            **fields,
        )
        for seed, mixture in enumerate(mixtures)
    ]


def curves(worker: Worker) -> np.ndarray:
    """Returns the losses of every step of every run, [runs, steps]."""
    paths = [worker.plan.path(run.identity) for run in worker.plan.runs]
    read = lambda segment: worker.store.metrics(segment.id)
    return np.array([[r["loss"] for s in path for r in read(s)] for path in paths])


def test_runs_agree_in_a_fleet_and_go_on_to_the_same_bits(optimizer, kind, corpus, mesh, tmp_path):
    # TokenFormers average their weights as well.
    fields = {"averaging": Averaging(tokens=8 * STEP)} if kind == "tokenformer" else {}
    runs, evaluation = runs_of(optimizer, kind, corpus, **fields), Evaluation(128)

    def work(folder: str, **settings) -> Worker:
        store = Store.at(tmp_path / folder)
        settings |= {"keep_params": True}
        return Worker(plan(runs), store, corpus, evaluation, mesh, **settings)

    whole, cut = work("whole"), work("cut")
    whole.run()
    with pytest.raises(Stopped):
        work("cut", stop_after=0.0).run()
    cut.run()
    np.testing.assert_array_equal(curves(cut), curves(whole))
    for run in runs:
        assert_equal_bits(end_state(cut, run), end_state(whole, run))
        assert cut.store.done(run.identity)["loss"] == whole.store.done(run.identity)["loss"]

    fleet = work("fleet", way=in_fleets(lambda program: 2))
    fleet.run()
    moved = []
    for seed in NUDGES:
        with starts_nudged(seed):
            moved.append(work(f"moved{seed}"))
            moved[-1].run()
    assert_same_trajectory(curves(fleet), curves(whole), [curves(worker) for worker in moved])
    assert (curves(whole)[:, -1] < curves(whole)[:, 0] - 0.1).all()
    table, _ = tables(fleet.plan, fleet.store, corpus, evaluation)
    assert set(table["optimizer"]) == {optimizer.capitalize()}
    assert ("loss_averaged" in table) == bool(fields)
    if fields:
        difference = (table["loss_averaged"] - table["loss"]).abs()
        assert (difference > 1e-3).all() and (difference < 1).all()


def test_predicted_memory_is_near_what_xla_plans(optimizer, kind):
    program = program_of(optimizer, kind, "data:1")
    windows = np.zeros((4, program.sequences, program.config.context + 1), WINDOW_TYPE)
    with jax.set_mesh(program.mesh):
        lowered = compiled(program).lower(
            on_mesh(program, initial(program.recipe, 0)),
            place_windows(program.mesh, windows),
            np.zeros(4, np.float32),
            np.float32(0),
            np.int32(4),
        )
    planned = lowered.compile().memory_analysis()
    used = planned.temp_size_in_bytes + planned.argument_size_in_bytes
    assert 2 / 3 < training_bytes(program.recipe, STEP) / used < 3 / 2
