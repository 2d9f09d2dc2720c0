"""Planted accuracy is met through the loss, and RegMix's ridge ranks as published."""

import numpy as np
import pandas as pd
import pytest

from experiments.bench import through
from tests.fitting.test_chain import ladder, truth


def test_a_planted_task_is_predicted_beside_its_baselines(tmp_path, monkeypatch):
    monkeypatch.setattr(through, "DRAWS", 40)
    runs, links = ladder(noise=0.002)
    runs = runs.assign(model=[f"m{i}" for i in range(len(runs))], mode="train")
    last = np.interp(runs["loss"], links["loss"], links["accuracy"])
    ends = runs[["model", "mode", "loss"]].assign(accuracy=last)
    links = links.rename(columns={"trunk": "model"}).assign(mode="train")
    asked = pd.DataFrame({"model": ["big"], "params_total": [7e9], "tokens": [4e12], "loss": [0.0]})
    asked = asked.assign(mode="eval", accuracy=[truth()])
    tables = {"losses": [runs, asked], "links": [links, ends, asked]}
    for name, parts in tables.items():
        pd.concat(parts).assign(task="one", mult=1).to_csv(tmp_path / f"{name}.csv", index=False)
    entry = {"name": "ladder", "losses": "losses.csv", "links": "links.csv", "by": "task"}
    entry |= {"columns": {"model": "trunk"}, "held_out": "mode", "ladder": "train"}
    entry["loss_law"] = "chinchilla"  # A choice would cost ten times the rest of this test.
    (row,) = through.chained(entry | {"chance": {"one": 0.25}}, tmp_path)
    assert row["rows"] == 25 and row["held_out"] == 1
    assert row["error"] < 0.02 < row["nearest_run"]
    assert row["inside_50%"] <= row["inside_80%"] <= row["inside_90%"] == 1


def test_regmix_is_ranked_as_published_and_its_intervals_are_of_its_size():
    (entry,) = through.entries("mixture")
    first, *_, last = through.mixed(entry | {"laws": ["ridge"]})
    assert first["ridge rank"] == pytest.approx(90.08, abs=0.2)
    assert 0.8 < first["inside_90%"] < 1 and np.isnan(last["inside_90%"])
    assert last["held_out"] == 64 and last["choice"] == "ridge"


def test_the_committed_summary_tells_the_committed_tables():
    summary = (through.RESULTS / "summary.md").read_text()
    assert through.stored(through.RESULTS) in summary
