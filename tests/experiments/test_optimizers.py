"""The study of optimizers: rounds on planted losses, what is found there, and one that trains."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from experiments import optimizers as module
from experiments.command import session
from experiments.evidence import claim
from experiments.evidence.descent import neighbours
from experiments.evidence.report import Table, Text
from experiments.evidence.study import Results
from models import count
from refused import Refused
from scaling import plan
from scaling.labels import joined
from scaling.optimizers import OPTIMIZERS
from tests.drawn import stumbles

# Planted: tokens that an arm is worth over AdamW's, by width.
FACTORS = {"adamw": lambda width: 1.0, "muon": lambda width: 1.3, "lion": lambda width: 28 / width}


def config(**values) -> ConfigDict:
    return ConfigDict(module.get_config("cpu").to_dict() | values)


def loss(run, name: str) -> float:
    """A curve in tokens with a bowl in rate and decay around twice the ladder's rate."""
    optimizer, width = run.optimizer, run.model.width
    reference = module.START_RATES.get(name, 1.0) * module.learning_rate(width)
    bowl = 0.02 * np.log2(optimizer.learning_rate / reference / 2) ** 2
    off = 0.0 if name != "muon" else abs(optimizer.momentum - 0.9)
    noise = 1e-4 * np.random.default_rng([run.seed, width, run.tokens]).standard_normal()
    tokens = run.tokens * FACTORS[name](width)
    return 1.5 + 0.3 * 16 / width + 60 * tokens**-0.35 + bowl + 0.1 * off + noise


def results(asked: ConfigDict, study) -> Results:
    """The run table of a study, as if it had been trained."""
    planned = plan(study.runs)
    rows = []
    for run in planned.runs:
        sets = planned.labels[run.identity]
        labels = {name: joined(sets, name) for name in planned.label_names}
        row = {"run": run.identity, **labels, "seed": run.seed, "width": run.model.width}
        row |= {"params_total": count(run.model).params_total, "tokens": run.tokens}
        row |= {"flops": run.tokens * count(run.model).flops_train}
        row |= {"loss": loss(run, sets[0]["arm"]), "diverged_step": pd.NA, "batch_tokens": 1024}
        rows.append(row | {"tokens_per_second": 2e5 if sets[0]["arm"] == "adamw" else 1e5})
    table = pd.DataFrame(rows)
    return Results(asked, planned, study.corpus, table, table[:0])


@pytest.fixture(scope="module")
def ended():
    """A study whose rounds are over, and how many there were."""
    asked = config(optimizers=tuple(FACTORS))
    study, rounds = module.study(asked), 0
    while True:
        known = {(i.run.identity, *sorted(i.labels.items())) for i in study.runs}
        asked_for = study.then(results(asked, study))
        new = [i for i in asked_for if (i.run.identity, *sorted(i.labels.items())) not in known]
        if not new:
            return asked, study, rounds
        study, rounds = replace(study, runs=(*study.runs, *new)), rounds + 1


def test_the_descents_end_at_the_planted_settings_with_every_neighbour_run(ended):
    asked, study, rounds = ended
    design, ended_at = module.Design.of(asked), results(asked, study)
    assert 3 <= rounds <= 6
    every = design.tuned(design.losses(ended_at))
    for name, tuned in every.items():
        assert tuned.first.certified and min(tuned.first.excess) > -asked.margin
        assert set(tuned.points) == set(design.cells(name))
        ratio = 2 * module.START_RATES.get(name, 1.0)
        assert {point["rate"] for point in tuned.points.values()} == {ratio}
    assert every["muon"].first.point["momentum"] == 0.9
    trained = {item.run.identity for item in study.runs}
    for name, tuned in every.items():
        for point in neighbours(design.grid(name), tuned.first.point):
            assert design.run(name, design.first, point, 0).identity in trained


def test_settings_are_arrays_so_that_a_neighbour_is_the_same_program(ended):
    _, study, _ = ended
    programs = {(item.labels["arm"], item.run.recipe.static) for item in study.runs}
    assert len(programs) == len(FACTORS) * 2  # One per optimizer and width.


def test_the_report_finds_the_planted_speed_ups_and_their_trend(ended):
    asked, study, _ = ended
    blocks = study.report(results(asked, study))
    assert stumbles(blocks) == {}
    tables = {block.name: block.frame for block in blocks if isinstance(block, Table)}
    ups = tables["speed_ups"].set_index(["arm", "width"])
    for width in asked.widths:
        assert ups.loc[("muon", width), "in tokens"] == pytest.approx(1.3, rel=0.05)
        assert ups.loc[("muon", width), "in time"] == pytest.approx(0.65, rel=0.05)
        assert ups.loc[("lion", width), "pooled"] == pytest.approx(28 / width, rel=0.05)
        assert ups.loc[("lion", width), "state (bytes/parameter)"] == pytest.approx(4, rel=0.02)
        assert 0 < ups.loc[("muon", width), "step (% of FLOPs)"] < 100
        pinned = tables["effective"].set_index(["arm", "width"]).loc[("muon", width)]
        assert pinned["effective speed-up"] == pytest.approx(1.3, rel=0.05)
        assert pinned[claim.LOW] < 1.3 < pinned[claim.HIGH]
        losses = tables["losses"].query("arm == 'muon' and width == @width")
        assert [*losses["multiplier"]] == [*asked.multipliers] and set(losses["seeds"]) == {2}
    trend = tables["trend"].set_index("arm")
    slope = np.log(0.5) / np.log(41632 / 14928)
    assert trend.loc["lion", "slope"] == pytest.approx(slope, rel=0.1)
    assert set(tables["settings"]["certified"]) == {"yes"}
    text = next(block.markdown for block in blocks if isinstance(block, Text))
    assert "**muon, width 32**: 1.300 [" in text and "]: higher than 1." in text
    assert "Not tuned yet: none" in text


def test_before_the_descents_are_over_the_report_says_so():
    asked = config(optimizers=("adamw", "muon"))
    study = module.study(asked)
    text, table = study.report(results(asked, study))
    assert "Not tuned yet: adamw, muon" in text.markdown
    assert set(table.frame["certified"]) == {"no"}


def test_rates_of_extrapolated_widths_follow_the_power_law_of_the_others():
    asked = config(optimizers=("adamw",), widths=(16, 24, 32), extrapolated=1)
    design = module.Design.of(asked)
    params = lambda width: count(design.model(width)).params_total
    peak = lambda c: 0.3 * params(c[0]) ** -0.4 * c[1] ** -0.1
    known = {
        cell: {"rate": peak(cell) / module.learning_rate(cell[0]), "b1": 0.9}
        for cell in design.cells("adamw")
        if cell[0] < 32
    }
    points = design.extended("adamw", known)
    assert points.keys() == {*design.cells("adamw")}
    for cell, point in points.items():
        assert point["rate"] * module.learning_rate(cell[0]) == pytest.approx(peak(cell))


def test_the_plan_meets_what_was_asked_for_and_every_optimizer_has_a_grid():
    cpu, gpu = module.get_config("cpu"), module.get_config("gpu")
    assert len(cpu.optimizers) >= 6 and {16, 32} <= {*cpu.widths} and cpu.seeds >= 2
    assert {20, 40} <= {*cpu.multipliers} and len(cpu.baseline) >= 4
    assert module.GRIDS.keys() == OPTIMIZERS.keys()
    study = module.study(gpu)
    assert max(count(item.run.model).params_total for item in study.awaited) >= 1e8
    for name in OPTIMIZERS:
        design = module.Design.of(config(optimizers=("adamw", name)))
        assert len([*neighbours(design.grid(name), design.start(name))]) >= 4
        design.run(name, design.first, design.start(name), 0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (dict(optimizers=("adamw", "sgd")), "optimizer: got sgd; accepted: one of adamw"),
        (dict(optimizers=("muon",)), "config.optimizers: got .* accepted: adamw among them"),
        (dict(tuned_at=30), "config.tuned_at: got 30"),
        (dict(extrapolated=2), "config.extrapolated: got 2"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(values, told):
    with pytest.raises(Refused, match=told):
        module.study(config(**values))


@pytest.mark.system
def test_one_command_trains_all_rounds_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "RATES", (0.5, 1.0))
    monkeypatch.setattr(module, "DECAYS", (1.0,))
    monkeypatch.setattr(module, "GRIDS", {"adamw": {}, "sinkgd": {"adam_rate": (1.0,)}})
    asked = config(
        optimizers=("adamw", "sinkgd"),
        widths=(8,),
        baseline=(1, 2, 4, 8),
        multipliers=(1, 2, 4),
        tuned_at=2,
        seeds=1,
        margin=0.05,
        batch_tokens=256,
        context=32,
        warmup_tokens=512,
        evaluation_tokens=512,
    )
    settings = session.Settings(store=str(tmp_path), mesh="data:1")
    study = module.study(asked)
    session.plan(study, asked, settings)
    said = capsys.readouterr().out
    assert "then: " in said and "runs that follow from the losses of these" in said
    session.run(study, asked, settings)
    assert capsys.readouterr().out.count("to train") >= 3  # A round after the other.
    whole = session.grown(study, asked, settings)
    assert whole.then is None and len(whole.runs) > len(study.runs)
    text = (tmp_path / "studies" / "optimizers-cpu" / "report.md").read_text()
    assert "Not tuned yet: none" in text and "| sinkgd |" in text
    assert "are not in the store" not in text
