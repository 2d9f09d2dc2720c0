"""The leverage study: arms of equal compute, and leverage that was planted."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from experiments import moe_leverage as module
from experiments.evidence.report import Picture, Table, Text
from experiments.evidence.setup import Setup
from models import Experts, count
from models.accounting import leverage_flops
from scaling import plan
from tests.drawn import stumbles

CORPUS = SimpleNamespace(name="bytes", content_hash="0", vocabulary=256)


@pytest.fixture(scope="module")
def config():
    return module.get_config("cpu")


def test_arms_span_four_activation_ratios_and_three_granularities_at_equal_compute(config):
    arms = module.arms(config)
    mixtures = [e for e in arms.values() if e]
    assert len({e.activation_ratio for e in mixtures if e.granularity == 2}) >= 4
    fine = mixtures[-1].activation_ratio
    assert len({e.granularity for e in mixtures if e.activation_ratio == fine}) >= 3
    for width in config.widths:
        models = {n: module.model(Setup(config, CORPUS), width, e) for n, e in arms.items()}
        assert len({leverage_flops(m) for m in models.values()}) == 1
        router = lambda m: 6 * m.depth * m.width * getattr(m.feed_forward, "routed", 0)
        exact = {count(m).flops_train_body - router(m) for m in models.values()}
        assert len(exact) == 1  # The convention leaves out the router, and nothing else differs.
        total = [count(m).params_non_embedding for m in models.values()]
        assert max(total) > 4 * total[0] == 4 * min(total)


def test_both_sides_sweep_the_learning_rate_and_share_runs_with_the_ladders(config):
    trials = module.sweep(Setup(config, CORPUS))
    assert {t.labels["arm"] for t in trials} == {"dense", "A 0.176, G 2"}
    assert len({t.labels["rate"] for t in trials}) >= 3
    ladders = {t.run.identity for t in module.grid(Setup(config, CORPUS))}
    used = lambda labels: config.rates[labels["arm"] != "dense"]
    both = {t.run.identity for t in trials if t.labels["rate"] == used(t.labels)}
    assert both and both <= ladders


def test_an_accelerator_reaches_1e17_flops_a_run_and_the_published_ladder_its_compute():
    gpu = module.get_config("gpu")
    largest = module.model(Setup(gpu, CORPUS), max(gpu.widths), None)
    assert leverage_flops(largest) * max(gpu.tokens) >= 1e17
    config = module.get_config("published")
    corpus = SimpleNamespace(**vars(CORPUS) | {"vocabulary": 126_464})
    for width, row in module.TABLE_7.items():
        for experts in (None, module.experts_at(256, 2), module.experts_at(64, 16)):
            model = module.model(Setup(config, corpus), width, experts)
            _, (tokens,), _ = module.lengths(config, width, model)
            assert leverage_flops(model) * tokens == pytest.approx(row[-1], rel=1e-3)
    trials = module.grid(Setup(config, corpus))
    assert len({t.run.identity for t in trials}) == len(module.arms(config)) * len(module.TABLE_7)
    # arXiv:2507.17702, section 5.1: (E, k, E_s) = (512, 16, 8) at G = 16.
    finest = module.experts_at(64, 16)
    assert (finest.routed, finest.active, finest.shared) == (512, 16, 8)


def shape(model) -> dict[str, float]:
    """The table's columns of a feed-forward's mixture."""
    experts = model.feed_forward
    if not isinstance(experts, Experts):
        return {"activation_ratio": 1.0, "granularity": 2 / 3}
    columns = ("activation_ratio", "granularity")
    return {name: getattr(experts, name) for name in columns}


def planted(config, gains: dict[str, float]) -> pd.DataFrame:
    """A run table in which every arm's loss is that of `gain` times its compute."""
    rng = np.random.default_rng(0)
    rows = []
    grid, swept = module.grid(Setup(config, CORPUS)), module.sweep(Setup(config, CORPUS))
    shared = plan([*grid, *swept])
    labels = lambda run: shared.cells(shared.segments[run.identity])
    for item in grid:
        run, arm = item.run, item.labels["arm"]
        compute = leverage_flops(run.model) * run.tokens
        loss = 20 * (compute * gains[arm]) ** -0.08 * np.exp(0.001 * rng.standard_normal())
        row = dict(run=run.identity, trunk=run.trunk, **labels(run), seed=run.seed)
        row["tokens"] = run.tokens
        row |= dict(width=run.model.width, experts=4, diverged_step=None, loss=loss)
        row |= shape(run.model)
        routing = {"router.dropped": 0.0, "router.load": 1.0, "router.entropy": 1.0}
        rows.append(row | {"flops": float(count(run.model).flops_train * run.tokens)} | routing)
    for item in swept:
        row = dict(rows[0], run=item.run.identity, seed=item.run.seed)
        rows.append(row | labels(item.run) | {"loss": 3 + abs(item.labels["rate"] - 1)})
    return pd.DataFrame(rows).drop_duplicates("run")


def test_planted_leverage_is_measured_inside_its_intervals(config):
    arms = module.arms(config)
    gains = {arm: 1.0 if e is None else 2.0 + e.granularity / 4 for arm, e in arms.items()}
    runs = planted(config, gains)
    blocks = module.report(SimpleNamespace(config=config, corpus=CORPUS, runs=runs))
    assert stumbles(blocks) == {}
    tables = {b.name: b.frame for b in blocks if isinstance(b, Table)}
    found = tables["leverage"]
    truth = found["arm"].map(gains)
    np.testing.assert_allclose(found["EL"], truth, rtol=0.12)
    inside = (found["90 % low"] <= truth) & (truth <= found["90 % high"])
    assert inside.mean() > 0.7
    assert (found["90 % low"] > 1).all() and (found["published law"] < 1).all()
    assert {b.name for b in blocks if isinstance(b, Picture)} == {"leverage", "curves"}
    text = " ".join(b.markdown for b in blocks if isinstance(b, Text))
    assert "throughout it is higher than 1 for 6 of 6 mixtures" in text
    assert tables["rates"]["in use"].tolist() == list(config.rates)
