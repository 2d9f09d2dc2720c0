"""Every part trains through the shared plan, stops and goes on, in bfloat16, on a mesh."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import scaling.train
from data import Mixture
from models import skeleton
from scaling import AdamW, Data, Evaluation, Run, Stopped, Store, Worker, make_mesh, plan, wsd
from scaling.state import initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import STEP, recipe
from tests.rounding import NUDGES, assert_same_steps, assert_same_trajectory, state_nudged
from tests.scaling.test_trainer import assert_equal_bits, end_state
from tests.tiers import mostly
from tests.zoo import CONFIGS, FEW, KINDS

OPTIMIZER = AdamW(learning_rate=0.01, weight_decay=0.01)


def branches(name, corpus) -> list[Run]:
    """Returns runs of two lengths on one trunk."""
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    phases = [wsd(steps * STEP, STEP, 2 * STEP) for steps in (10, 20)]
    return [
        Run(model=CONFIGS[name], data=data, optimizer=OPTIMIZER, seed=1, phases=chain)
        for chain in phases
    ]


@pytest.fixture(scope="module")
def name(request, programs):
    """One architecture after the other, each with its programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling.train, "DISPATCH_STEPS", 4)
        yield request.param
    programs()


@pytest.mark.parametrize("name", mostly(KINDS, FEW), indirect=True)
def test_a_part_branches_stops_and_goes_on_to_the_same_bits(name, corpus, mesh, tmp_path):
    runs = branches(name, corpus)

    def work(folder, some, **settings):
        store = Store.at(tmp_path / folder)
        return Worker(
            plan(some), store, corpus, Evaluation(128), mesh, keep_params=True, **settings
        )

    with pytest.raises(Stopped):
        work("cut", runs, stop_after=0.0).run()
    cut = work("cut", runs)
    cut.run()
    for index, run in enumerate(runs):
        alone = work(f"alone{index}", [run])
        alone.run()
        records = [worker.store.done(run.identity) for worker in (alone, cut)]
        assert records[0]["loss"] == records[1]["loss"]
        assert_equal_bits(end_state(alone, run), end_state(cut, run))
    curve = [r["loss"] for s in cut.plan.path(runs[-1].identity) for r in cut.store.metrics(s.id)]
    assert curve[-1] < curve[0] - 0.2


def stable_rate(config) -> float:
    """A rate at which few quantised weights change their level for rounding within 50 steps."""
    return 0.004 if config.quantization is None else 0.001


def train(config, spec: str, state, steps: int = 48, first: int = 0):
    """Returns state and losses after some steps over a random walk of symbols."""
    program = Program(recipe=recipe(config, OPTIMIZER), batch_tokens=STEP, mesh=make_mesh(spec))
    state = on_mesh(program, jax.tree.map(np.array, state))
    rng = np.random.default_rng(0)
    shape = (52, STEP // config.context, config.context + 1)
    walk = (np.cumsum(rng.integers(-2, 3, shape), axis=2) % 24 + 40)[first : first + steps]
    losses = []
    for begin in range(0, steps, program.dispatch_steps):
        some = walk[begin : begin + program.dispatch_steps]
        state, metrics = advance(
            program, state, some, np.full(len(some), stable_rate(config)), 0.01
        )
        losses.append(np.asarray(metrics["nll"])[: len(some)])
    return jax.tree.map(np.asarray, state), np.concatenate(losses)


@pytest.mark.equality
@pytest.mark.parametrize("name", mostly(KINDS, FEW[:1]), indirect=True)
def test_a_part_trains_alike_on_eight_devices_and_in_bfloat16(name):
    config = CONFIGS[name]
    start = initial(recipe(config), 0)
    trained, one = train(config, "data:1", start)
    assert one[-1] < one[0] - 0.2
    for state, first in ((start, 0), (trained, 48)):
        alone, split = (
            lambda s, spec=spec, first=first: train(config, spec, s, 1, first)[0]
            for spec in ("data:1", "fsdp:4,data:2")
        )
        assert_same_steps(alone, split, state)
    quantizers = skeleton(config).quantizers
    moved = [train(config, "data:1", state_nudged(start, s, quantizers))[1] for s in NUDGES]
    assert_same_trajectory(train(config, "fsdp:4,data:2", start)[1], one, moved)
    half = train(replace(config, dtype="bfloat16"), "data:1", start)[1]
    np.testing.assert_allclose(half, one, rtol=0.02)
