import csv
import io

import numpy as np
import pytest

from fitting import Observations, Refused, figures, fit, tables
from fitting.report import fit_report, split


@pytest.fixture(scope="module")
def fitted():
    runs = Observations.read("published:over_training:c4")
    mask = split(runs, "above:0.25")
    return runs.only(mask), fit("over_training", runs, held_out=mask, draws=100)


@pytest.fixture(scope="module")
def bare():
    runs = Observations.read("published:over_training:c4")
    return fit("over_training", runs.only(np.arange(len(runs)) % 7 == 0), point_only=True)


def test_tables_carry_intervals_and_how_they_were_made(fitted, bare):
    _, result = fitted
    for render in (tables.as_csv, tables.as_markdown, tables.as_latex):
        text = render(result)
        assert "trunk bootstrap" in text and "90" in text
        assert "none (5 runs, 4 parameters)" in render(bare)


def test_csv_keeps_full_precision(fitted):
    _, result = fitted
    lines = tables.as_csv(result).splitlines()
    assert lines[0].startswith("# ")
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[1:]))))
    assert {row["parameter"]: float(row["value"]) for row in rows} == result.parameters


def test_comparison_tables_escape():
    table = [{"a_b": 1.5, "c": "x & <y>"}]
    assert r"a\_b" in tables.comparison(["a_b", "c"], table, "latex")
    assert "x &amp; &lt;y&gt;" in tables.comparison(["a_b", "c"], table, "html")
    assert tables.comparison(["a_b", "c"], table, "csv").splitlines()[1] == "1.5,x & <y>"


@pytest.mark.parametrize("name", ["predicted_against_actual", "residuals", "profile_likelihood"])
def test_figures_say_how_intervals_were_made(fitted, bare, name):
    for result, word in ((fitted[1], "trunk bootstrap"), (bare, "none (5 runs")):
        figure = getattr(figures, name)(result)
        assert word in figure.get_supxlabel()
        assert all(axis.get_xlabel() for axis in figure.axes if axis.axison and axis.lines)


def test_loss_figure_marks_held_out_runs(fitted):
    held_out, result = fitted
    figure = figures.loss_against_compute(result, held_out)
    axis = figure.axes[0]
    assert "FLOP" in axis.get_xlabel() and "nats/token" in axis.get_ylabel()
    assert "open squares" in axis.get_legend().get_title().get_text()


def test_a_report_names_its_evidence(tmp_path):
    options = {"draws": 100, "held_out": "above:0.25", "flops": [1e21]}
    text = fit_report("over_training", "published:over_training:c4", out=tmp_path / "r", **options)
    for word in ("identified", "trunk bootstrap", "random starts", "baseline nearest_run",
                 "Influence", "rounding", "Compute-optimal"):  # fmt: skip
        assert word in text, word
    written = {file.name for file in (tmp_path / "r").iterdir()}
    names = {"report.md", "fit.csv", "fit.md", "fit.tex", "residuals.csv", "held_out.csv"}
    names |= {"influence.csv", "predicted.png", "residuals.png", "profiles.png", "loss.png"}
    assert written == names
    assert (tmp_path / "r" / "report.md").read_text() == text


def test_a_report_of_a_point_estimate():
    text = fit_report("over_training", "published:over_training:c4", point_only=True)
    assert "interval: none (34 runs, 4 parameters)" in text


@pytest.mark.parametrize(
    ("law", "table", "options", "field"),
    [
        ("chincilla", "published:chinchilla", {}, "law"),
        ("chinchilla", "published:chinchila", {}, "table"),
        ("chinchilla", "published:chinchilla", {"held_out": "biggest"}, "held_out"),
        ("chinchilla", "published:chinchilla", {"held_out": "above:x"}, "held_out"),
        ("chinchilla", "published:chinchilla", {"held_out": "tokens>1e30"}, "held_out"),
        ("parscale", "published:chinchilla", {}, "column"),
        ("chinchilla", "published:parscale", {}, "tokens"),
    ],
)
def test_refusals_write_nothing(tmp_path, law, table, options, field):
    with pytest.raises(Refused) as refused:
        fit_report(law, table, out=tmp_path / "none", **options)
    assert refused.value.field == field
    assert not (tmp_path / "none").exists()


def test_named_splits():
    runs = Observations.read("published:chinchilla:240")
    assert split(runs, "largest_decile").sum() == 24
    assert split(runs, "params_total>1e9").sum() == (runs.column("params_total") > 1e9).sum()
    assert split(runs, None) is None
