"""Mixtures: the target's loss, and what is said of predictors and proposals."""

import pandas as pd

from experiments.evidence.mixtures import predicted_text, target_loss


def test_a_weighted_target_weighs_its_domains():
    runs = pd.DataFrame({"loss.code": [1.0], "loss.docs": [2.0], "bits_per_byte.code": [3.0]})
    assert target_loss(runs, {"code": 0.25, "docs": 0.75})[0] == 1.75
    assert target_loss(runs, {"code": 1.0}, "bits_per_byte")[0] == 3.0


def test_predictors_are_told_apart_by_the_interval_of_their_difference():
    rows = [
        ("law", 0.9, 0.0, 0.0, 0.0),
        ("a", 0.8, -0.1, -0.2, -0.05),
        ("b", 0.91, 0.01, -0.1, 0.1),
    ]
    names = ["predictor", "spearman", "difference", "difference_low", "difference_high"]
    text = predicted_text(pd.DataFrame(rows, columns=names), "law")
    assert "`law` ranks the proxies with 0.900" in text
    assert "- **a**: 0.800, -0.100 [-0.200, -0.050]: lower than law." in text
    assert "- **b**: 0.910, +0.010 [-0.100, +0.100]: not resolved." in text
