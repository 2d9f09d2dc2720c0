"""Which laws a page has."""

from types import SimpleNamespace

import pytest

from fitting import LAWS
from fitting.explorer import fits
from fitting.options import Options
from refused import Refused
from tests.fitting.explorer.planted import fit_of, runs

SIX = ["skaling", "kaplan", "chinchilla", "data", "farseer", "sparsity"]


@pytest.fixture
def choice(monkeypatch):
    """Six laws judged without judging; fits are planted, and one law cannot be fitted."""
    found = SimpleNamespace(
        ranking=SIX,
        left_out={"qat": "too few runs"},
        rolled=None,
        direction="compute",
        distance=1.0,
    )

    def planted(law, obs, options):
        if law.name == "kaplan":
            raise Refused("runs", 3, "6 for 4 parameters")
        return fit_of(law, obs)

    monkeypatch.setattr(fits, "choose", lambda laws, obs, options: found)
    monkeypatch.setattr(fits, "extrapolating", lambda result, *how: result)
    monkeypatch.setattr(fits, "fit", planted)


def test_auto_takes_the_five_best_and_says_what_it_leaves_out(choice):
    found, told = fits.judged([], runs(), Options())
    assert [result.law.name for result in found] == ["skaling", "chinchilla", "data", "farseer"]
    assert told == [
        "left out, qat: too few runs",
        "left out, kaplan: runs: got 3; accepted: 6 for 4 parameters",
    ]


def test_named_laws_are_all_there_and_none_is_refused(choice):
    found, _ = fits.judged([LAWS[name] for name in SIX], runs(), Options())
    assert len(found) == 5


def test_laws_of_which_none_can_be_fitted_are_refused(choice, monkeypatch):
    def never(law, obs, options):
        raise Refused("runs", 3, "more")

    monkeypatch.setattr(fits, "fit", never)
    with pytest.raises(Refused, match="left out, data: runs: got 3; accepted: more"):
        fits.judged([LAWS[name] for name in SIX], runs(), Options())
