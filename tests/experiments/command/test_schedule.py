"""`espalier schedule` fits a law of the learning rate."""

from tests.experiments.command.test_main import call
from tests.fitting.test_schedule_report import table

__all__ = ["table"]  # A fixture.


def test_a_law_of_the_schedule_is_fitted(capsys, table):
    given = ("schedule", f"--table={table}", "--by=run", "--law=momentum")
    code, text, _ = call(capsys, *given)
    assert code == 0 and "4 curves" in text and "R squared" in text
    code, _, told = call(capsys, *given, "--steps=3000")
    assert code == 2 and "steps, peak and end together" in told
