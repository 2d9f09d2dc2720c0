"""Writing reports."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from ml_collections import ConfigDict

import experiments
from experiments.evidence.figures import panels
from experiments.evidence.law import law_table
from experiments.evidence.report import (
    Picture,
    Table,
    Text,
    cell,
    explored,
    latex,
    pipes,
    rendered,
    safe,
    write_blocks,
    write_report,
)
from fitting import Observations, fit
from tests.browser import DESK, FAULTS, PHONE, chromium, opened
from tests.fitting.planted import ladder

EVIL = "<script>alert(1)</script>"


def test_cells_are_short_and_say_what_is_absent():
    assert [cell(x) for x in (1.23456, float("nan"), None, pd.NA, 1234567.0, 12, "a")] == [
        "1.2346",
        "–",
        "–",
        "–",
        "1.235e+06",
        "12",
        "a",
    ]


def test_tables_become_markdown_and_latex():
    table = Table("t", pd.DataFrame({"a_b": ["x%"], "n": [0.5]}), "caption")
    assert pipes(table.frame) == "| a_b | n |\n| --- | ---: |\n| x% | 0.5 |"
    assert r"a\_b & n \\" in latex(table) and r"x\% & 0.5 \\" in latex(table)


def written(folder, name: str) -> tuple[str, str]:
    """Writes a report in which a name stands wherever a name can, as Markdown and as a page."""
    blocks = [
        Text(f"## About {name}\n\nOn {name}, in code `{name}`."),
        Table("t", pd.DataFrame({name: [name, "a|b"], "n": [1, 2]}), f"Losses on {name}."),
        Picture("p", panels()[0], f"Losses on {name}."),
    ]
    config = ConfigDict({"preset": name, "corpus": name})
    write_report(folder, SimpleNamespace(name=name), config, blocks)
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


@pytest.mark.parametrize("name", [EVIL, f"x`{EVIL}", "<img src=x onerror=alert(1)>"])
def test_names_that_read_as_html_are_text_in_the_page(tmp_path, name):
    text, page = written(tmp_path, name)
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;") >= 8  # Title, headings, code, table, captions, configuration.
    outside = "".join(text.split("`")[::2])  # What no span or block of code holds.
    if "`" not in name:
        assert "<script" not in outside and "<img src=x" not in outside


def test_names_that_read_as_links_or_cells_stay_text(tmp_path):
    name = "[x](javascript:alert(1))"
    text, page = written(tmp_path, name)
    assert "<a href" not in page.replace('<a href="t.csv"', "") and "javascript" in page
    assert r"| a\|b | 2 |" in text
    assert "<td>a|b</td>" in page or ">a|b</td>" in page


def test_a_report_with_runs_has_a_page_to_explore_them_and_its_fits_in(tmp_path):
    obs = ladder()
    found = fit("chinchilla", obs, point_only=True)
    table = law_table("fit", found)
    again = replace(law_table("late", found), fit=replace(found, target="loss"))
    config = ConfigDict({"preset": "p"})
    study = SimpleNamespace(name=EVIL)
    write_report(tmp_path, study, config, [table, again], runs=obs.frame)
    page, kept = (tmp_path / "report.html").read_text(), (tmp_path / "explorer.html").read_text()
    assert '<a href="explorer.html">Explore the runs and the laws</a>' in page
    assert 'name="viewport" content="width=device-width' in page
    assert '"name":"fit"' in kept and '"name":"late"' in kept and EVIL not in kept
    assert '"run":["w16-s0-d256000"' in kept
    write_report(tmp_path, study, config, [], runs=obs.frame.assign(run="same"))
    assert (
        "There is no page to explore the runs in: run: got same"
        in (tmp_path / "report.html").read_text()
    )


def test_a_run_that_is_named_like_a_formula_or_a_script_is_text_everywhere(tmp_path):
    names = ["=1+1", EVIL, "a & b_c ^ {x}"]
    table = Table("t", pd.DataFrame({"run": names, "n": [1.0, -2.0, 3.0]}), "c")
    write_report(tmp_path, SimpleNamespace(name="s"), ConfigDict({"preset": "p"}), [table])
    page, tex = (tmp_path / "report.html").read_text(), (tmp_path / "t.tex").read_text()
    assert "<td>=1+1</td>" in page and "&lt;script&gt;" in page and "<script" not in page
    assert "<" not in tex and r"a \& b\_c \textasciicircum{} \{x\}" in tex
    assert (tmp_path / "t.csv").read_text().splitlines()[1:3] == ["'=1+1,1.0", f"{EVIL},-2.0"]


def test_figures_stand_beside_the_page_as_files_of_a_paper(tmp_path):
    figure, (axis,) = panels()
    axis.set_xlabel("words")
    write_blocks(tmp_path, "t", [Picture("p", figure, "c")])
    assert {f.name for f in (tmp_path / "figures").iterdir()} == {"p.png", "p.pdf", "p.svg"}
    text = (tmp_path / "figures" / "p.pdf").read_bytes()
    assert b"/FontFile2" in text and b"/Type3" not in text


def test_only_a_figure_wider_than_a_column_scrolls_on_a_phone(tmp_path):
    figures = {"narrow": panels()[0], "wide": panels(2)[0]}
    blocks = [Picture(name, figure, "c") for name, figure in figures.items()]
    write_blocks(tmp_path, "t", blocks)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<figure class="wide"') == 1 and page.count("<figure") == 2
    assert page.index("<figure>") < page.index('<figure class="wide"')


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["1400", "390"])
def test_nothing_of_a_report_is_cut_or_overlaps_on_a_desk_or_a_phone(tmp_path, screen):
    wide = pd.DataFrame({f"column {i}": [0.123456, 2.0] for i in range(12)})
    text = "## A title that is longer than the screen of a phone is wide\n\nWords, `code`."
    blocks = [Text(text), Table("t", wide, "Losses."), Picture("p", panels()[0], "A picture.")]
    config = ConfigDict({"preset": "p", "widths": tuple(range(40))})
    write_report(tmp_path, SimpleNamespace(name="s" * 80), config, blocks)
    with chromium() as browser, opened(browser, tmp_path / "report.html", screen) as page:
        assert page.evaluate(FAULTS) == []
        assert page.evaluate("innerWidth") == screen[0]


@pytest.mark.parametrize("study", ["over_training", "qat_ratio", "stem"])
def test_nothing_overlaps_or_is_cut_where_a_study_is_explored(tmp_path, study):
    runs = pd.read_csv(Path(experiments.__file__).parent / "results" / f"{study}-cpu" / "runs.csv")
    tables = []
    if study == "over_training":
        options = {"params": "params_total", "point_only": True, "audits": 2}
        tables = [law_table("fit", fit("over_training", Observations(runs), **options))]
    (tmp_path / "page.html").write_text(explored(study, tables, runs).html, "utf-8")
    with chromium() as browser:
        for screen in (DESK, PHONE):
            with opened(browser, tmp_path / "page.html", screen) as page:
                assert page.evaluate(FAULTS) == []


def test_code_is_left_as_it_is():
    assert safe("a < b and `a < b`") == "a &lt; b and `a < b`"
    assert rendered("`a < b`") == "<p><code>a &lt; b</code></p>"
