import pandas as pd
import pytest

from experiments.bench import wrong_law


def test_misfit_widens_the_intervals_of_a_wrong_law_until_they_hold(tmp_path):
    file = tmp_path / "wrong.csv"
    wrong_law.main(["--sets=6", "--only=chinchilla without its floor", f"--out={file}"])
    table = pd.read_csv(file, comment="#")
    assert list(table["times"]) == [4, 16, 64]
    # By noise alone this law misses nearly always beyond its data.
    assert (table["noise"] <= 0.5).all() and (table["misfit"] >= 0.5).all()
    assert (table["width_misfit"] > table["width_noise"]).all()


def test_an_unknown_plan_is_refused_with_the_list(capsys, tmp_path):
    with pytest.raises(SystemExit):
        wrong_law.main(["--only=kaplan", f"--out={tmp_path / 'out.csv'}"])
    assert "skaling as chinchilla" in capsys.readouterr().err and not list(tmp_path.iterdir())
