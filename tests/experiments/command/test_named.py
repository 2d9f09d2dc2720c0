"""Studies by name in a store: one name a configuration, and what it was made from."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments.command import named
from experiments.command.models_kept import chosen
from experiments.command.store_view import status_text
from refused import Refused
from scaling import Store, plan
from scaling.leases import Leases
from scaling.tables import write_table
from tests import growing


@pytest.fixture
def study(corpus):
    config = growing.get_config()
    config.corpus = str(next(iter(corpus.domains.values())).folder)
    return growing.study(config), config


def write(store: Store, name: str, study, config) -> None:
    planned = plan(study.runs)
    due = named.due(planned, study.evaluation, study.corpus)
    named.write(store, name, study, config, planned, due, "tests/growing.py")


def test_another_configuration_has_a_name_of_its_own_and_says_why(study, tmp_path):
    made, config = study
    store = Store.at(tmp_path)
    assert named.name_of(made, config, store, None) == "growing-cpu"
    write(store, "growing-cpu", made, config)
    assert named.name_of(made, config, store, None) == "growing-cpu"
    config.seeds = (0, 1)
    name = named.name_of(made, config, store, None)
    assert name.startswith("growing-cpu-") and name == named.name_of(made, config, store, None)
    said = named.renamed(made, config, store, name)
    assert "(config.seeds differ): this one is " + name in said
    assert named.name_of(made, config, store, "mine") == "mine"
    for wrong in ("../x", "<script>", "a/b", ".x", ""):
        with pytest.raises(Refused, match="study's name: got "):
            named.name_of(made, config, store, wrong)
    with pytest.raises(Refused, match="study's name: got ../x-cpu"):
        named.name_of(replace(made, name="../x"), config, store, None)


def test_a_study_is_opened_again_from_the_store_alone(study, tmp_path):
    made, config = study
    store = Store.at(tmp_path)
    config.widths = (24,)
    write(store, "wide", made, config)
    module, again = named.reopened(store, "wide")
    assert again.to_dict() == config.to_dict() and module.study is not None
    with pytest.raises(Refused, match="--study: got x; accepted: wide"):
        named.reopened(store, "x")
    file = tmp_path / "studies" / "wide" / "study.json"
    file.write_text(file.read_text().replace("24", "25"))
    assert named.record(store, "wide") is None


def test_the_runs_of_a_study_are_listed_where_an_id_is_none_of_them(study, tmp_path):
    made, config = study
    store = Store.at(tmp_path)
    write(store, "growing-cpu", made, config)
    with pytest.raises(Refused, match="--run: got x; accepted: one of the study's 2 runs, such as"):
        chosen(store, "x", "growing-cpu", None)
    with pytest.raises(Refused, match="--study: got y; accepted: growing-cpu"):
        chosen(store, "x", "y", None)


def test_status_says_what_is_done_left_and_running(study, tmp_path):
    made, config = study
    store = Store.at(tmp_path)
    write(store, "growing-cpu", made, config)
    segments = plan(made.runs).segments
    first = next(iter(segments.values()))
    store.begin(first)
    store.finish(
        first.id,
        {"diverged_step": None, "flops_train": first.flops, "seconds": 2.0, "loss": {}},
    )
    with Leases(store) as leases:
        assert leases.claim(list(segments)[1])
        said = " ".join(status_text(store).split())
    left = sum(s.flops for s in segments.values()) / first.flops - 1
    assert f"growing-cpu 2 4 1 2.05k tokens about {2 * left:.0f} s" in said
    assert f"{leases.owner} at {list(segments)[1]}" in said


def test_a_table_that_was_changed_is_no_table_to_compare(study, tmp_path):
    store = Store.at(tmp_path)
    write(store, "growing-cpu", *study)
    folder = store.study("growing-cpu")
    for name in ("runs", "evals"):
        write_table(pd.DataFrame({"loss": [1.0]}), folder, name)
    named.seal_tables(store, "growing-cpu")
    assert named.table_of(store, "growing-cpu")["loss"].tolist() == [1.0]
    write_table(pd.DataFrame({"loss": [1.5]}), folder, "runs")
    with pytest.raises(Refused, match=r"runs.parquet is damaged"):
        named.table_of(store, "growing-cpu")
    with pytest.raises(Refused, match="study: got x; accepted: one of growing-cpu"):
        named.table_of(store, "x")
