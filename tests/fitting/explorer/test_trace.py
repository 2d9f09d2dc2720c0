"""Laws written down as JavaScript; what the lines compute is compared in `test_page`."""

import numpy as np
import pytest

from fitting.explorer.trace import Program, Traced, allocation, code_of, place, prediction
from refused import Refused
from tests.fitting.explorer.planted import laws


@pytest.mark.parametrize("law", laws(), ids=lambda law: law.name)
def test_every_law_is_arithmetic_of_its_columns_and_parameters(law):
    text = prediction(law)
    assert text.startswith("(x,p)=>{") and "numpy" not in text and "object" not in text
    for index in range(len(law.names)):
        assert f"p[{index}]" in text
    assert (allocation(law) is None) == (law.allocation is None)


def test_equal_lines_are_written_once():
    program = Program()
    x = Traced(program, "x[0]")
    total = np.exp(-x) + np.exp(-x) * 2 + np.where(x > 1, x, 0.5)
    assert program.function("x", code_of(total)).count("Math.exp") == 1


def test_numbers_keep_their_digits_and_their_sign():
    assert [code_of(v) for v in (0.1, -2, np.float64(1e300), np.inf, -np.inf, np.nan)] == [
        "0.1",
        "(-2.0)",
        "1e+300",
        "Infinity",
        "(-Infinity)",
        "NaN",
    ]


def test_what_is_no_arithmetic_is_refused():
    program = Program()
    with pytest.raises(Refused, match="law: got numpy.arctan"):
        np.arctan(Traced(program, "x"))
    with pytest.raises(Refused, match="law: got numpy.cumsum"):
        np.cumsum(Traced(program, "x"))


def test_places_are_read_from_the_columns_that_are_there():
    assert 'c["flops"]' in place("compute", None, ["flops", "tokens"])
    assert '6.0*c["params_active"]' in place(
        "compute", "params_active", ["params_active", "tokens"]
    )
    with pytest.raises(Refused):
        place("tokens", None, ["loss"])
