"""The measurement of MFU, at a size that a CPU trains."""

import pytest

import models
from experiments.bench.mfu import LARGEST_BATCH, SHAPES, batch_that_fits, mfu, row, shape
from scaling.speed import training_bytes
from tests.corpora import model, recipe


def test_a_row_says_what_the_formula_says():
    config, peak = model(dtype="bfloat16"), 1e11
    found = row(config, 128, peak)
    flops = models.count(config).flops_train
    assert found["tokens/s"] > 0
    assert found["MFU (%)"] == pytest.approx(100 * found["TFLOP/s"] * 1e12 / peak)
    assert found["TFLOP/s"] == pytest.approx(found["tokens/s"] * flops / 1e12, rel=0.01)


def test_the_sizes_are_those_that_are_claimed():
    sizes = [models.count(shape(*pair)).params_total for pair in SHAPES]
    assert sizes == pytest.approx([20e6, 120e6, 350e6], rel=0.2)


@pytest.mark.thorough
def test_a_batch_fits_the_memory():
    config = shape(*SHAPES[-1])
    assert batch_that_fits(config, 1e15) == LARGEST_BATCH
    some = batch_that_fits(config, 60e9)
    assert config.context < some < LARGEST_BATCH
    assert training_bytes(recipe(config), some) < 60e9 < training_bytes(recipe(config), 4 * some)


def test_a_cpu_is_told_in_one_line(capsys):
    mfu()
    said = capsys.readouterr().out
    assert said.startswith("MFU: ") and said.count("\n") == 2
