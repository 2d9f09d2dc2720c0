"""Two checkouts fit in turns; a commit that is not there is named, and nothing is compared."""

from experiments.bench import fit_before


def test_two_checkouts_take_turns_and_their_results_are_compared(monkeypatch):
    monkeypatch.setattr(fit_before, "TABLE", "published:over_training:c4")
    row = fit_before.compare(fit_before.HERE, turns=1)
    assert row["here"] > 0 and row["before"] > 0 and row["ratio"] > 0
    assert row["apart"] == 0.0  # The same code gives the same bits.


def test_a_commit_that_is_not_there_is_named(capsys):
    fit_before.main(["--commit=0000000"])
    assert "0000000 is not in this clone's history" in capsys.readouterr().out
