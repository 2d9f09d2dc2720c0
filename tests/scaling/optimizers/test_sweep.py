"""A sweep over an optimizer's settings is one program, alone and in a fleet."""

import numpy as np
import pytest

import scaling.train
from data import Mixture
from scaling import Data, Evaluation, Run, Store, Worker, fleet, plan, train, wsd
from scaling.grouping import program_of
from scaling.optimizers import named
from scaling.schedule import in_fleets
from tests.corpora import model
from tests.rounding import NUDGES, assert_same_trajectory, starts_nudged


@pytest.mark.equality
def test_neighbours_share_one_program_and_agree_in_a_fleet(
    corpus, mesh, tmp_path, monkeypatch, programs
):
    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 2)
    fields = dict(model=model(width=4, depth=1, context=8), seed=0, phases=wsd(256, 32, 32))
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    settings = [dict(b1=0.5, clip=0.1), dict(b2=0.5)]
    tried = [named("lion", learning_rate=0.02, swept=True, **some) for some in settings]
    runs = [Run(data=data, optimizer=optimizer, **fields) for optimizer in tried]

    def curves(folder: str, **more) -> np.ndarray:
        where = (Store.at(tmp_path / folder), corpus, Evaluation(64), mesh)
        worker = Worker(plan(runs), *where, **more)
        worker.run()
        path = lambda run: worker.plan.path(run.identity)
        read = lambda run: [worker.store.metrics(s.id) for s in path(run)]
        return np.array([[r["loss"] for some in read(run) for r in some] for run in runs])

    alone = curves("alone")
    (program,) = {program_of(s, mesh) for s in plan(runs).segments.values()}
    assert train.compiled(program)._cache_size() == 1
    assert len({tuple(curve) for curve in alone}) == 2
    with starts_nudged(NUDGES[0]):
        moved = curves("moved")
    assert_same_trajectory(curves("fleet", way=in_fleets(lambda _: 2)), alone, [moved])
    assert fleet.compiled(program)._cache_size() == 1
