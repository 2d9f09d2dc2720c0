"""Identities, phases and rates."""

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from data import Mixture
from models import ModelConfig
from refused import Refused
from scaling import (
    AdamW,
    ContextLength,
    Data,
    Freeze,
    Phase,
    Rate,
    Run,
    constant,
    decay,
    runs,
    warmup,
    wsd,
)
from scaling.runs import canonical, is_default

IDENTITIES = Path(__file__).with_name("identities.json")

DATA = Data(corpus="reference", content="0" * 64, mixture=Mixture.of({"code": 0.5, "docs": 0.5}))


def reference_runs() -> dict[str, Run]:
    """Twenty runs whose identities must never change by accident."""
    base = Run(
        model=ModelConfig(),
        data=DATA,
        optimizer=AdamW(learning_rate=0.01),
        seed=0,
        phases=wsd(102_400, 1024, 10_240),
    )
    vary = lambda **fields: replace(base, **fields)
    model = lambda **fields: vary(model=replace(base.model, **fields))
    phases = lambda *extra: vary(phases=(*base.phases, *extra))
    tail = Phase(10_240, 1024, decay("cosine"))
    return {
        "base": base,
        "seed": vary(seed=1),
        "width": model(width=128),
        "depth": model(depth=4),
        "grouped": model(heads=4, kv_heads=2),
        "qk_norm": model(qk_norm=True),
        "tied": model(tied=True),
        "gelu": model(feed_forward="gelu"),
        "documents": model(separator=0),
        "bfloat16": model(dtype="bfloat16"),
        "rate": vary(optimizer=AdamW(learning_rate=0.02)),
        "decay": vary(optimizer=AdamW(learning_rate=0.01, weight_decay=0.1)),
        "clip": vary(optimizer=AdamW(learning_rate=0.01, clip=0.5)),
        "mixture": vary(data=replace(DATA, mixture=Mixture.of({"code": 1.0}))),
        "longer": vary(phases=wsd(204_800, 1024, 10_240)),
        "cosine": phases(tail),
        "anneal": phases(replace(tail, mixture=Mixture.of({"docs": 1.0}))),
        "freeze": phases(replace(tail, change=Freeze("layers.0.*"))),
        "context": phases(replace(tail, change=ContextLength(128))),
        "reset": phases(replace(tail, keep_optimizer=False)),
    }


def test_identities_of_the_reference_runs_have_not_changed():
    # These ids name what is in people's stores. If a change of numbers is meant, raise NUMERICS of
    # the package that changed, then `python -m tests.golden`.
    found = {name: run.identity for name, run in reference_runs().items()}
    assert found == json.loads(IDENTITIES.read_text())
    assert len(set(found.values())) == 20


def test_only_runs_whose_layers_are_scanned_have_the_identity_of_stacked_ones(monkeypatch):
    base = reference_runs()["base"]

    def identities():
        models = (replace(base.model, depth=depth) for depth in (12, 13))
        return [replace(base, model=model).identity for model in models]

    before = identities()
    monkeypatch.setattr(runs, "SCANNED", runs.SCANNED + 1)
    after = identities()
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize("kind", [ModelConfig, AdamW, Phase, Run, Data])
def test_a_new_field_with_a_default_changes_no_identity(kind):
    later = dataclasses.make_dataclass(
        kind.__name__, [("novelty", float, 0.5)], bases=(kind,), frozen=True, kw_only=True
    )

    def upgrade(value):
        if not dataclasses.is_dataclass(value):
            return tuple(map(upgrade, value)) if isinstance(value, tuple) else value
        fields = {f.name: upgrade(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return (later if type(value) is kind else type(value))(**fields)

    for run in reference_runs().values():
        assert upgrade(run).identity == run.identity
        assert kind is not Run or upgrade(run) != run


def test_what_equals_its_default_is_left_out():
    @dataclass(frozen=True)
    class Sample:
        given: int
        left: int = 3
        made: tuple = dataclasses.field(default_factory=tuple)

    assert canonical(Sample(1)) == {"given": 1}
    assert canonical(Sample(1, 4, (2,))) == {"given": 1, "left": 4, "made": [2]}
    assert is_default(dataclasses.fields(Sample)[0], 1) is False


def test_every_part_of_a_run_enters_its_identity_and_its_trunk():
    runs = reference_runs()
    assert runs["longer"].trunk == runs["base"].trunk == runs["cosine"].trunk
    others = [
        name
        for name in runs
        if name not in ("longer", "cosine", "anneal", "freeze", "context", "reset", "base")
    ]
    assert len({runs[name].trunk for name in others} | {runs["base"].trunk}) == len(others) + 1


def test_rates_start_and_end_where_they_say_and_spend_no_step_at_zero():
    phase = Phase(100, 1, warmup(9))
    rates = phase.rates(0, 100)
    np.testing.assert_allclose(rates[:9], np.arange(1, 10) / 10)
    assert (rates[9:] == 1).all()
    for shape in ("linear", "cosine", "1-sqrt"):
        down = Phase(50, 1, decay(shape)).rates(0, 50)
        assert (np.diff(down) < 0).all()
        assert 0 < down[-1] < down[0] < 1
    assert (Phase(50, 1, constant(0.3)).rates(0, 50) == 0.3).all()
    quarter = Phase(3, 1, decay("1-sqrt")).rates(0, 3)
    np.testing.assert_allclose(quarter, 1 - np.sqrt([0.25, 0.5, 0.75]))


def test_rates_of_a_prefix_are_those_of_the_whole():
    for rate in (warmup(30), constant(), Rate(start=1, stop=0.1, shape="cosine", over=64)):
        whole, part = Phase(100, 1, rate), Phase(40, 1, rate)
        assert rate.prefix_closed
        np.testing.assert_array_equal(whole.rates(0, 40), part.rates(0, 40))
        np.testing.assert_array_equal(whole.rates(17, 40), part.rates(0, 40)[17:])
    assert not decay().prefix_closed


def test_configurations_follow_the_changes():
    run = reference_runs()["freeze"]
    assert run.model_at(1).frozen == ()
    assert run.model_at(2).frozen == run.model_at(-1).frozen == ("layers.0.*",)
    assert reference_runs()["anneal"].mixture_at(2) == Mixture.of({"docs": 1.0})
    assert reference_runs()["anneal"].mixture_at(1) == DATA.mixture
    flops = [reference_runs()[name].flops() for name in ("cosine", "freeze")]
    assert flops[1] < flops[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phase(100, 1024), "phase.tokens: got 100; accepted: at least one step"),
        (lambda: Phase(1500, 1024), "phase.tokens: got 1500; accepted: a multiple of"),
        (lambda: Phase(1024, 0), "phase.batch_tokens: got 0"),
        (lambda: Rate(shape="cubic"), "rate.shape: got cubic; accepted: one of linear, cosine"),
        (lambda: AdamW(learning_rate=-1.0), "optimizer.learning_rate: got -1.0"),
        (lambda: AdamW(learning_rate=float("nan")), "optimizer.learning_rate: got nan"),
        (lambda: replace(reference_runs()["base"], seed=-1), "run.seed: got -1"),
        (
            lambda: Run(
                model=ModelConfig(context=100),
                data=DATA,
                optimizer=AdamW(learning_rate=0.1),
                seed=0,
                phases=(Phase(1024, 1024),),
            ),
            "phase.batch_tokens: got 1024; accepted: a multiple of model.context=100",
        ),
        (lambda: wsd(2000, 1024, 0), "tokens: got 2000; accepted: enough"),
    ],
)
def test_impossible_runs_are_refused_by_name(make, message):
    with pytest.raises(Refused) as refused:
        make()
    assert message in str(refused.value)
