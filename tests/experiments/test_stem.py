"""The STEM study: arms that match, and a report that says what planted losses are."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from experiments import stem
from experiments.evidence.report import Picture, Table, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import Results
from models import Stem, count
from scaling import plan
from tests.drawn import stumbles


@pytest.fixture(scope="module")
def config(corpus):
    config = stem.get_config("cpu")
    config.corpus = str(next(iter(corpus.domains.values())).folder)
    config.mixture = "low=1"
    config.tokens, config.warmup_tokens, config.evaluation_tokens = 20_480, 5_120, 1024
    return config


@pytest.fixture(scope="module")
def study(config):
    return stem.study(config)


def of_size(preset: str, vocabulary: int) -> Setup:
    """A preset's setup on a corpus that has nothing but a vocabulary."""
    return Setup(stem.get_config(preset), SimpleNamespace(vocabulary=vocabulary))


@pytest.mark.parametrize(("preset", "vocabulary"), [("cpu", 4096), ("gpu", 4096)])
def test_every_stem_arm_has_a_dense_one_of_its_active_and_one_of_its_total_params(
    preset, vocabulary
):
    arms = stem.arms(of_size(preset, vocabulary))
    sizes = {name: count(model) for name, model in arms.items()}
    assert list(arms) == [
        "dense",
        *stem.NAMES.values(),
        *(stem.counterpart(name) for name in stem.NAMES.values()),
    ]
    for name in stem.NAMES.values():
        wide = sizes[stem.counterpart(name)]
        assert sizes[name].params_active == pytest.approx(sizes["dense"].params_active, rel=2e-3)
        assert sizes[name].params_total == pytest.approx(wide.params_total, rel=2e-3)
        assert wide.params_active == wide.params_total > 2 * sizes["dense"].params_total
    layers = [arms[name].feed_forward.chosen(arms[name].depth) for name in stem.NAMES.values()]
    assert len(set(layers)) == 3
    assert stem.arms(of_size(preset, vocabulary)) == arms


def test_the_published_plan_is_the_published_model():
    arms = stem.arms(of_size("published", 128_256))
    assert arms["STEM 1/3"].feed_forward == Stem("third", lazy=False)
    assert round(count(arms["STEM 1/3"]).params_active / 1e6, 1) == 1414.6
    assert round(count(arms["STEM 1/3"]).params_total / 1e6, 1) == 6668.0
    assert round(count(arms["dense"]).params_total / 1e6, 1) == 1498.5


def test_every_arm_is_trained_at_three_rates_or_more_with_three_seeds(study, config):
    assert len(config.rates) >= 3
    assert len(study.runs) == 7 * 3 * len(config.rates)
    assert {item.run.tokens for item in study.runs} == {config.tokens}
    rates = {(item.run.model, item.run.optimizer.learning_rate) for item in study.runs}
    assert len(rates) == 7 * len(config.rates)


def test_rows_read_are_the_tokens_of_the_run(study):
    run = study.runs[0].run
    seen = stem.rows_read(study.corpus, run)
    assert seen.shape == (256,) and seen.sum() == run.tokens
    # The domain's letters, and the separator.
    assert set(np.flatnonzero(seen)) <= {0, *range(40, 64)}
    assert seen[40:64].min() > 0


def planted(study, config, shifts: dict[str, float]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for trial in study.runs:
        accounts, run = count(trial.run.model), trial.run
        labels = trial.labels
        lift = shifts.get(labels["arm"], 0.0) + 0.3 * np.log(labels["rate"] / 1.5) ** 2
        rows.append(
            {
                "run": run.identity,
                **labels,
                "seed": run.seed,
                "params_total": accounts.params_total,
                "params_non_embedding": accounts.params_non_embedding,
                "params_active": accounts.params_active,
                "tokens": run.tokens,
                "flops": run.flops(),
                "tokens_per_second": 1e4,
                "bits_per_byte": 2 + lift + 0.1 * run.seed + rng.normal(0, 1e-3),
                "diverged_step": pd.NA,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """Lets a model train at a thousand million active params a second."""
    pace = lambda recipe, batch_tokens: 1e9 / count(recipe.model).params_active
    monkeypatch.setattr(stem, "measure", pace)


def blocks(study, config, runs):
    results = Results(config, plan(study.runs), study.corpus, runs, pd.DataFrame())
    return stem.report(results)


def test_the_report_says_which_side_is_better_at_equal_active_and_at_equal_total_params(
    study, config
):
    shifts = {"STEM 1/3": -0.05, "STEM 1/2": 0.05, "dense, total of 1/3": -0.1}
    written = blocks(study, config, planted(study, config, shifts))
    assert stumbles(written) == {}
    tables = {block.name: block.frame for block in written if isinstance(block, Table)}
    verdicts = tables["differences"].set_index("arm")["verdict"]
    assert verdicts["STEM 1/3"] == "lower" and verdicts["STEM 1/2"] == "higher"
    total = tables["total"].set_index("arm")
    assert total.loc["STEM 1/3", "verdict"] == "higher"
    assert total.loc["STEM 1/3", "difference (bits per byte)"] == pytest.approx(0.05, abs=0.003)
    assert (total["FLOPs, dense over STEM"] > 1).all()
    costs = tables["cost"].set_index("arm")
    assert costs.loc["dense", "time ratio"] == 1
    ratio = costs["params_active"] / costs.loc["dense", "params_active"]
    np.testing.assert_allclose(costs["time ratio"], ratio)
    assert tables["rows"]["rows"].sum() == 256
    assert tables["rows"]["of training tokens (%)"].sum() == pytest.approx(100)
    assert tables["rows"]["of held-out tokens (%)"].sum() == pytest.approx(100)
    assert sum(isinstance(block, Picture) for block in written) == 2


def test_an_arm_that_diverged_everywhere_is_reported_as_such(study, config):
    runs = planted(study, config, {})
    runs.loc[runs["arm"] == "dense, total of 1/2", ["diverged_step", "bits_per_byte"]] = [5, np.nan]
    written = blocks(study, config, runs)
    text = "\n".join(block.markdown for block in written if isinstance(block, Text))
    assert "**STEM 1/2**: not trained, or diverged at every rate" in text
    tables = {block.name: block.frame for block in written if isinstance(block, Table)}
    assert list(tables["total"]["arm"]) == ["STEM 1/3", "STEM all but first"]
