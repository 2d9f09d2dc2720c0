"""What `--columns` says, with units, and the line that says it again."""

import numpy as np
import pandas as pd
import pytest

from experiments.command.options import Columns
from fitting.reading.units import Meant, line, meanings
from refused import Refused

FRAME = pd.DataFrame({"x": [2.0, 4.0], "batch": [10.0, 20.0]})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("tokens", [2, 4]),
        ("tokens[M]", [2e6, 4e6]),
        ("tokens[B]", [2e9, 4e9]),
        ("accuracy[%]", [0.02, 0.04]),
        ("tokens[524288]", [2 * 524288, 4 * 524288]),
        ("tokens[batch]", [20, 80]),
        ("loss[bits]", [2 * np.log(2), 4 * np.log(2)]),
        ("loss.c4[perplexity]", [np.log(2), np.log(4)]),
    ],
)
def test_values_are_converted(text, values):
    assert np.allclose(Meant.of(text).converted(FRAME["x"].to_numpy(), FRAME), values, rtol=1e-15)
    assert str(Meant.of(text)) == text


@pytest.mark.parametrize("text", ["tokens[", "tokens[]", "tokens[M", "tokens[q]", "tokens[bits]"])
def test_other_units_are_refused(text):
    with pytest.raises(Refused, match="columns"):
        Meant.of(text).converted(FRAME["x"].to_numpy(), FRAME)
    for text in ("tokens[0]", "tokens[-1]", "tokens[inf]"):
        with pytest.raises(Refused, match="positive"):
            Meant.of(text).converted(FRAME["x"].to_numpy(), FRAME)


def test_any_name_is_given_any_meaning_that_is_known():
    assert meanings({"x": "tokens[M]"}, ["x"], ()) == {"x": Meant("tokens", "M")}
    assert meanings({"x": "batch"}, ["x"], ("batch",)) == {"x": Meant("batch")}
    for columns, told in (
        ({"x": "batch"}, "x=batch"),
        ({"y": "tokens"}, "one of x"),
        ({"x": "loss", "z": "loss[bits]"}, "several columns"),
    ):
        with pytest.raises(Refused, match=told):
            meanings(columns, ["x", "z"] if "z" in columns else ["x"], ())


def test_the_line_is_read_as_what_it_says():
    meant = {"size": "params_total[M]", "loss, nats": "loss", 'a "b"': "tokens"}
    text = line(meant)
    assert text.startswith("--columns='") and text.endswith("'")
    assert Columns().convert(text.removeprefix("--columns='")[:-1], None, None) == meant
