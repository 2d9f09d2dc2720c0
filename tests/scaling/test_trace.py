"""A trace opens, names its steps, is bounded, and changes no number."""

import gzip
import json
from dataclasses import replace

import pytest

from refused import Refused
from scaling import Evaluation, Phase, Store, Worker, plan
from scaling.schedule import in_fleets
from scaling.trace import NAME, SKIPPED, STEPS, Trace
from tests.corpora import STEP, study_runs


def trained(corpus, mesh, path, runs, trace=None, way=None) -> list[tuple]:
    settings = dict(way=way) | ({"trace": trace} if trace else {})
    worker = Worker(plan(runs), Store.at(path), corpus, Evaluation(128), mesh, **settings)
    worker.run()
    records = [r for run in runs for r in worker.store.metrics(run.identity)]
    ends = [worker.store.done(run.identity)["loss"] for run in runs]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in records], ends


def annotated(trace: Trace) -> list[int]:
    with gzip.open(trace.file, "rt") as file:
        events = json.load(file)["traceEvents"]
    return sorted({int(e["args"]["step_num"]) for e in events if e.get("name") == NAME})


@pytest.mark.parametrize("together", [False, True])
def test_some_steps_are_traced_and_no_number_changes(together, corpus, tmp_path):
    from scaling import make_mesh

    first = study_runs("wsd", corpus)[0]
    run = replace(first, phases=(Phase(30 * STEP, STEP),))
    runs = [replace(run, seed=seed) for seed in range(1 + together)]
    mesh = make_mesh("run:1" if together else "data:1")
    way = in_fleets(lambda program: 2) if together else None
    trace = Trace(str(tmp_path / "trace"))
    seen = trained(corpus, mesh, tmp_path / "seen", runs, trace, way)
    assert seen == trained(corpus, mesh, tmp_path / "unseen", runs, way=way)
    assert annotated(trace) == list(range(SKIPPED, SKIPPED + STEPS))
    assert trace.file.is_relative_to(tmp_path / "trace")


def test_a_trace_ends_with_its_segment_and_short_ones_leave_it_to_the_next(tmp_path):
    trace = Trace(str(tmp_path))
    for step in range(SKIPPED):
        assert trace.cut(32) == 1
        trace.dispatch(step, lambda: None)
    trace.close()
    assert not trace.over and trace.file is None
    for step in range(SKIPPED + 2):
        trace.dispatch(step, lambda: None)
    trace.close()
    assert trace.cut(32) == 32 and annotated(trace) == [SKIPPED, SKIPPED + 1]
    trace.dispatch(9, lambda: None)
    trace.close()
    assert len(list(tmp_path.glob("plugins/profile/*"))) == 1


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("gs://bucket/trace", "", str(tmp_path / "file"), str(tmp_path / "file" / "in")):
        with pytest.raises(Refused, match="--profile: got"):
            Trace(folder)
    assert Trace().over
