"""A fit that is kept and read back is the same fit."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from fitting import Fit, fit, formula_law
from fitting.misfit import Misfit
from refused import Refused


def alike(first: pd.DataFrame, second: pd.DataFrame):
    """Numbers to the last bit; words may be kept as another kind of text."""
    loose = {"check_dtype": False, "check_index_type": False, "check_column_type": False}
    pd.testing.assert_frame_equal(first, second, check_exact=True, **loose)


def same(first: Fit, second: Fit):
    for field in fields(Fit):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name not in ("law", "observations", "draws", "profiles", "optimum"):
            if isinstance(one, pd.DataFrame):
                alike(one, other)
            else:
                assert one == other, field.name
    alike(first.observations.frame, second.observations.frame)
    assert first.law.parameters == second.law.parameters


def test_a_fit_read_back_predicts_allocates_and_prints_the_same(fitted, tmp_path):
    _, result = fitted
    kept = replace(result, misfit=Misfit(0.02, "compute", "params_total", np.log(1e20), 1.0, 3))
    kept.save(tmp_path / "fit.json")
    found = Fit.read(tmp_path / "fit.json")
    same(kept, found)
    assert str(found) == str(kept)
    table = {"params_total": [1e9, 7e10], "tokens": [2e10, 1e12]}
    assert found.predict(table).equals(kept.predict(table))
    assert found.allocate([1e22, 1e24]).equals(kept.allocate([1e22, 1e24]))
    assert np.array_equal(found.draws.points, kept.draws.points)
    assert set(found.plot.drawn()) == set(kept.plot.drawn())


def test_a_formula_with_bounds_is_kept_with_them(fitted, tmp_path):
    _, result = fitted
    law = formula_law("E + A*params**-a", "a=.1:.5", result.observations.frame.columns)
    kept = fit(law, result.observations.frame, point_only=True, audits=1)
    kept.save(tmp_path / "fit.json")
    found = Fit.read(tmp_path / "fit.json")
    same(kept, found)
    assert found.predict({"params_total": 1e9}).equals(kept.predict({"params_total": 1e9}))


def test_another_file_or_an_unknown_law_is_refused(fitted, tmp_path):
    _, result = fitted
    file = tmp_path / "fit.json"
    for text in ("", "{}", "[1]", '{"espalier fit": 99}', '{"espalier fit": 1, "law": 1, "x": {}}'):
        file.write_text(text)
        with pytest.raises(Refused, match="fit: got .*accepted: a file that Fit.save wrote"):
            Fit.read(file)
    with pytest.raises(Refused, match="accepted: a file that Fit.save wrote"):
        Fit.read(tmp_path / "nowhere.json")
    result.save(file)
    file.write_text(file.read_text().replace('"name": "over_training"', '"name": "older"'))
    with pytest.raises(Refused, match="law: got older; accepted: a law of this version"):
        Fit.read(file)
    with pytest.raises(Refused, match="a registered law or a formula"):
        replace(result, law=replace(result.law, name="mine")).save(file)


def test_a_table_of_pandas_goes_in_and_comes_out(fitted):
    _, result = fitted
    again = fit("over_training", result.observations.frame, draws=100)
    frame = again.to_frame()
    assert list(frame["parameter"]) == list(again.parameters)
    assert frame["low"].lt(frame["value"]).all() and frame["value"].lt(frame["high"]).all()
    assert again.parameters == result.parameters
