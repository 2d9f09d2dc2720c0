import numpy as np
import pandas as pd
import pytest

from fitting import Observations
from fitting.report import fit_report
from refused import Refused


def test_a_report_names_its_evidence(tmp_path):
    options = {"draws": 100, "held_out": "above:0.25", "flops": [1e21]}
    text = fit_report("over_training", "published:over_training:c4", out=tmp_path / "r", **options)
    for word in ("identified", "trunk bootstrap", "random starts", "baseline nearest_run",
                 "Influence", "rounding", "Compute-optimal", "Rolling extrapolation"):  # fmt: skip
        assert word in text, word
    written = {file.name for file in (tmp_path / "r").iterdir()}
    names = {"report.md", "fit.csv", "fit.md", "fit.tex", "residuals.csv", "held_out.csv"}
    names |= {"rolling.csv", "choice.csv", "influence.csv", "allocation.csv", "allocation.tex"}
    drawn = ("loss", "predicted", "residuals", "profiles", "allocation", "distance")
    names |= {f"{name}.{kind}" for name in drawn for kind in ("png", "pdf", "svg")}
    assert written == names
    report = (tmp_path / "r" / "report.md").read_text()
    assert report.startswith(text)
    assert all(f"- {name}: " in report.partition("## Figures")[2] for name in drawn)
    for name in names:
        if name.endswith(".csv"):
            comment = (tmp_path / "r" / name).read_text().partition("\n")[0]
            assert comment.startswith("# "), name
            assert len(pd.read_csv(tmp_path / "r" / name, comment="#")) > 0, name


@pytest.mark.system
def test_a_report_of_runs_without_noise(tmp_path):
    size, tokens = (x.ravel() for x in np.meshgrid([1e6, 1e7, 1e8, 1e9], [1e8, 1e9, 1e10, 1e11]))
    loss = 1.7 + 400 * size**-0.34 + 410 * tokens**-0.28
    table = pd.DataFrame({"params_total": size, "tokens": tokens, "loss": loss})
    table.to_csv(tmp_path / "exact.csv", index=False)
    text = fit_report("chinchilla", tmp_path / "exact.csv", out=tmp_path / "r", flops=[1e20])
    assert text.count("interval: none (residuals are zero)") == 4
    assert "nan" not in text and "inf" not in text.replace("Influence", "")
    assert (tmp_path / "r" / "profiles.png").stat().st_size > 1000


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
        ("parscale", "published:parscale:pile", {"flops": [1e20], "draws": 20}, "ask"),
        ("chinchilla", "published:chinchilla", {"flops": [-1.0], "draws": 20}, "flops"),
        ("chinchilla", "published:chinchilla", {"held_out": "run>3"}, "run"),
        ("chinchilla", "published:parscale", {}, "tokens"),
    ],
)
def test_refusals_write_nothing(tmp_path, law, table, options, field):
    with pytest.raises(Refused) as refused:
        fit_report(law, table, out=tmp_path / "none", **options)
    assert refused.value.field == field
    assert not (tmp_path / "none").exists()


def test_a_report_goes_into_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refused) as refused:
            fit_report("over_training", "published:over_training:c4", out=out, point_only=True)
        assert refused.value.field == "out"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_law_that_names_its_count_needs_no_other_name_for_compute(tmp_path):
    runs = Observations.read("published:parscale:pile").frame
    runs.assign(params_total=runs["params_non_embedding"] * 1.1).to_csv(tmp_path / "runs.csv")
    text = fit_report("parscale", tmp_path / "runs.csv", point_only=True)
    assert "baseline nearest_run: " in text and "none: params" not in text


@pytest.mark.system
def test_a_chinchilla_report_sets_the_isoflop_approach_beside_the_fit():
    text = fit_report("chinchilla", "published:chinchilla:240", draws=50)
    assert "from this fit: 0.5139 (90% interval 0." in text
    assert "from minima of budgets: " in text and "their bias in N*" in text
