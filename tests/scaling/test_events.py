"""TensorBoard files."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scaling import Store, labelled, plan
from scaling.events import Curves, append_events, curves, folder_name
from tests.corpora import study_runs


def test_written_scalars_are_read_back_over_tokens(tmp_path):
    records = [
        {"step": i, "tokens": 100 * i, "loss": 3.0 / i, "grad_norm": None} for i in (1, 2, 3)
    ]
    for some in (records[:1], records[1:]):
        append_events(tmp_path / "events.out.tfevents.1", some)
    found = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [e.step for e in found.Scalars("loss")] == [100, 200, 300]
    assert found.Scalars("loss")[2].value == 1.0


def test_nested_values_become_tags_and_texts_are_left_out():
    record = {"step": 1, "tokens": 5, "loss": {"a": 1.0}, "evaluation": "id", "seconds": 2.0}
    assert dict(curves(record)) == {"loss/a": 1.0}


def test_a_folder_is_named_by_labels_tokens_and_seed(corpus):
    runs = study_runs("wsd", corpus)[:2]
    named = plan([labelled(runs[0], arm="A 0.2, G 2", rate=0.5), labelled(runs[1], arm="wide/±1")])
    size = f"{runs[0].tokens / 1e6:.2f}M-seed_{runs[0].seed}"
    assert folder_name(named, 0) == f"000-arm_A_0.2_G_2-rate_0.5-{size}"
    assert folder_name(named, 1).startswith("001-arm_wide_±1-")
    assert folder_name(plan(runs), 0) == f"000-width_{runs[0].model.width}-{size}"


def scalars(folder, tag: str = "loss") -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder)).Reload()
    return [(event.step, round(event.value, 3)) for event in found.Scalars(tag)]


def test_curves_are_there_while_a_segment_trains_under_the_labels_of_its_runs(corpus, tmp_path):
    runs = [labelled(run, arm="dense") for run in study_runs("wsd", corpus)[:2]]
    planned, store = plan(runs), Store.at(tmp_path / "runs")
    trunk = next(planned.walk())
    store.begin(trunk)
    records = store.records(trunk.id)
    line = lambda step: {"step": step, "tokens": 256 * step, "loss": 1 / step, "seconds": 1.0}
    records.append(line(1))
    records.flush()
    drawn = Curves(Store.at(tmp_path).path / "curves", planned, store)
    drawn.take(trunk.id, [line(2)])
    folders = sorted((tmp_path / "curves").iterdir())
    assert [folder.name for folder in folders] == [folder_name(planned, i) for i in range(2)]
    assert all(scalars(folder) == [(256, 1.0), (512, 0.5)] for folder in folders)
    drawn.take(trunk.id, [line(3)])
    assert all(len(scalars(folder)) == 2 for folder in folders)  # Written now and then only.
    drawn.flush()
    assert all(scalars(folder)[-1] == (768, 0.333) for folder in folders)
    drawn.rewrite()
    assert all(scalars(folder) == [(256, 1.0)] for folder in folders)  # What the store has.
