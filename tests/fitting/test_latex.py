"""Words and numbers for LaTeX."""

from dataclasses import replace

import numpy as np
import pytest

from fitting import LAWS, latex
from fitting.use import allocations


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("L = E + A params^-alpha", r"L = E + A \,\mathrm{params} ^{-\alpha}"),
        ("C = 6 params tokens", r"C = 6 \,\mathrm{params} \,\mathrm{tokens}"),
        ("D^-exp(a1 N)", r"D ^{-\exp ( a_{1} N )}"),
        ("x^(c ln N) / 1e8", r"x ^{c \ln N} / 10^{8}"),
        ("f* = log10(params_total)", r"f ^{*} = \log_{10} ( \mathrm{params\_total} )"),
        ("A_alpha E' 2.5e-3", r"A_{\alpha} E' 2.5 \times 10^{-3}"),
    ],
)
def test_formulas_are_mathematics(text, shown):
    assert latex.mathematics(text) == shown


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_the_formula_of_every_law_is_balanced_mathematics(law):
    text = latex.formula(law.formula)
    assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
    inside = "".join(text.split("$")[1::2])
    assert "=" in inside and r"\text" not in inside and not any(c in inside for c in "%&#")


@pytest.mark.parametrize("name", ["<script>", "=1+1", r"a\b & 50 % #1 $x$ {~^_}", "a|b"])
def test_words_are_text_whatever_they_hold(name):
    shown = latex.escape(name)
    plain = shown.replace(r"\textbackslash{}", "").replace(r"\textasciitilde{}", "")
    for letter in "&%$#_{}":
        assert plain.replace(f"\\{letter}", "").count(letter) == plain.count("{}") * (
            letter in "{}"
        )
    assert "<" not in shown and "|" not in shown


def test_a_fit_is_a_table_of_booktabs_with_digits_that_are_known(fitted):
    _, result = fitted
    text = latex.as_latex(result)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert r"$\eta$" in text and "textasciicircum" not in text and "trunk bootstrap" in text
    eta = next(line for line in text.splitlines() if line.startswith(r"$\eta$"))
    value = eta.split("&")[1].strip(" $")
    assert float(value) == pytest.approx(result.parameters["eta"], rel=5e-3) and len(value) <= 7


def test_parameters_stand_in_full_where_rounding_moves_predictions(fitted):
    _, result = fitted
    assert latex.damage(result) > latex.MOVED
    assert repr(result.parameters["eta"]) in latex.as_latex(result)
    rounded = {name: float(f"{value:.3g}") for name, value in result.parameters.items()}
    same = replace(result, parameters=rounded, intervals={})
    assert latex.damage(same) == 0 and "in full" not in latex.as_latex(same)


def test_an_allocation_is_a_table_with_units_and_intervals(fitted):
    _, result = fitted
    text = latex.allocation(result, allocations(result, [1e20, 1e21]))
    assert text.count(r"\\") == 3 and r"$1.00 \times 10^{21}$" in text and " to " in text
    assert latex.number(np.inf, 3) == r"$\infty$"
