"""W&B is told what the store keeps, offline, after a kill as well."""

import struct

import pytest

from scaling import Evaluation, Stopped, Store, Worker, plan
from scaling.trackers import Several, tracker
from tests.corpora import study_runs
from tests.interop.theirs import need

wandb, internal = need("wandb", "wandb.proto.wandb_internal_pb2")
pytestmark = pytest.mark.filterwarnings("ignore")

BLOCK, HEADER = 32_768, 7  # Of LevelDB's log format, which the file has after a header of its own.


def told(file) -> list[dict[str, float]]:
    """Returns the history that a run's file holds."""
    data, at, parts, found = file.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # Whole, or the last part of one.
            record = internal.Record.FromString(parts)
            parts = b""
            if record.HasField("history"):
                items = record.history.item
                name = lambda item: item.key or ".".join(item.nested_key)
                found.append({name(item): float(item.value_json) for item in items})
    return found


def test_a_run_is_whole_in_its_file_also_after_a_stop(corpus, mesh, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = study_runs("wsd", corpus)[0]
    planned, store = plan([run]), Store.at(tmp_path / "runs")

    def work(folder, **settings):
        worker = Worker(planned, store, corpus, Evaluation(128), mesh, **settings)
        tracking = tracker("wandb:tests", tmp_path / folder, planned, store)
        worker.curves = Several(tracking)
        try:
            worker.run()
        finally:
            tracking.close()
            wandb.teardown()  # Its own process writes the file, and is waited for.
        (file,) = (tmp_path / folder).rglob("*.wandb")
        assert file.stem == f"run-{run.identity}"
        return told(file)

    monkeypatch.setattr("scaling.train.DISPATCH_STEPS", 4)
    with pytest.raises(Stopped):
        work("cut", stop_after=0.0)
    lines = work("whole")
    kept = [r for s in planned.path(run.identity) for r in store.metrics(s.id)]
    assert [line["_step"] for line in lines] == [r["step"] for r in kept] == [*range(1, 16)]
    assert [line["loss"] for line in lines] == [r["loss"] for r in kept]
    assert [line["tokens"] for line in lines] == [r["tokens"] for r in kept]
