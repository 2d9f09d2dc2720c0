"""Optimizers whose state is more than moments go on to the same bits when a run is killed.

Lion and Muon are stopped and taken up again in `test_training.py`; every optimizer's state goes
through a checkpoint in `test_steps.py`.
"""

import numpy as np
import pytest

import scaling.train
from data import Mixture
from scaling import Data, Evaluation, Run, Stopped, Store, Worker, checkpoint, plan, wsd
from scaling.evaluation import evaluate
from scaling.optimizers import named
from scaling.state import evaluated
from tests.corpora import model
from tests.scaling.test_trainer import assert_equal_bits, end_state
from tests.tiers import mostly


@pytest.mark.parametrize("name", mostly(["soap", "schedule_free"], ["schedule_free"]))
def test_a_killed_run_goes_on_to_the_same_bits(name, corpus, mesh, tmp_path, monkeypatch, programs):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 2)
    run = Run(
        model=model(width=4, depth=1, context=8),
        data=Data.of(corpus, Mixture.uniform(corpus.names)),
        optimizer=named(name, learning_rate=0.01, weight_decay=0.1, swept=True),
        seed=0,
        phases=wsd(6 * 32, 32, 32),
    )

    def work(folder: str, **settings) -> Worker:
        where = (Store.at(tmp_path / folder), corpus, Evaluation(64), mesh)
        return Worker(plan([run]), *where, keep_params=True, **settings)

    whole, cut = work("whole"), work("cut")
    whole.run()
    with pytest.raises(Stopped):
        work("cut", stop_after=0.0).run()
    cut.run()
    assert_equal_bits(end_state(cut, run), end_state(whole, run))
    losses = [worker.store.done(run.identity)["loss"] for worker in (cut, whole)]
    assert losses[0] == losses[1] and all(np.isfinite(list(losses[0].values())))
    # What is evaluated is what the rule says: the trained weights, or a mean of them.
    held_out = Evaluation(64).held_out(corpus, 8)
    state, _ = checkpoint.restore(whole.store.folder(run.identity), run.recipe, mesh)
    at = lambda some: evaluate(held_out, run.model, mesh, some)["loss"]
    assert at(evaluated(run.recipe, state)) == losses[0]
    assert (at(state) == losses[0]) == (name != "schedule_free")
