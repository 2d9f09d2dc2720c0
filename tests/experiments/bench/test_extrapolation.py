"""The bench of prediction beyond the data, on a small folder of planted tables."""

import numpy as np
import pandas as pd
import pytest

from experiments.bench import extrapolation
from experiments.bench.extrapolation_report import report
from fitting import LAWS
from tests.fitting.planted import TRUTH


def entry(**changes):
    base = {"name": "marin comma", "half": "rule", "family": "params and tokens"}
    base |= {"file": "runs.csv", "params": "params_total", "held_out": "above:0.2"}
    return base | {"direction": "compute", "laws": ["chinchilla", "data", "unwritten"]} | changes


@pytest.fixture
def folder(tmp_path):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 2e9, 6), np.geomspace(1e9, 1e11, 6)))
    loss = LAWS["chinchilla"].predict({"params": n, "tokens": d}, TRUTH)
    loss = loss * np.exp(0.003 * np.random.default_rng(0).normal(size=36))
    frame = pd.DataFrame({"N": n, "D": d, "loss": loss, "corpus": "web"})
    frame = frame.assign(id=np.arange(36), step=2)
    frame = pd.concat([frame, frame.assign(corpus="code", loss=9.0), frame.assign(step=1, loss=9)])
    frame.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path


def test_a_table_is_judged_with_the_laws_that_there_are(folder):
    changes = {"columns": {"N": "params_total", "D": "tokens"}, "last": "id"}
    changes["where"] = {"corpus": ["web", "books"]}
    table = extrapolation.read(entry(**changes), folder)
    assert len(table.runs) == 36 and table.held_out.sum() == 3
    row, errors = extrapolation.judged(table)
    assert row["choice"] == "chinchilla" and row["missing_laws"] == "unwritten"
    assert row["error"] < 0.01 < row["baseline_error"]
    assert set(errors) == {"chinchilla", "data", "nearest_run", "log_linear"}
    assert 0 < row["interval_score"] < 1
    extrapolation.keep(folder / "tables.csv", [row])
    laws = [{"table": row["table"], "law": name, "error": e} for name, e in errors.items()]
    extrapolation.keep(folder / "laws.csv", laws)
    stored = [extrapolation.stored(folder / f"{name}.csv") for name in ("tables", "laws")]
    text = report(*stored, {"marin comma": "1.2% (a paper)"}, "chained")
    assert "| marin comma | rule" in text and "| chinchilla" in text
    assert "| 1.2% (a paper) |" in text and "\n\nchained\n\n" in text


def test_rows_replace_their_own_and_stay_in_the_order_of_the_splits(tmp_path):
    file = tmp_path / "tables.csv"
    for name, value in (("olmo piqa_val_5shot", 1.0), ("chinchilla", 2.0), ("chinchilla", 3.0)):
        extrapolation.keep(file, [{"table": name, "error": value, "warnings": ""}])
    table = extrapolation.stored(file)
    assert list(table["table"]) == ["chinchilla", "olmo piqa_val_5shot"]
    assert list(table["error"]) == [3.0, 1.0] and list(table["warnings"]) == ["", ""]


def test_the_splits_are_halved_by_the_seed_they_state():
    later = [e for e in extrapolation.splits() if e["family"] == "experts"]
    entries = [e for e in extrapolation.splits() if e not in later]
    assert {e["half"] for e in later} == {"apart"}
    names = sorted(e["name"] for e in entries)
    rule = set(np.random.default_rng(16).permutation(names)[: len(names) // 2])
    assert {e["name"] for e in entries if e["half"] == "rule"} == rule


def test_the_interval_score_is_the_width_where_all_is_inside_and_more_where_it_is_not():
    found = pd.DataFrame({"low": [0.9, 0.9], "high": [1.1, 1.1]})
    assert extrapolation.interval_score(found, np.ones(2)) == pytest.approx(0.2)
    beyond = extrapolation.interval_score(found, np.array([1.0, 1.2]))
    assert beyond == pytest.approx((0.2 + (0.2 + 20 * 0.1) / 1.2) / 2)
