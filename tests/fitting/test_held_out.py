import numpy as np
import pandas as pd
import pytest

from fitting import Observations, above_compute, largest_decile, seed_standard_deviation
from fitting.held_out import direction_of, held_out_mask, split
from refused import Refused
from tests.fitting.planted import ladder


def test_named_splits():
    runs = Observations.read("published:chinchilla:240")
    assert split(runs, "largest_decile").sum() == 24
    assert split(runs, "params_total>1e9").sum() == (runs.column("params_total") > 1e9).sum()
    assert held_out_mask(runs, None).sum() == 0
    assert (held_out_mask(runs, "above:0.5") == above_compute(runs, 0.5)).all()


def test_a_split_says_how_much_compute_is_kept_out():
    assert above_compute(ladder(), 0.25).sum() == 7
    assert largest_decile(ladder()).sum() == 3


@pytest.mark.parametrize("text", ["biggest", "above:x", "tokens>1e30", "tokens>0"])
def test_a_split_without_meaning_is_refused(text):
    with pytest.raises(Refused) as refused:
        split(ladder(), text)
    assert refused.value.field == "held_out"


def test_the_direction_is_the_one_that_separates_the_held_out_runs():
    runs = Observations(
        pd.DataFrame(
            {"params_total": [1e8, 1e8, 1e9], "tokens": [1e10, 4e11, 2e10], "loss": [3.0, 2.7, 2.5]}
        )
    )
    large = np.array([False, False, True])
    assert direction_of(runs, large) == ("params", pytest.approx(np.log(10)))
    assert direction_of(runs, ~large & (runs.frame["tokens"] > 1e11))[0] == "compute"
    assert direction_of(runs, np.zeros(3, bool)) == ("compute", pytest.approx(np.log(10)))
    with pytest.raises(Refused, match="compute"):
        direction_of(Observations(runs.frame[["loss"]]), large)


def test_spread_of_seeds_pools_replicates():
    obs = ladder(between=0.0, within=0.0)
    spread, degrees = seed_standard_deviation(obs)
    assert spread == pytest.approx(0.0, abs=1e-12) and degrees == 16
    none, zero = seed_standard_deviation(ladder(seeds=(1, 1, 1, 1, 1)))
    assert none is None and zero == 0


def test_rows_that_differ_in_any_setting_are_no_seeds_of_one_another():
    frame = ladder(between=0.0).frame
    one = Observations(frame.assign(learning_rate=np.where(frame["seed"] > 0, 0.01, 0.02)))
    spread, degrees = seed_standard_deviation(one)
    assert degrees == 4  # only the third seed still has a partner
    other = Observations(frame.assign(learning_rate=np.arange(len(frame)) + 1.0))
    assert seed_standard_deviation(other) == (None, 0)


def test_rows_that_agree_in_their_seed_too_are_not_counted_as_seeds():
    frame = ladder().frame.assign(seed=0)
    assert seed_standard_deviation(Observations(frame)) == (None, 0)
    assert seed_standard_deviation(Observations(frame.drop(columns="seed")))[1] == 16


def test_losses_and_names_are_no_settings():
    frame = ladder().frame
    outcome = frame.assign(**{"loss.web": frame["loss"] * 1.1, "train_loss": frame["loss"]})
    named = outcome.assign(model=[f"model {i}" for i in range(len(frame))])
    assert seed_standard_deviation(Observations(named))[1] == 16


def test_a_column_of_text_splits_too():
    frame = ladder().frame
    frame = frame.assign(corpus=np.where(np.arange(len(frame)) % 2, "web", "books"))
    runs = Observations(frame)
    assert (split(runs, "corpus == books") == (frame["corpus"] == "books")).all()
    least = frame["params_total"].min()
    both = split(runs, f"params_total <= {least} and corpus != web")
    assert (both == ((frame["params_total"] == least) & (frame["corpus"] == "books"))).all()
    with pytest.raises(Refused, match="0 of"):
        split(runs, "corpus == code")
