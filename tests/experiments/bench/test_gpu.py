"""The short run on a GPU, as far as a CPU takes it."""

import functools

import pytest

from experiments.bench import gpu
from models.splash import splash
from scaling.chips.devices import DEVICES
from tests.corpora import model


@pytest.mark.thorough
def test_a_row_has_what_was_measured_beside_the_roofline():
    row = gpu.mfu_row(model(), 128, DEVICES["h200"])
    assert row["tokens/s"] > 0 and 0 < row["MFU (%)"] < row["roofline (%)"] < 100
    assert (row["micro-batches"], row["computed again"]) == (1, "auto")


def test_a_kernel_is_compared_with_products_in_values_and_gradients(monkeypatch):
    monkeypatch.setattr("models.splash.splash", functools.partial(splash, interpret=True))
    row = gpu.attention_row("splash", 128, heads=1, batch=1)
    assert row["splash (ms)"] > 0 and row["products (ms)"] > 0
    errors = [value for name, value in row.items() if ": " in name]
    assert len(errors) == 4 and all(1e-4 < error < 2e-2 for error in errors)


@pytest.mark.parametrize(("most", "found"), [(7, 0), (8, 8), (25, 24), (100, 96), (10**6, 768)])
def test_the_largest_batch_is_found_to_a_half(most, found):
    assert gpu.largest(lambda batch: batch <= most, 8) == found


def test_a_cpu_is_told_in_one_line(capsys):
    gpu.main([])
    said = capsys.readouterr().out
    assert said.startswith("gpu: cpu is no NVIDIA GPU") and said.count("\n") == 1


def test_what_the_time_leaves_no_room_for_is_named(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "of_kind", lambda kind: DEVICES["h200"])
    monkeypatch.setattr(gpu, "sections", lambda device: [("one", lambda: [{"x": 1}])] * 2)
    monkeypatch.setattr(gpu.time, "monotonic", iter([0.0, 1.0, 9.0]).__next__)
    gpu.main(["--seconds=5"])
    said = capsys.readouterr().out
    assert "one on one cpu" in said and "one: left out, the time allowed is over" in said
