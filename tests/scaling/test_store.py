"""The store: atomic, readable, and without what a kill undid."""

import json

import pytest
from etils import epath

from refused import Refused
from scaling import Store, plan
from scaling import store as module
from scaling.seals import read_lines
from scaling.store import Records, parts
from tests.corpora import study_runs


def test_a_segment_is_done_only_when_its_record_is_whole(tmp_path, corpus, monkeypatch):
    store = Store.at(tmp_path)
    segment = next(plan(study_runs("wsd", corpus)).walk())
    store.begin(segment)
    assert store.done(segment.id) is None
    spec = json.loads((tmp_path / "segments" / segment.id / "spec.json").read_text())
    assert spec["id"] == segment.id and spec["run"]["seed"] == 3
    store.finish(segment.id, {"loss": 1.0})
    store.finish(segment.id, {"loss": 1.0})
    assert store.done(segment.id) == {"loss": 1.0}

    def power_cut(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        store.finish(segment.id, {"loss": 2.0})
    assert store.done(segment.id) == {"loss": 1.0}


def test_nothing_is_touched_by_naming_a_store(tmp_path):
    Store.at(tmp_path / "new").done("0" * 16)
    assert not (tmp_path / "new").exists()


def test_a_relative_store_holds_checkpoints_too(tmp_path, corpus, mesh, monkeypatch):
    import scaling.train
    from scaling import Evaluation, Stopped, Worker

    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    monkeypatch.chdir(tmp_path)
    runs = study_runs("wsd", corpus)[:1]
    store = Store.at("runs")
    assert store.path.is_absolute() and str(Store.at("gs://bucket/runs").path).startswith("gs://")
    with pytest.raises(Stopped):
        Worker(plan(runs), store, corpus, Evaluation(128), mesh, stop_after=0.0).run()
    assert any((tmp_path / "runs").rglob("checkpoint/*"))
    assert Worker(plan(runs), store, corpus, Evaluation(128), mesh).run() == 2


@pytest.mark.parametrize("local", [True, False])
def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path, monkeypatch, local):
    monkeypatch.setattr(module, "is_local", lambda path: local)
    folder = epath.Path(tmp_path)
    first = Records(folder, "place")
    for step in range(1, 7):
        first.append({"step": step})
        if step % 2 == 0:
            first.flush()
    read = lambda: [r["step"] for r in read_lines(parts(folder, "metrics"), "place").records]
    assert read() == [1, 2, 3, 4, 5, 6]
    assert len(parts(folder, "metrics")) == (1 if local else 3)
    resumed = Records(folder, "place", before_step=4)
    resumed.append({"step": 5})
    resumed.flush()
    assert read() == [1, 2, 3, 4, 5]
    Records(folder, "place", before_step=0).flush()
    assert read() == []


def test_a_flush_that_failed_half_way_leaves_no_line_twice(tmp_path, monkeypatch):
    records = Records(epath.Path(tmp_path), "place")
    for step in range(1, 4):
        records.append({"step": step})
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            records.flush()
    records.append({"step": 4})
    records.flush()
    found = read_lines(parts(epath.Path(tmp_path), "metrics"), "place")
    assert [r["step"] for r in found.records] == [1, 2, 3, 4] and found.why is None
    assert found.head == records.head


def test_a_study_is_one_process_s_or_that_of_several_that_share_it(tmp_path):
    store = Store.at(tmp_path / "runs")
    alone, shared = (lambda s=s: store.reserved("study-cpu", shared=s) for s in (False, True))
    refused = "in training; accepted: one espalier run of a study at a time, or any number"
    with alone(), store.reserved("other-cpu", shared=False):
        for again in (alone, shared):
            with pytest.raises(Refused, match=refused), again():
                pass
    with shared(), shared():
        with pytest.raises(Refused, match=refused), alone():
            pass
    with alone():
        pass
    with Store.at("gs://bucket/runs").reserved("study-cpu", shared=False):
        pass  # A bucket has no locks.
