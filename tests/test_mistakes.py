"""The page of mistakes says what is told, and a mistake costs one line and nothing else."""

import pytest

from tests.mistakes import PAGE, TYPED, shortened, told

COMMANDS = [found.groups() for found in TYPED.finditer(PAGE.read_text("utf-8"))]


def test_there_are_twenty_and_more():
    assert len({command for command, _ in COMMANDS}) == len(COMMANDS) >= 20


@pytest.mark.parametrize(("command", "line"), COMMANDS, ids=[c[0][:60] for c in COMMANDS])
def test_a_mistake_gets_the_line_that_the_page_shows(command, line):
    code, out, err = told(command)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert shortened(err.rstrip()) == line, "python -m tests.mistakes renews the page"


def test_only_long_lists_are_cut():
    assert (
        shortened("x: got y; accepted: a, b, c, d, e, f") == "x: got y; accepted: a, b, c, d, e, f"
    )
    assert shortened("accepted: a, b-b, c, d, e, f, g; did") == "accepted: a, b-b, c, …; did"
