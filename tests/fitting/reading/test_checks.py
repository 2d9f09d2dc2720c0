"""What looks wrong though every cell is a number, and what does not."""

import numpy as np
import pandas as pd
import pytest

from fitting import Observations
from fitting.reading.checks import check_units, curve_notes, suspicions, without_repeats
from fitting.reading.sheet import Sheet
from refused import Refused


def runs(**changes):
    params = np.repeat([2e6, 2e7, 2e8], 4)
    tokens = params * np.tile([20.0, 45.0, 110.0, 260.0], 3)
    loss = 1.8 + 430 / params**0.34 + 1250 / tokens**0.3
    return pd.DataFrame({"params_total": params, "tokens": tokens, "loss": loss} | changes)


def told(frame, where=None):
    return suspicions(frame, np.arange(len(frame)), Sheet(frame), where)


def units(frame):
    check_units(frame, np.arange(len(frame)), Sheet(frame))


def test_a_sound_table_has_nothing_to_say():
    units(runs())
    assert told(runs()) == []


@pytest.mark.parametrize("name", ["chinchilla:240", "over_training:c4", "optimizers"])
def test_published_tables_are_sound(name):
    frame = Observations.read(f"published:{name}").frame
    units(frame)
    assert told(frame) == []


@pytest.mark.parametrize(("column", "factor"), [("params_total", 1e-6), ("tokens", 1e-9)])
def test_units_mixed_in_a_column_are_refused_with_their_rows(column, factor):
    frame = runs()
    frame.loc[[1, 5], column] *= factor
    with pytest.raises(Refused) as refused:
        units(frame)
    assert refused.value.field == column
    assert "in row 2, row 6;" in str(refused.value) and f"{column}[1]" in str(refused.value)


def test_compute_in_another_unit_in_some_rows_is_refused():
    frame = runs()
    frame["flops"] = 6 * frame["params_total"] * frame["tokens"]
    units(frame)
    frame.loc[3, "flops"] *= 1e-3
    with pytest.raises(Refused, match="flops: got .* in row 4;"):
        units(frame)


@pytest.mark.parametrize("column", ["params_total", "tokens"])
@pytest.mark.parametrize("rows", [[2, 7, 9], [11], [0], range(0, 12, 5)])
@pytest.mark.parametrize("grid", [False, True])
def test_thousands_mixed_in_are_noticed(column, rows, grid):
    frame = runs()
    if grid:  # The same tokens at each size: losses tell, where ratios do not.
        frame["tokens"] = np.tile([1e8, 1e9, 1e10, 1e11], 3)
        frame["loss"] = 1.8 + 430 / frame["params_total"] ** 0.34 + 1250 / frame["tokens"] ** 0.3
    frame.loc[rows, column] /= 1e3
    try:
        units(frame)
        assert any("units mixed" in note for note in told(frame))
    except Refused as error:
        assert error.field == column


def test_steps_are_noticed_by_their_size_or_their_column():
    steps = runs()["tokens"] / 524288
    assert "steps given as tokens" in told(runs(tokens=steps))[0]
    assert "equal to step" in told(runs(step=runs()["tokens"]))[0]


def test_losses_are_compared_within_groups_only():
    frame = runs()
    worse = frame.assign(loss=1.5 * frame["loss"])
    both = pd.concat([frame.assign(group="a"), worse.assign(group="b")], ignore_index=True)
    assert told(both) == []
    assert told(both.drop(columns="group")) != []


def test_runs_that_did_not_finish_are_counted_unless_a_condition_speaks_of_them():
    frame = runs(State=["finished"] * 10 + ["crashed", "Running"])
    assert told(frame) == [
        "State: 1 crashed, 1 Running among the rows; --where=\"State == 'finished'\""
    ]
    assert told(frame, "State == finished") == []


def test_copies_are_dropped_and_replicates_are_not():
    notes = []
    frame = pd.concat([runs(), runs().head(2)], ignore_index=True)
    assert without_repeats(frame, notes).sum() == 12
    assert notes == ["dropped, exact duplicates of other rows: 2"]
    notes.clear()
    named = frame.assign(run=[f"r{n}" for n in range(14)])
    assert without_repeats(named, notes).sum() == 12 and "in all but run: 2" in notes[0]
    notes.clear()
    seeded = named.assign(seed=[0] * 12 + [1, 1])
    assert without_repeats(seeded, notes).all() and "seed: 2 rows" in notes[0]
    notes.clear()
    seeded.loc[12:, "loss"] += 0.01
    assert without_repeats(seeded, notes).all() and notes == []


def test_sound_curves_have_nothing_to_say():
    steps = np.arange(12)
    frame = pd.DataFrame({"run": "a", "step": steps, "loss": 4 - steps / 10})
    assert curve_notes(frame, "run") == [] and curve_notes(frame, "trunk") == []
    assert "higher in its last third" in curve_notes(frame.assign(loss=4 + steps / 10), "run")[0]
    assert "go back 1 times" in curve_notes(frame.iloc[[0, 2, 1, 3]], "run")[0]
