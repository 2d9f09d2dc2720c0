import pandas as pd
import pytest

from fitting.schedule_laws import predict_curve
from fitting.schedule_report import schedule_report
from fitting.schedules import warmup_stable_decay
from refused import Refused
from tests.fitting.test_schedule_laws import TISSUE, made


@pytest.fixture
def table(tmp_path):
    kinds, steps = made()
    kinds["short"] = warmup_stable_decay(steps=3000, peak=3e-4, end=3e-5, share=0.1, warmup=200)
    rows = [
        pd.DataFrame(
            {
                "run": name,
                "step": steps,
                "loss": predict_curve("momentum", TISSUE, schedule, steps),
                "schedule": schedule.text(),
            }
        )
        for name, schedule in kinds.items()
    ]
    pd.concat(rows).to_csv(tmp_path / "curves.csv", index=False)
    return tmp_path / "curves.csv"


def test_curves_are_fitted_others_predicted_and_a_schedule_sought(table):
    how = {"law": "momentum", "by": "run", "where": "run != short"}
    text = schedule_report(table, **how, steps=3000, peak=3e-4, end=3e-5, warmup=200)
    assert "3 curves" in text and "| short  | predicted | 1.0000" in text
    assert "| best " in text and "best: 0.0:0.0 200.0:0.0003" in text


def test_half_a_schedule_and_no_rows_are_refused(table):
    with pytest.raises(Refused, match="together"):
        schedule_report(table, by="run", steps=3000)
    with pytest.raises(Refused, match="some rows"):
        schedule_report(table, by="run", where="run == none")
