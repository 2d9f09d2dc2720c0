"""TensorBoard files."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scaling.events import curves, write_events


def test_written_scalars_are_read_back_over_tokens(tmp_path):
    records = [
        {"step": i, "tokens": 100 * i, "loss": 3.0 / i, "grad_norm": None} for i in (1, 2, 3)
    ]
    write_events(tmp_path / "run", records)
    write_events(tmp_path / "run", records, replace=True)
    found = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [e.step for e in found.Scalars("loss")] == [100, 200, 300]
    assert found.Scalars("loss")[2].value == 1.0


def test_nested_values_become_tags_and_texts_are_left_out():
    record = {"step": 1, "tokens": 5, "loss": {"a": 1.0}, "evaluation": "id", "seconds": 2.0}
    assert dict(curves(record)) == {"loss/a": 1.0}
