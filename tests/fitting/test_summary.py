"""What a person reads of a fit."""

import pytest

from fitting import fit
from fitting.summary import as_html, digits, told


def test_a_printed_fit_is_about_ten_lines(fitted):
    _, result = fitted
    lines = str(result).splitlines()
    assert len(lines) <= 12 and len(str(result)) < 1000 and repr(result) == str(result)
    assert lines[0].startswith("over_training: L = E + ")
    assert "33 runs and 1 held out" in lines[1]
    for name in result.parameters:
        assert any(line.split()[0] == name for line in lines)
    assert "90% intervals: trunk bootstrap" in str(result)
    assert "1 of 1 inside" in str(result) or "0 of 1 inside" in str(result)


def test_what_is_not_identified_is_said(bare):
    assert "intervals: none (5 runs, 4 parameters)" in str(bare)


@pytest.mark.parametrize(
    ("value", "ends", "shown"),
    [
        (0.244123, (0.141, 0.312), ("0.244", "(0.141 to 0.312)")),
        (0.244123, (0.2440, 0.2442), ("0.244123", "(0.244000 to 0.244200)")),
        (1234.5, (900.0, 2000.0), ("1.23e+03", "(900 to 2.00e+03)")),
        (110.4, (28.0, 280.0), ("110", "(28.0 to 280)")),
        (5.0, (None, None), ("5.000", "")),
    ],
)
def test_digits_are_those_that_the_interval_justifies(value, ends, shown):
    assert told(value, *ends) == shown
    assert 3 <= digits(value, *ends) <= 6


def test_in_a_notebook_every_word_is_text(fitted):
    _, result = fitted
    page = as_html(result)
    assert page == result._repr_html_() and page.count("<tr>") == 1 + len(result.parameters)
    odd = fit("over_training", result.observations, point_only=True, audits=1)
    object.__setattr__(odd, "interval_method", "<script>")
    assert "<script>" not in as_html(odd) and "&lt;script&gt;" in as_html(odd)
