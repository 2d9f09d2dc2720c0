"""`espalier speedup` compares two arms of a table."""

import pandas as pd

from tests.experiments.command.test_main import call
from tests.fitting.test_speed_up import arm, base


def test_two_arms_of_a_table_are_compared(capsys, tmp_path):
    arms = [arm(base).assign(arm="adamw"), arm(lambda x: base(1.4 * x)).assign(arm="muon")]
    pd.concat(arms).to_csv(tmp_path / "runs.csv", index=False)
    given = ("speedup", f"--table={tmp_path / 'runs.csv'}", "--asymptote=1.8", "--draws=20")
    arms = ("--baseline=arm == adamw", "--variant=arm == muon")
    code, text, _ = call(capsys, *given, *arms)
    assert code == 0 and "speed-up in tokens at 3e+10: 1.4 (90% interval" in text
    code, _, told = call(capsys, *given, "--baseline=arm == adamw")
    assert code == 2 and "--variant: got nothing" in told
