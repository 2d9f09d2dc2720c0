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


def finished(tmp_path, corpus):
    """Returns a store with one finished segment, and where its files are."""
    store, segment = Store.at(tmp_path), next(plan(study_runs("wsd", corpus)).walk())
    store.begin(segment)
    records = store.records(segment.id)
    for step in (1, 2, 3):
        records.append({"step": step, "loss": 1 / step})
    records.flush()
    store.add_eval(segment.id, {"step": 3, "evaluation": "a", "loss": {"low": 1.0}})
    store.finish(segment.id, {"id": segment.id, "diverged_step": None}, records)
    return store, segment.id, tmp_path / "segments" / segment.id


def damaged(file, how: str) -> None:
    content = file.read_bytes()
    changed = {
        "flipped": content.replace(b"3", b"7", 1),
        "truncated": content[: len(content) // 2],
        "emptied": b"",
        "shortened": b"".join(content.splitlines(keepends=True)[:-1]),
    }
    file.write_bytes(changed[how])
    module.SOUND.clear()  # As in a new process.


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "shortened"])
@pytest.mark.parametrize("name", ["done.json", "metrics.jsonl"])
def test_a_finished_segment_with_a_damaged_file_is_named_and_counts_as_not_trained(
    name, how, tmp_path, corpus, caplog
):
    store, id, folder = finished(tmp_path, corpus)
    assert store.done(id) == {"id": id, "diverged_step": None}
    damaged(folder / name, how)
    assert store.done(id) is None
    assert f"{folder / name} is damaged" in caplog.text and "counts as not trained" in caplog.text


def test_a_damaged_evaluation_is_named_and_the_others_are_not(tmp_path, corpus, caplog):
    store, id, folder = finished(tmp_path, corpus)
    store.add_eval(id, {"step": 3, "evaluation": "b", "loss": {"low": 2.0}})
    store.add_eval(id, {"step": 3, "evaluation": "b", "loss": {"low": 2.5}})
    assert [r["loss"]["low"] for r in store.evals(id)] == [1.0, 2.5]
    file = folder / "eval.jsonl"
    file.write_text(file.read_text().replace("1.0", "1.5"))
    assert [r["evaluation"] for r in store.evals(id)] == ["b"]
    assert f"{file} is damaged" in caplog.text


def test_files_of_another_segment_are_none_of_this_one_s(tmp_path, corpus):
    store, id, folder = finished(tmp_path, corpus)
    other = tmp_path / "segments" / "0123456789abcdef"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert store.done(other.name) is None and store.evals(other.name) == []


def test_a_store_from_before_there_were_checksums_is_read_as_it_is(tmp_path, caplog):
    id = "0123456789abcdef"
    folder = tmp_path / "segments" / id
    folder.mkdir(parents=True)
    (folder / "done.json").write_text(json.dumps({"id": id, "diverged_step": None}, indent=1))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    (folder / "eval.jsonl").write_text('{"step": 2, "evaluation": "a"}\n')
    store = Store.at(tmp_path)
    assert store.done(id) == {"id": id, "diverged_step": None}
    assert [r["loss"] for r in store.metrics(id)] == [2.0, 1.5] and len(store.evals(id)) == 1
    assert caplog.text.count("note: ") == 1


def test_seconds_follow_what_was_trained_however_a_study_cuts_it(tmp_path, corpus):
    store = Store.at(tmp_path)
    ids = [f"{number:016x}" for number in range(3)]
    for id, parent in ((ids[0], None), (ids[1], ids[0]), (ids[2], None)):
        store.folder(id).mkdir(parents=True)
        store.finish(id, {"id": id, "parent": parent, "diverged_step": None})
    assert [id for id, _ in store.chain(ids[1])] == ids[:2]
    assert [id for id, _ in store.chain(ids[2])] == [ids[2]]


def test_what_is_no_id_and_no_name_is_no_path(tmp_path):
    store = Store.at(tmp_path)
    for id in ("../../x", "", "0" * 15, "G" * 16):
        with pytest.raises(Refused, match="run: got"):
            store.folder(id)
    for name in ("../../x", "<script>", "a b", ".hidden", ""):
        with pytest.raises(Refused, match="study's name: got"), store.reserved(name, shared=False):
            pass
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "locks"])


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
