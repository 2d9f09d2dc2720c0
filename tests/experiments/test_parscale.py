"""The study of streams: its arms cost what they say, and its report on planted losses."""

import numpy as np
import pandas as pd
import pytest

from experiments import parscale
from experiments.evidence.report import Table, write_report
from experiments.evidence.study import Results
from models import count
from scaling import KeepStreams, plan
from tests.drawn import stumbles

K = 0.4


@pytest.fixture(scope="module")
def config():
    return parscale.get_config("cpu")


@pytest.fixture(scope="module")
def study(config):
    return parscale.study(config)


@pytest.fixture(scope="module")
def bench(study, config):
    return parscale.Bench(config, study.corpus)


def test_arms_cost_what_their_names_say(bench, config):
    arms = {name: build(1.0, 0) for name, build in parscale.scratch_arms(bench).items()}
    most = arms["4 streams"]
    wide, long = arms["1 stream, FLOPs of 4: wider"], arms["1 stream, FLOPs of 4: longer"]
    size = lambda run: count(run.model).params_non_embedding
    assert size(arms["1 stream, params of 4"]) == pytest.approx(size(most), rel=0.01)
    assert wide.tokens == most.tokens and wide.flops() == pytest.approx(most.flops(), rel=0.1)
    assert long.model == arms["1 stream"].model
    assert long.flops() == pytest.approx(most.flops(), rel=0.01)


def test_the_grid_is_swept_on_both_sides_with_seeds_at_the_main_width(study, config):
    grid = [item for item in study.runs if item.labels["role"] == "grid"]
    cells = {(t.run.model.width, t.run.model.stream_count) for t in grid}
    assert cells == {(w, p) for w in config.widths for p in config.streams}
    assert len(config.widths) >= 3 and len(config.streams) >= 3
    assert len(config.rates) >= 3 and config.seeds >= 3
    for arm in {t.labels["arm"] for t in grid}:
        rates = {t.labels["rate"] for t in grid if t.labels["arm"] == arm}
        assert rates == set(config.rates)


def test_second_stages_share_the_first_with_one_stream(study, config):
    first = [
        item for item in study.runs if item.labels["rate"] == config.rates[0] and item.run.seed == 0
    ]
    one = next(item.run for item in first if item.labels["arm"] == "1 stream")
    staged = [item.run for item in first if item.labels["role"] == "staged"]
    assert len(staged) == 3
    for run in staged:
        assert run.until(0).identity == one.until(0).identity
        assert run.tokens == one.tokens
    shared = plan(study.runs)
    assert shared.tokens < 0.7 * shared.tokens_alone


def planted(study, config) -> pd.DataFrame:
    """Losses that follow the law with k = 0.4, lowest at the middle rate."""
    shared, rows = plan(study.runs), {}
    for run in shared.runs:
        model, labels = run.model_at(-1), shared.cells(shared.segments[run.identity])
        accounts = count(model)
        effective = accounts.params_non_embedding * (1 + K * np.log(model.stream_count))
        kept = isinstance(run.phases[-1].change, KeepStreams)
        loss = 1.0 + (5e4 / effective) ** 0.3 + 0.1 * np.log(labels["rate"]) ** 2 + 0.05 * kept
        rows[run.identity] = {
            "run": run.identity,
            "trunk": run.trunk,
            **labels,
            "seed": run.seed,
            "width": model.width,
            "streams": model.stream_count,
            "params_total": accounts.params_total,
            "params_non_embedding": accounts.params_non_embedding,
            "tokens": run.tokens,
            "flops": run.flops(),
            "loss": loss * np.exp(np.random.default_rng(len(rows)).normal(0, 1e-4)),
            "bits_per_byte": loss / np.log(2),
            "tokens_per_second": 1e4,
            "diverged_step": pd.NA,
        }
    return pd.DataFrame(rows.values())


def test_the_report_finds_the_planted_law_and_names_every_arm(study, config, tmp_path):
    runs = planted(study, config)
    blocks = study.report(Results(config, plan(study.runs), study.corpus, runs, runs[:0]))
    assert stumbles(blocks) == {}
    write_report(tmp_path, study, config, blocks)
    text = (tmp_path / "report.md").read_text()
    table = next(b.frame for b in blocks if isinstance(b, Table) and b.name == "fit")
    found = table.set_index("parameter")["value"]
    assert found["k"] == pytest.approx(K, rel=0.1)
    assert "published: 0.3935 (Stack-V2-Python), 0.3345 (Pile)" in text
    for arm in (*parscale.scratch_arms(parscale.Bench(config, study.corpus)), "second stage"):
        assert f"| {arm} |" in text
    kept = next(b.frame for b in blocks if isinstance(b, Table) and b.name == "kept")
    assert list(kept["trained"]) == ["4 streams", "second stage", "second stage, backbone frozen"]
    assert kept["1 kept"].isna().tolist() == [False, False, True]
    assert (kept["2 kept"] > kept["all 4 streams"]).all()
