"""Run tables."""

import math

import pandas as pd
import pytest

import scaling.train
from models import count
from scaling import Evaluation, Store, Worker, labelled, plan, tables, unfolded
from scaling.columns import COLUMNS
from scaling.tables import write_table
from tests.corpora import STEP, study_runs


@pytest.fixture(autouse=True, scope="module")
def short_dispatches(programs):
    """One program with other tests of the same shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling.train, "DISPATCH_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def trained(corpus, mesh, tmp_path_factory):
    store = Store.at(tmp_path_factory.mktemp("store"))
    worker = Worker(plan(study_runs("mixture", corpus)), store, corpus, Evaluation(128, True), mesh)
    worker.run()
    return worker, *tables(worker.plan, store, corpus, worker.evaluation)


def test_every_column_is_documented_with_its_unit(trained):
    _, runs, evals = trained
    known = {name.split(".")[0] for name in COLUMNS}
    assert {name.split(".")[0] for name in [*runs, *evals]} <= known
    always = {name for name in COLUMNS if "<" not in name} - {"optimizer"}
    assert {name for name in always if not name.endswith("averaged")} <= set(runs)


def test_rows_say_what_their_runs_were(trained, corpus):
    worker, runs, evals = trained
    assert list(runs["run"]) == [run.identity for run in worker.plan.runs]
    assert len(evals) == len(worker.plan.segments) - len(runs)
    for run, (_, row) in zip(worker.plan.runs, runs.iterrows(), strict=True):
        accounts = count(run.model_at(-1))
        assert row["tokens"] == run.tokens and row["trunk"] == run.trunk
        assert row["flops"] == accounts.flops_train * run.tokens
        assert row["flops_6nd"] == 6 * accounts.params_total * run.tokens
        assert row["token_multiplier"] == run.tokens / accounts.params_total
        assert row["unique_tokens"] == row["tokens_fp"] == run.tokens
        assert row["bits"] == 32 and row["tokens_qat"] == 0
        assert math.isnan(row["loss_unquantised"])
        assert row["loss"] == pytest.approx(row[[f"loss.{n}" for n in corpus.names]].mean())
        bits = row["loss.low"] / math.log(2)
        assert row["bits_per_byte.low"] == pytest.approx(bits)
        assert row[[f"mixture.{n}" for n in corpus.names]].sum() == pytest.approx(1)
    assert runs["mixture.low"].nunique() == 2


def test_tables_survive_their_files(trained, tmp_path):
    _, runs, _ = trained
    write_table(runs, tmp_path, "runs")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["runs.csv", "runs.parquet"]
    again = pd.read_parquet(tmp_path / "runs.parquet")
    pd.testing.assert_frame_equal(again, runs, check_dtype=False)
    assert list(pd.read_csv(tmp_path / "runs.csv")["run"]) == list(runs["run"])


def test_labels_are_columns_after_the_trunk_and_change_no_other(trained, corpus, tmp_path):
    worker, runs, evals = trained
    listed = [
        labelled(run, arm=f"arm {place}", size=16) for place, run in enumerate(worker.plan.runs)
    ]
    listed.append(labelled(worker.plan.runs[0], arm="again", size=16, rate=0.5))
    named = plan(listed)
    more, inside = tables(named, worker.store, corpus, worker.evaluation)
    for labelled_, plain in ((more, runs), (inside, evals)):
        assert list(labelled_)[:5] == ["run", "trunk", "arm", "size", "rate"]
        pd.testing.assert_frame_equal(labelled_.drop(columns=["arm", "size", "rate"]), plain)
    assert more["arm"].tolist()[:2] == ["arm 0 | again", "arm 1"]
    assert more["rate"].tolist()[0] == " | 0.5" and (inside["size"] == 16).all()
    assert inside["arm"].isna().any()
    write_table(more, tmp_path, "runs")
    for table in (pd.read_csv(tmp_path / "runs.csv"), pd.read_parquet(tmp_path / "runs.parquet")):
        rows = unfolded(table)
        assert len(rows) == len(runs) + 1
        assert rows["run"][0] == rows["run"][1] and rows["arm"].tolist()[:2] == ["arm 0", "again"]
        assert math.isnan(rows["rate"][0]) and rows["rate"][1] == 0.5
    none, _ = tables(
        plan([labelled(run, arm="a") for run in study_runs("ramp", corpus)]),
        Store.at("/nowhere"),
        corpus,
        worker.evaluation,
    )
    assert len(none) == 0 and list(none)[:4] == ["run", "trunk", "arm", "seed"]


def test_an_unfinished_study_gives_the_rows_it_has(trained, corpus):
    worker, runs, _ = trained
    more = plan(study_runs("wsd", corpus) + list(worker.plan.runs))
    some, _ = tables(more, worker.store, corpus, worker.evaluation)
    assert set(some["run"]) == set(runs["run"])
    none, _ = tables(
        plan(study_runs("ramp", corpus)), Store.at("/nowhere"), corpus, worker.evaluation
    )
    assert len(none) == 0 and "loss" in none


@pytest.mark.thorough
def test_quantised_runs_say_their_bits_bytes_and_both_losses(corpus, mesh, tmp_path):
    store, evaluation = Store.at(tmp_path), Evaluation(128)
    worker = Worker(plan(study_runs("quantize", corpus)), store, corpus, evaluation, mesh)
    worker.run()
    runs, _ = tables(worker.plan, store, corpus, evaluation)
    assert list(runs["bits"]) == [1, 4, 2]
    assert list(runs["tokens_fp"]) == [20 * STEP] * 3
    assert list(runs["tokens_qat"]) == [12 * STEP, 12 * STEP, 9 * STEP]
    assert (runs["tokens"] == runs["tokens_fp"] + runs["tokens_qat"]).all()
    for run, (_, row) in zip(worker.plan.runs, runs.iterrows(), strict=True):
        accounts = count(run.model_at(-1))
        assert row["bytes"] == accounts.bytes < 4 * accounts.params_total / 3
    # Weights trained to be rounded serve less well as they are.
    gap = (runs["loss_unquantised"] - runs["loss"]).abs()
    assert (gap > 1e-4).all()
    difference = runs["bits_per_byte_unquantised"] - runs["bits_per_byte"]
    assert (difference * math.log(2)).abs().to_list() == pytest.approx(gap.to_list())
