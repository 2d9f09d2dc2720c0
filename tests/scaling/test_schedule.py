"""What comes next: depth first, whatever is needed and nothing else, states handed on."""

import jax.numpy as jnp
import pytest

from refused import Refused
from scaling import Store, Worker, make_mesh, plan
from scaling.evaluation import Evaluation
from scaling.ledger import Meter
from scaling.schedule import in_fleets
from tests.corpora import seeds, study_runs


class Rehearsal(Worker):
    """A worker that notes what it would train; an end state is an array, whose address tells."""

    def train(self, fleet, starts, leaves_ends=False):
        self.fleets.append([s.id for s in fleet.segments])
        for id, start in starts.items():
            started = start()
            self.starts[id] = started if self.plan.segments[id].parent else None
            self.ended[id] = jnp.zeros(1)
        diverged = {id: 5 if id in self.failing else None for id in starts}
        for id, step in diverged.items():
            segment = self.plan.segments[id]
            self.finish(Meter(segment, self.progress, diverged=step), {})
            if (due := self.held_out(segment)) is not None:
                self.store.add_eval(id, {"evaluation": due.identity})
        return {id: (None if step else self.ended[id], step) for id, step in diverged.items()}


def rehearse(corpus, path, runs, way=None, failing=(), mesh="data:1") -> Rehearsal:
    store, devices = Store.at(path), make_mesh(mesh)
    worker = Rehearsal(plan(runs), store, corpus, Evaluation(128), devices, way=way)
    worker.fleets, worker.starts, worker.ended, worker.failing = [], {}, {}, failing
    for segment in worker.plan.segments.values():
        store.folder(segment.id).mkdir(parents=True, exist_ok=True)
    worker.run()
    return worker


def test_segments_follow_depth_first_and_the_last_child_takes_the_state_itself(corpus, tmp_path):
    worker = rehearse(corpus, tmp_path, seeds(study_runs("wsd", corpus), 2))
    order = [s.id for s in worker.plan.walk()]
    assert [id for (id,) in worker.fleets] == order
    for parent, children in worker.plan.children.items():
        if parent is not None:
            handed = [worker.starts[id] is worker.ended[parent] for id in children]
            assert handed == [False] * (len(children) - 1) + [True]


def test_fleets_are_the_same_whatever_is_there_already(corpus, tmp_path):
    runs, way = seeds(study_runs("wsd", corpus), 3), in_fleets(lambda program: 4)
    whole = rehearse(corpus, tmp_path / "whole", runs, way)
    assert max(map(len, whole.fleets)) == 3
    assert sorted(id for fleet in whole.fleets for id in fleet) == sorted(whole.plan.segments)
    there = rehearse(corpus, tmp_path / "some", runs[::2], way)
    rest = rehearse(corpus, tmp_path / "some", runs, way)
    assert all(fleet in whole.fleets for fleet in rest.fleets)
    lacking = whole.plan.segments.keys() - there.plan.segments.keys()
    on_the_way = {s.id for id in lacking for s in rest.plan.path(id)}
    assert lacking < on_the_way == rest.starts.keys() < whole.plan.segments.keys()


def test_what_follows_a_diverged_segment_is_left_out_and_the_rest_is_not(corpus, tmp_path):
    runs = seeds(study_runs("wsd", corpus), 2)
    bad = next(plan(runs).walk())
    worker = rehearse(corpus, tmp_path, runs, failing={bad.id})
    after = {s.id for s in worker.plan.walk(bad.id)}
    assert after and worker.starts.keys() == worker.plan.segments.keys() - after
    assert all(worker.store.done(id)["diverged_step"] == 5 for id in after)


def test_fleets_need_a_mesh_of_runs(corpus, tmp_path):
    with pytest.raises(Refused, match="fleet: got a mesh with data or fsdp"):
        rehearse(corpus, tmp_path, study_runs("wsd", corpus), in_fleets(lambda _: 2), mesh="data:2")
