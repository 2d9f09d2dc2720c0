"""Labels: what names and values may be, and that tables give them back."""

import io
import math

import pandas as pd
import pytest

from refused import Refused
from scaling import Labelled, labelled, plan, unfolded
from scaling.labels import as_column, joined, label_names, label_sets, words
from tests.corpora import study_runs


@pytest.fixture(scope="module")
def run(corpus):
    return study_runs("wsd", corpus)[0]


def test_labels_are_no_part_of_an_identity(run):
    assert labelled(run, arm="dense", rate=0.5).run.identity == run.identity
    assert labelled(run, arm="dense") == Labelled(run=run, labels={"arm": "dense"})


def test_a_labelled_run_is_not_built_by_position(run):
    with pytest.raises(TypeError):
        Labelled(run, {})


@pytest.mark.parametrize("name", ["width", "seed", "tokens", "loss", "loss.code", "router.x"])
def test_a_column_of_the_run_table_is_no_label(run, name):
    with pytest.raises(Refused, match=f"label: got {name}; accepted: a "):
        Labelled(run=run, labels={name: 1})


@pytest.mark.parametrize("name", ["", "Arm", "my arm", "arm2", "_arm", "arm.x", "größe"])
def test_a_name_is_a_plain_word(run, name):
    with pytest.raises(Refused, match="a plain word of small letters"):
        Labelled(run=run, labels={name: "dense"})


@pytest.mark.parametrize(
    "value", ["", "0.5", "nan", "inf", "None", "NA", "a | b", " a", "a\nb", True, math.nan, None]
)
def test_a_value_that_a_table_would_not_give_back_is_refused(run, value):
    with pytest.raises(Refused, match="label arm: got "):
        labelled(run, arm=value)


def test_a_label_is_text_for_every_run_or_a_number_for_every_run(run):
    with pytest.raises(Refused, match="label rate: got best; accepted: text for every run or a"):
        plan([labelled(run, rate=0.5), labelled(run, rate="best")])


def test_label_sets_stand_in_the_lists_order_and_equal_ones_once(run):
    listed = [labelled(run, arm=arm) for arm in ("b", "a", "b")]
    assert label_sets(listed) == {run.identity: ({"arm": "b"}, {"arm": "a"})}
    assert label_sets([Labelled(run=run, labels={})]) == {run.identity: ()}


def test_cells_of_several_label_sets_are_joined_in_one_order():
    sets = [{"arm": "b", "rate": 1.0, "step": 3}, {"arm": "a", "rate": 1.0}]
    assert [joined(sets, name) for name in ("arm", "rate", "step")] == ["b | a", 1.0, "3 | "]
    assert joined([], "arm") is None


def test_label_columns_have_one_type_each():
    assert as_column([1, 2]).dtype == "int64"
    assert as_column([1, None]).dtype == "Int64"
    assert as_column([1, 0.5]).tolist() == [1.0, 0.5]
    assert as_column(["0.5 | 1.0", 2.0]).tolist() == ["0.5 | 1.0", "2.0"]
    assert as_column([None, None]).isna().all()


def test_a_table_has_a_row_per_label_set_again_even_from_a_file():
    table = pd.DataFrame(
        {
            "run": ["one", "two", "three"],
            "arm": as_column(["a | b", "c", None]),
            "rate": as_column(["0.5 | 1.0", 2.0, 4.0]),
            "kind": as_column(["x | ", None, None]),
            "size": as_column([16, 32, 48]),
            "loss": [1.5, 2.5, 3.5],
        }
    )
    for some in (table, pd.read_csv(io.StringIO(table.to_csv(index=False)))):
        assert label_names(some) == ["arm", "rate", "kind", "size"]
        rows = unfolded(some)
        assert rows["run"].tolist() == ["one", "one", "two", "three"]
        assert rows["arm"].tolist()[:3] == ["a", "b", "c"] and pd.isna(rows["arm"][3])
        assert rows["rate"].tolist() == [0.5, 1.0, 2.0, 4.0]
        assert rows["kind"][0] == "x" and rows["kind"][1:].isna().all()
        assert rows["size"].tolist() == [16, 16, 32, 48]
        assert rows["loss"].tolist() == [1.5, 1.5, 2.5, 3.5]
        pd.testing.assert_frame_equal(unfolded(rows), rows)


def test_a_table_without_labels_stays_as_it_is():
    table = pd.DataFrame({"run": ["one"], "loss": [1.0]})
    pd.testing.assert_frame_equal(unfolded(table), table)
    assert len(unfolded(table[:0])) == 0


def test_words_leave_out_numbers_that_differ_and_count_further_texts():
    assert words({"arm": ("dense",), "rate": (0.5,)}) == "arm dense  rate 0.5"
    assert words({"arm": ("dense", "a", "b"), "rate": (0.5, 1.0)}) == "arm dense and 2 more"
    assert words({"kind": ("x", None), "size": (16,)}) == "size 16"
