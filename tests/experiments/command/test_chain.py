"""`espalier chain` predicts accuracy through the loss."""

import pandas as pd
import pytest

from experiments.command.chain import Chances, command
from refused import Refused
from tests.experiments.command.test_main import call
from tests.fitting.test_chain import TARGET, ladder


def test_accuracy_is_predicted_through_the_loss(capsys, tmp_path):
    runs, links = ladder(noise=0.004)
    tables = {"losses": runs, "links": links, "targets": pd.DataFrame(TARGET)}
    for name, frame in tables.items():
        frame = frame.rename(columns={"loss": "nll"} if name == "links" else {"tokens": "D"})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    files = [f"--{name}={tmp_path / name}.csv" for name in tables]
    asked = (*files, "--chance=.25", "--draws=20")
    code, text, _ = call(capsys, "chain", *asked, "--columns=nll=loss,D=tokens")
    assert code == 0 and "| prediction |" in text and "| chinchilla |" in text
    code, _, said = call(capsys, "chain", *asked, "--columns=loss=nll,E=tokens")
    assert code == 2 and "E; accepted: a column of one of the tables" in said


def test_chances_are_a_number_or_one_for_each_group():
    read = Chances().convert
    assert read(".25", command.params[4], None) == 0.25
    assert read("a=.25, b=.5", command.params[4], None) == {"a": 0.25, "b": 0.5}
    with pytest.raises(Refused, match="GROUP=NUMBER"):
        read("a=b", command.params[4], None)
