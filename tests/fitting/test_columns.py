"""The columns that laws read, and numbers taken out of a table."""

import numpy as np
import pytest

from fitting.columns import COLUMNS, COUNTS, POSITIVE, TEXTS, finite, numbers, unit
from refused import Refused


def test_units_of_families():
    assert unit("loss.c4") == COLUMNS["loss."] and unit("nonsense") is None
    assert {*COUNTS, *POSITIVE, *TEXTS} <= set(COLUMNS)


def test_numbers_may_be_missing_and_finite_ones_may_not():
    assert np.isnan(numbers(["1", None], "x")[1]) and list(finite(["1", 2.5], "x")) == [1, 2.5]
    for values, told in ((["1", "b"], "got b"), ([1.0, np.nan], "1 empty"), ([np.inf], "got inf")):
        with pytest.raises(Refused, match=told):
            finite(values, "x")
