"""The one door: rows by our names, from files like those that went wrong."""

import numpy as np
import pandas as pd
import pytest

from fitting import Observations, fit
from fitting.formula import formula_law, formula_names
from fitting.reading import Unsure, read_table
from refused import Refused


def written(folder, *lines, name="runs.csv"):
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_number_sign_in_a_row_hides_neither_its_trunk_nor_its_divergence(tmp_path):
    rows = [f"r{n},{2 + n}e6,{4 + n}e7,{9 - n},seed #{n // 2},ok," for n in range(4)]
    rows += ["r4,9e6,9e7,4,seed #2,lr #9,700"]
    file = written(tmp_path, "run,params_total,tokens,loss,trunk,note,diverged_step", *rows)
    runs = Observations.read(file)
    assert list(runs.frame["trunk"]) == ["seed #0", "seed #0", "seed #1", "seed #1"]
    assert runs.notes == ("left out, diverged: r4",)


def test_ids_keep_their_zeros_and_words_that_mean_nothing_elsewhere(tmp_path):
    lines = ("run,trunk,corpus,params_total,tokens,loss", "007,1,NA,1e6,2e7,3")
    file = written(tmp_path, *lines, "7,1,None,2e6,4e7,2")
    frame, notes = read_table(file)
    assert list(frame["run"]) == ["007", "7"] and list(frame["trunk"]) == [1, 1]
    assert list(frame["corpus"]) == ["NA", "None"] and notes == []


def test_truth_values_and_empty_columns_are_what_pandas_makes_of_them(tmp_path):
    lines = ("run,params_total,tokens,loss,kept,nothing", "a,1e6,2e7,3,True,")
    frame, _ = read_table(written(tmp_path, *lines, "b,2e6,4e7,2,False,"))
    assert frame["kept"].dtype == bool and frame["nothing"].dtype == float
    assert len(Observations.read(tmp_path / "runs.csv", where="kept")) == 1


def test_a_column_of_truth_says_which_runs_diverged(tmp_path):
    lines = ("run,params_total,tokens,loss,diverged", "a,1e6,2e7,3,False", "b,2e6,4e7,9,True")
    runs = Observations.read(written(tmp_path, *lines))
    assert list(runs.frame["run"]) == ["a"] and "left out, diverged: b" in runs.notes


def test_a_loss_beside_a_held_out_one_is_said(tmp_path):
    file = written(tmp_path, "params_total,tokens,loss,eval_loss", "1e6,2e7,3,3.1", "2e6,4e7,2,2.2")
    assert Observations.read(file).notes == ("loss: the column loss is read, eval_loss is not",)


def test_an_empty_cell_that_the_law_reads_is_named(tmp_path):
    file = written(tmp_path, "params_total,tokens,loss", "1e6,2e7,3", "2e6,,2")
    with pytest.raises(Refused, match=r"tokens: got nothing in row 2 \(line 3\); accepted"):
        Observations.read(file)
    assert len(Observations.read(file, needs=("params", "loss"))) == 2


def test_rows_that_a_condition_leaves_out_may_hold_anything(tmp_path):
    lines = ("State,params_total,tokens,loss", "finished,1e6,2e7,3", "failed,unknown,soon,oom")
    file = written(tmp_path, *lines)
    assert len(Observations.read(file, where="State == finished")) == 1
    with pytest.raises(Refused, match="'unknown' in row 2"):
        Observations.read(file)


def test_a_unit_that_was_doubted_can_be_settled(tmp_path):
    lines = ("params_total,tokens,loss", "1e3,2e7,3", "2e3,4e7,2.9", "2e9,4e9,2")
    file = written(tmp_path, *lines)
    with pytest.raises(Refused, match=r"params_total=params_total\[1\]"):
        Observations.read(file)
    assert len(Observations.read(file, {"params_total": "params_total[1]"})) == 3


def test_a_formula_s_words_may_be_anybody_s_columns(tmp_path):
    rng = np.random.default_rng(0)
    params, batch = 10.0 ** rng.uniform(6, 9, 40), 10.0 ** rng.uniform(4.5, 7, 40)
    loss = 1.7 + 400 * params**-0.33 * (1 + batch / 5e5) ** 0.1
    frame = pd.DataFrame({"n": params, "B": batch, "loss": loss})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    text = "E + A*params_total**-a * (1 + batch/critical)**c"
    columns = {"n": "params_total", "B": "batch"}
    runs = Observations.read(tmp_path / "runs.csv", columns, needs=formula_names(text))
    law = formula_law(text, "critical=1e4:1e7", runs.frame.columns)
    found = fit(law, runs, point_only=True).parameters
    assert np.isclose(found["critical"], 5e5, rtol=1e-3)
    with pytest.raises(Refused, match="B=batch"):
        Observations.read(tmp_path / "runs.csv", columns)


def test_a_frame_and_observations_are_read_like_a_file():
    frame = pd.DataFrame({"n": [1e6, 2e6], "tokens": ["20M", "40M"], "loss": [3, 2.5]})
    with pytest.raises(Unsure):
        Observations.read(frame)
    runs = Observations.read(frame, {"n": "params_total"})
    assert list(runs.column("tokens")) == [2e7, 4e7]
    assert Observations.read(runs) is runs and len(Observations.read(runs, where="loss < 3")) == 1


def test_no_row_left_is_refused(tmp_path):
    file = written(tmp_path, "params_total,tokens,loss", "1e6,2e7,nan")
    with pytest.raises(Refused, match="0 rows"):
        Observations.read(file)
