"""The study of the quantised share: its tree, its report on planted losses, and an exported run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import qat_ratio
from experiments.command import evaluate, export, sample
from experiments.evidence.report import Picture, Table, Text, write_report
from experiments.evidence.setup import Setup
from experiments.evidence.study import Results
from models import count
from scaling import Store, Worker, make_mesh, plan, tables
from scaling.interchange.opened import read
from tests.drawn import stumbles


@pytest.fixture(scope="module")
def config():
    return qat_ratio.get_config("cpu")


@pytest.fixture(scope="module")
def study(config):
    return qat_ratio.study(config)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_grid_is_what_was_asked_for(name):
    config = qat_ratio.get_config(name)
    assert len(config.widths) >= 3 and len(config.tokens) >= 2 and min(config.seeds) >= 1
    assert set(config.bits) >= {1, 2, 4, 6}
    assert min(config.fractions) == 0.05 and max(config.fractions) >= 0.7
    if name == "gpu":
        study = qat_ratio.study(config)
        assert max(count(run.model).params_total for run in plan(study.runs).runs) >= 30e6
        assert max(run.tokens for run in plan(study.runs).runs) >= 100e6


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_plan_takes_exactly_the_closed_form_of_its_tree(name):
    config = qat_ratio.get_config(name)
    shared = plan(qat_ratio.study(config).runs)
    assert shared.tokens == qat_ratio.planned_tokens(config) < 0.4 * shared.tokens_alone
    assert len({run.trunk for run in shared.runs}) == sum(config.seeds)


def test_a_run_has_equal_tokens_in_both_schedules(config, study):
    made = qat_ratio.trials(Setup(config, study.corpus))
    for schedule in ("classic", "fused"):
        tokens = {t.run.tokens for t in made if t.labels["schedule"] == schedule}
        assert tokens == set(config.tokens)
    kept = [t.run.model_at(-1).quantization for t in made]
    assert {q.bits for q in kept if q} == set(config.bits) and kept[0] is None


def planted(config, trials) -> pd.DataFrame:
    """Losses with an optimum near the published one, a gain of fusion by bits, and errors."""
    rng = np.random.default_rng(0)
    shared = {t.run.trunk: rng.normal(0, 0.01) for t in trials}
    rows = []
    for trial in trials:
        run, share = trial.run, trial.labels["fraction"]
        accounts = count(run.model_at(-1))
        params, quantised = accounts.params_total, run.model_at(-1).quantization
        loss = 1.2 + 40 * params**-0.4 + 60 * run.tokens**-0.35 + shared[run.trunk]
        bits = quantised.bits if quantised else 32
        if share:
            best = np.exp(-6.7297 / np.log(run.tokens / params / bits * 8))
            loss += 0.5 * 2.0**-bits + 0.02 * np.log(share / max(best, 0.02)) ** 2
            gain = {1: -0.01, 2: 0.0, 4: 0.01, 6: 0.01}[bits]
            loss -= gain * (trial.labels["schedule"] == "fused")
        loss += rng.normal(0, 0.001)
        rows.append(
            {
                "run": run.identity,
                "trunk": run.trunk,
                **trial.labels,
                "seed": run.seed,
                "width": run.model.width,
                "params_total": params,
                "bytes": accounts.bytes,
                "bits": float(bits),
                "tokens": run.tokens,
                "tokens_qat": round(run.tokens * share),
                "tokens_fp": run.tokens - round(run.tokens * share),
                "flops": run.flops(),
                "flops_6nd": 6 * params * run.tokens,
                "loss": loss,
                "loss_unquantised": loss + 0.1 if share else np.nan,
                "bits_per_byte": loss / np.log(2),
                "diverged_step": pd.NA,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def blocks(config, study):
    runs = planted(config, qat_ratio.trials(Setup(config, study.corpus)))
    runs.loc[30, ["loss", "diverged_step"]] = [np.nan, 17]
    return study.report(Results(config, plan(study.runs), study.corpus, runs, runs[:0]))


def table(blocks, name) -> pd.DataFrame:
    return next(b.frame for b in blocks if isinstance(b, Table) and b.name == name)


@pytest.mark.system
def test_the_report_finds_what_was_planted(blocks, config, study, tmp_path):
    write_report(tmp_path, study, config, blocks)
    text = (tmp_path / "report.md").read_text()
    assert "proves the machinery" in text and "equal to the closed form" in text
    assert "1 run diverged" in text
    fusion = table(blocks, "fusion").set_index("bits")["gain (% perplexity)"]
    np.testing.assert_allclose(fusion[[1, 2, 4, 6]], [-1.0, 0.0, 1.0, 1.0], atol=0.1)
    assert "]: lower than zero at equal" in text and "]: higher than zero at equal" in text
    best = table(blocks, "optima")
    known = best[best["90 % low"].notna()]
    near = known[known["published"] > 0.08]
    assert len(near) >= 8
    np.testing.assert_allclose(near["parabola"], near["published"], rtol=0.15)
    assert (near["90 % low"] < near["90 % high"]).all()
    # An optimum below the tested shares gets no interval.
    assert best[best["published"] < 0.04]["90 % low"].isna().all()
    held = table(blocks, "held_out").set_index(["held out", "prediction"])["median error (%)"]
    for name in held.index.unique(0):
        assert held[name]["QAT law"] < held[name]["Chinchilla without bits"]
    assert any("not to be quoted" in b.markdown for b in blocks if isinstance(b, Text))
    pictures = {b.name for b in blocks if isinstance(b, Picture)}
    assert stumbles(blocks) == {}
    assert pictures == {"penalty", "optimum", "fusion", "memory"}


@pytest.mark.system
def test_an_exported_run_is_what_was_trained_and_goes_on_after_a_prompt(
    study, config, tmp_path, capsys
):
    from safetensors.numpy import load_file

    small = qat_ratio.get_config("cpu")
    small.update(widths=(16,), seeds=(1,), tokens=(40_960,), bits=(2,), fractions=(0.5,))
    small.update(warmup_tokens=4096, evaluation_tokens=1024)
    tiny = qat_ratio.study(small)
    run = tiny.runs[-1].run
    store = Store.at(tmp_path / "runs")
    worker = Worker(
        plan([run]), store, tiny.corpus, tiny.evaluation, make_mesh("data:1"), keep_params=True
    )
    worker.run()
    out = tmp_path / "model.safetensors"
    export.write(store, None, run.identity, None, str(out))
    bytes_ = count(run.model_at(-1)).bytes
    assert f"{bytes_:,} bytes of tensors" in capsys.readouterr().out
    assert sum(x.nbytes for x in load_file(out).values()) == bytes_
    export.write(store, None, run.identity, None, str(tmp_path / "folder"), "hf")
    assert "opens with AutoModelForCausalLM" in capsys.readouterr().out
    packed, folder = read(out), read(tmp_path / "folder")
    assert folder.config == replace(packed.config, quantization=None)
    assert packed.tokenizer == folder.tokenizer is not None
    items = tmp_path / "words.jsonl"
    items.write_text(
        '{"context": "def f(x):", "choices": [" return", "\\n    return"], "answer": 1}\n'
    )
    for _ in range(2):  # The second time from the store.
        evaluate.evaluate(store, None, run.identity, None, [str(items)], False)
        said = capsys.readouterr().out
        assert said.startswith(f"{run.identity}  words: 1 items, chance 0.500, accuracy ")
    lines = [line for line in store.evals(run.identity) if "task" in line]
    assert len(lines) == 1
    table, _ = tables(worker.plan, store, tiny.corpus, tiny.evaluation)
    assert table["accuracy.words"].item() == lines[0]["accuracy"]["words"]
    assert table["answer_nats.words"].item() > 0 and table["loss"].notna().all()
    other = Store.at(tmp_path / "none")
    with pytest.raises(ValueError, match="--run: got .*one that was trained with --keep-params"):
        export.write(other, tiny, run.identity, None, str(out))
    with pytest.raises(ValueError, match="--run: got .*; accepted: a run that is in"):
        export.write(other, None, run.identity, None, str(out))
    sample.write(store, None, run.identity, None, prompt="def ", samples=2, tokens=8)
    said = capsys.readouterr().out
    assert said.count("\ndef ") == 2 and "--- 2, " in said and "after 8 tokens" in said
