import pytest

from fitting import Observations, Refused
from fitting.report import fit_report, split


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


def test_a_chinchilla_report_sets_the_isoflop_approach_beside_the_fit():
    text = fit_report("chinchilla", "published:chinchilla:240", draws=50)
    assert "from this fit: 0.5139" in text
    assert "from parabolas over 20 budgets" in text and "their bias in N*" in text
