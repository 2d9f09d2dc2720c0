"""The learning-rate study: optima of planted curves."""

import numpy as np
import pandas as pd
import pytest

from experiments import learning_rate
from experiments.learning_rate import Curve, best_rates, one_rate_cost
from refused import Refused
from scaling import AdamW, Muon

RATES = np.array([0.004, 0.008, 0.016, 0.032, 0.064])


def curve(best, depth=0.05):
    return 2.0 + depth * np.log(RATES / best) ** 2


def test_the_vertex_of_a_parabola_is_found_and_kept_inside():
    assert Curve(RATES, curve(0.02)).best() == pytest.approx(0.02, rel=1e-3)
    assert Curve.of(pd.Series(curve(0.011)[::-1], RATES[::-1])).best() == pytest.approx(
        0.011, rel=1e-3
    )
    assert Curve(RATES, curve(0.0001)).best() == pytest.approx(RATES[0])
    assert RATES[0] < Curve(RATES, np.array([2.0, 1.0, 2.0, 1.5, 3.0])).best() < RATES[3]


def test_the_excess_of_a_rate_is_read_off_the_parabola():
    assert Curve(RATES, curve(0.02)).excess(0.02) == pytest.approx(0, abs=1e-4)
    expected = 100 * 0.05 * np.log(0.03 / 0.02) ** 2 / 2.0
    assert Curve(RATES, curve(0.02)).excess(0.03) == pytest.approx(expected, rel=1e-2)


def test_losses_between_rates_are_interpolated():
    assert Curve(RATES, curve(0.016)).at(0.016) == pytest.approx(2.0)
    low, high = curve(0.016)[2:4]
    assert low < Curve(RATES, curve(0.016)).at(0.022) < high


def test_one_rate_for_all_budgets_lies_between_theirs_and_costs_little():
    rows = [
        {"width": 16, "tokens": tokens, "learning_rate": rate, "loss": loss}
        for tokens, best in ((1, 0.012), (2, 0.020))
        for rate, loss in zip(RATES, curve(best), strict=True)
    ]
    runs = pd.DataFrame(rows)
    choice = best_rates(runs)
    assert 0.012 < choice["learning_rate"].item() < 0.020
    assert one_rate_cost(runs, choice)["excess (%)"].max() < 1.0


def test_the_rates_of_another_optimizer_are_asked_for_by_its_name(corpus):
    config = learning_rate.get_config("cpu")
    config.corpus = str(next(iter(corpus.domains.values())).folder)
    runs = {}
    for config.optimizer in ("adamw", "muon"):
        runs[config.optimizer] = [item.run for item in learning_rate.study(config).runs]
    pairs = list(zip(runs["adamw"], runs["muon"], strict=True))
    for ours, other in pairs:
        kinds = type(ours.optimizer), type(other.optimizer)
        assert kinds == (AdamW, Muon) and ours.identity != other.identity
        assert ours.optimizer.learning_rate == other.optimizer.learning_rate
    config.optimizer, config.update_ladder = "muon", True
    with pytest.raises(Refused, match="config.optimizer: got muon; accepted: adamw where the lad"):
        learning_rate.study(config)
    config.optimizer = "sgd"
    with pytest.raises(Refused, match="optimizer: got sgd; accepted: one of adamw, lion, muon"):
        learning_rate.study(config)
