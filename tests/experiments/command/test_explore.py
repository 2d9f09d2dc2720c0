"""`espalier explore` writes a page of a table and its laws."""

import json
import re

import pytest

from tests.experiments.command.test_main import call
from tests.fitting.planted import ladder

FAST = ("--point-only", "--audits=2")


@pytest.fixture
def table(tmp_path):
    ladder().frame.assign(arm="=1+1").to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def laws_of(file) -> list[str]:
    found = re.search(r'id="data">(.*?)</script>', file.read_text("utf-8"), re.S)[1]
    return [law["name"] for law in json.loads(found)["laws"]]


def test_named_laws_and_formulas_are_in_the_page(capsys, table):
    page = table.with_name("page.html")
    own = "--formula=E + A*params**-a + B*tokens**-b"
    given = ("explore", f"--table={table}", f"--out={page}", *FAST)
    code, told, _ = call(capsys, *given, "--law=chinchilla,kaplan", own, "--where=width > 16")
    assert code == 0 and "page.html: 24 runs, " in told
    assert sorted(laws_of(page)) == ["chinchilla", "formula", "kaplan"]
    code, told, _ = call(capsys, *given, "--law=none")
    assert code == 0 and "36 runs, no law" in told and laws_of(page) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--out=page.pdf", "out: got page.pdf; accepted: a file that ends in .html"),
        ("--out=/nowhere/page.html", "out: got /nowhere/page.html; accepted: a file in a folder"),
    ],
)
def test_another_place_is_refused_before_anything_is_fitted(capsys, table, given, message):
    code, _, told = call(capsys, "explore", f"--table={table}", given)
    assert code == 2 and message in told
