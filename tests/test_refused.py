"""The one error, in one line, and the names that would have been accepted."""

import pickle

from refused import Refused, listed


def test_it_says_field_value_and_what_is_accepted_also_in_another_process():
    error = pickle.loads(pickle.dumps(Refused("depth", 0, "1 or more")))
    assert str(error) == "depth: got 0; accepted: 1 or more"
    assert (error.field, error.value, error.accepted) == ("depth", 0, "1 or more")


def test_the_nearest_name_is_told_where_one_is_near():
    assert listed(["chinchilla", "kaplan"], "chinchila") == (
        "chinchilla, kaplan; did you mean chinchilla?"
    )
    assert listed(["chinchilla", "kaplan"], "x") == "chinchilla, kaplan"
    assert listed([], "x") == ""
