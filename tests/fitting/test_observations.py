import logging

import numpy as np
import pandas as pd
import pytest

from fitting import Observations
from fitting.columns import unit
from refused import Refused


def table(**changes):
    columns = {"params_total": [1e6, 2e6], "tokens": [1e8, 2e8], "loss": [3.0, 2.9]}
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"loss": [3.0, -1.0]}, "loss"),
        ({"loss": [3.0, np.nan]}, "loss"),
        ({"loss": [3.0, 0.0]}, "loss"),
        ({"run": ["a", "a"]}, "run"),
        ({"tokens": [0.0, 1e8]}, "tokens"),
        ({"mixture.web": [0.5, 1.5]}, "mixture.web"),
        ({"error.arc": [0.5, -0.1]}, "error.arc"),
        ({"diverged_step": [3, 4]}, "table"),
        ({"loss": ["3.0", "three"]}, "loss"),
        ({"tokens": ["1B", "2B"]}, "tokens"),
        ({"run": ["a", None]}, "run"),
        ({"trunk": [None, "b"]}, "trunk"),
    ],
)
def test_bad_rows_are_refused_by_name(changes, field):
    with pytest.raises(Refused) as refused:
        Observations(table(**changes))
    assert refused.value.field == field
    text = str(refused.value)
    assert text.startswith(f"{field}: got ") and "; accepted: " in text and "\n" not in text


def test_diverged_runs_are_left_out_with_a_note(caplog):
    with caplog.at_level(logging.WARNING):
        obs = Observations(table(diverged_step=[np.nan, 40.0], run=["good", "bad"]))
    assert list(obs.frame["run"]) == ["good"]
    assert "bad" in obs.notes[0] and "bad" in caplog.text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"params_total": [70.0, 410.0]}, "millions"),
        ({"loss": [40.0, 35.0]}, "perplexity"),
        ({"flops": [1e9, 2e9]}, "flops"),
    ],
)
def test_suspicious_units_warn(changes, word, caplog):
    with caplog.at_level(logging.WARNING):
        obs = Observations(table(**changes))
    assert any(word in note for note in obs.notes)


def test_read_csv_and_parquet_with_a_column_map(tmp_path):
    frame = table().rename(columns={"params_total": "N", "loss": "val"})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_parquet(tmp_path / "runs.parquet")
    columns = {"N": "params_total", "val": "loss"}
    for name in ("runs.csv", "runs.parquet"):
        obs = Observations.read(tmp_path / name, columns)
        assert list(obs.column("loss")) == [3.0, 2.9]
    with pytest.raises(Refused, match="nowhere"):
        Observations.read(tmp_path / "runs.csv", {"nowhere": "loss"})
    with pytest.raises(Refused, match="sizes"):
        Observations.read(tmp_path / "runs.csv", {"N": "sizes"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "readable"),
        ("comments.csv", b"# nothing else\n", "readable"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n", "readable"),
        ("binary.csv", bytes(range(9)) * 9, "text file"),
        ("garbage.parquet", b"garbage" * 30, "readable"),
        ("garbage.csv.gz", b"garbage", "readable"),
        ("twice.csv", b"loss,tokens,loss\n1,2,3\n", "loss twice"),
        ("table.pdf", b"loss\n1\n", ".parquet"),
        ("header.csv", b"loss,tokens\n", "0 rows"),
    ],
)
def test_files_that_hold_no_table_are_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message) as refused:
        Observations.read(tmp_path / name)
    assert refused.value.field == "table" and "\n" not in str(refused.value)


def test_a_folder_is_no_table_and_two_columns_are_not_one(tmp_path):
    with pytest.raises(Refused, match="existing"):
        Observations.read(tmp_path)
    table().to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(Refused, match="several columns"):
        Observations.read(tmp_path / "runs.csv", {"tokens": "loss", "params_total": "loss"})


@pytest.mark.parametrize("name", ["nothing.csv", "published:nothing", "published:chinchilla:9"])
def test_unknown_tables_are_refused_with_the_choices(name):
    with pytest.raises(Refused):
        Observations.read(name)


def test_an_ambiguous_parameter_count_is_refused():
    obs = Observations(table(params_active=[5e5, 9e5]))
    with pytest.raises(Refused, match="exactly one"):
        obs.params_column()
    assert obs.params_column("params_active") == "params_active"
    assert Observations(table()).params_column() == "params_total"


def test_runs_without_a_trunk_are_their_own():
    assert Observations(table()).frame["trunk"].nunique() == 2


SIZES = {
    "chinchilla": 245,
    "chinchilla:240": 240,
    "over_training": 104,
    "parscale": 48,
    "repetition": 182,
    "routed": 223,
    "regmix": 1088,
}


@pytest.mark.parametrize("name", SIZES)
def test_published_tables(name):
    obs = Observations.read(f"published:{name}")
    assert len(obs) == SIZES[name]
    assert obs.notes == ()
    known = {"subset", "shape", "loss_low", "loss_high", "router", "top_k", "step"}
    extra = {column for column in obs.frame if unit(column) is None}
    assert extra <= known | {"routing_frequency", "flops_per_step"}


def test_exact_duplicates_are_dropped_with_a_count():
    frame = pd.DataFrame({"params_total": [1e8, 1e8, 1e9], "tokens": 1e10, "loss": [3.0, 3.0, 2.5]})
    runs = Observations(frame)
    assert len(runs) == 2 and "exact duplicates of other rows: 1" in runs.notes[0]
    seeded = Observations(frame.assign(seed=[0, 1, 0]))
    assert len(seeded) == 3 and not seeded.notes


def test_a_hash_inside_a_row_is_no_comment(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("# told\nparams_total,color,tokens,loss\n1e8,#ff,1e10,3\n1e9,#fe,1e10,2.5\n")
    runs = Observations.read(file)
    assert list(runs.column("loss")) == [3.0, 2.5]
