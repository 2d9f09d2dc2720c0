"""Claims: one wording for five verdicts."""

import math

import pytest

from experiments.evidence.claim import Claim, bullets, counted, listed, rows, scale


@pytest.mark.parametrize(
    ("claim", "verdict", "said"),
    [
        (Claim(-0.2, -0.3, -0.1), "lower", "-0.2000 nats [-0.3000, -0.1000]: lower than dense"),
        (Claim(0.2, 0.1, 0.3), "higher", "+0.2000 nats [+0.1000, +0.3000]: higher than dense"),
        (Claim(0.2, -0.1, 0.5), "not resolved", "+0.2000 nats [-0.1000, +0.5000]: not resolved"),
        (Claim.of([0.2]), "one seed", "+0.2000 nats: one seed"),
        (Claim.of([math.nan]), "diverged", "diverged at every rate (or dense did)"),
    ],
)
def test_every_verdict_has_one_wording(claim, verdict, said):
    assert claim.verdict == verdict
    assert claim.said("nats", than="dense") == said


def test_a_verdict_is_about_the_value_compared_with():
    assert Claim(1.5, 1.2, 1.8).verdict == "higher"
    assert Claim(1.5, 1.2, 1.8, than=2.0).verdict == "lower"
    assert Claim(1.5, 1.2, 1.8, than=1.5).verdict == "not resolved"


def test_a_mean_has_students_interval_and_leaves_out_what_is_absent():
    found = Claim.of([1.0, 2.0, 3.0, math.nan])
    # t(0.95; 2 degrees) = 2.91999, times 1/sqrt(3).
    assert (found.value, found.count) == (2.0, 3)
    assert found.high - 2 == pytest.approx(2.91999 / 3**0.5, rel=1e-5) == 2 - found.low
    assert found.columns("gain", "its ") == {
        "gain": 2.0,
        "its 90 % low": found.low,
        "its 90 % high": found.high,
    }


def test_lists_and_counts_read_as_sentences():
    assert bullets({"a": "1", "b": "2"}, ["Two", "", "of them:"]) == (
        "Two of them:\n\n- **a**: 1.\n- **b**: 2."
    )
    assert (listed([]), listed([1, 2])) == ("none", "1, 2")
    assert (counted(1, "width"), counted(1200, "width")) == ("1 width", "1,200 widths")


def test_only_runs_below_the_published_sizes_prove_no_more_than_the_machinery():
    assert "proves the machinery" in scale(10, 100, "tokens")
    assert scale(200, 100, "tokens") == "At most 200 tokens, where those published begin at 100."


def test_claims_become_rows_under_their_keys():
    table = rows({3: Claim(1.0, 0.5, 1.5), 4: Claim(2.0, 1.0, 3.0)}, "seed", "E (nats/token)")
    assert list(table) == ["seed", "E (nats/token)", "90 % low", "90 % high"]
    assert table.to_numpy().tolist() == [[3, 1.0, 0.5, 1.5], [4, 2.0, 1.0, 3.0]]
