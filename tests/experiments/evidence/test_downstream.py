"""The downstream half of a report: planted accuracies are predicted, chance is not kept."""

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.downstream import downstream


def planted() -> pd.DataFrame:
    """Losses by Chinchilla's form, and accuracies that are a sigmoid of them, or chance."""
    rng, rows = np.random.default_rng(0), []
    for params in (1e4, 2e4, 4e4, 8e4, 1.6e5):
        for tokens in (2e5, 4e5, 8e5, 1.6e6):
            loss = 1.0 + 40 / params**0.4 + 60 / tokens**0.4
            loss *= np.exp(rng.normal(0, 0.001))
            right = 0.25 + 0.75 / (1 + np.exp(4 * (loss - 1.9)))
            rows.append(
                {
                    "run": f"{params:g} {tokens:g}",
                    "trunk": f"{params:g}",
                    "params_total": params,
                    "params_non_embedding": params,
                    "tokens": tokens,
                    "flops": 6 * params * tokens,
                    "flops_6nd": 6 * params * tokens,
                    "loss": loss,
                    "accuracy.good": right + rng.normal(0, 0.004),
                    "chance.good": 0.25,
                    "items.good": 600.0,
                    "accuracy.guessed": 0.25 + rng.normal(0, 0.01),
                    "chance.guessed": 0.25,
                    "items.guessed": 600.0,
                    "accuracy.few": right,
                    "chance.few": 0.0,
                    "items.few": 499.0,
                }
            )
    return pd.DataFrame(rows)


def test_the_accuracy_of_larger_runs_is_predicted_through_the_loss():
    runs = planted()
    mask = (runs["params_total"] > 1e5).to_numpy()
    blocks = downstream(runs, mask, "chinchilla", "params_total")
    table = blocks[-1].frame.set_index("task")
    assert table["kept"].to_dict() == {"good": "yes", "guessed": "no", "few": "no"}
    good = table.loc["good"]
    assert good["law's error"] < 1.0 < good["baseline's error"]
    assert good["inside interval"] in ("3 of 4", "4 of 4")
    assert pd.isna(table.loc["few", "law's error"])
    assert "1 of 3 tasks are kept" in blocks[1].markdown
    assert "Not kept: guessed, few" in blocks[1].markdown
    largest = runs["accuracy.good"].iloc[-1]
    error = np.sqrt(0.25 * 0.75 / 600)
    assert good["standard errors above chance"] == pytest.approx((largest - 0.25) / error)


def test_without_tasks_there_is_no_such_half():
    runs = planted()
    plain = runs[[name for name in runs if "." not in name]]
    mask = (runs["params_total"] > 1e5).to_numpy()
    assert downstream(plain, mask, "chinchilla", "params_total") == []
    runs.loc[mask, "accuracy.few"] = np.nan
    assert downstream(runs, mask, "chinchilla", "params_total") == []
