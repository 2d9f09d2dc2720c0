"""Writing reports."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from ml_collections import ConfigDict

from experiments.evidence.figures import panels
from experiments.evidence.law import law_table
from experiments.evidence.report import (
    Picture,
    Table,
    Text,
    cell,
    latex,
    pipes,
    rendered,
    safe,
    write_report,
)
from fitting import fit
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


def test_code_is_left_as_it_is():
    assert safe("a < b and `a < b`") == "a &lt; b and `a < b`"
    assert rendered("`a < b`") == "<p><code>a &lt; b</code></p>"
