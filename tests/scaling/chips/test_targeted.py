"""Programs on devices that are not here: the mesh that fits, its seconds, and what fits nowhere."""

from dataclasses import replace

import pytest

from models import Experts
from refused import Refused
from scaling import plan
from scaling.chips import targeted, thrift
from scaling.chips.devices import DEVICES, Target
from scaling.chips.estimate import Memory
from scaling.chips.targeted import Need, fitted, meshes, needs
from tests.corpora import STEP, model, recipe, study_runs

SLICE = Target.of("v5e:2x4")


@pytest.fixture(autouse=True)
def accounted(monkeypatch):
    """Nothing that compiles is installed."""
    monkeypatch.setattr(targeted, "missing", lambda target: "tpu")


def need(config=None, batch: int = 2048) -> Need:
    return Need(recipe(config or model()).static, batch, 1, 10)


def with_memory(size: float) -> Target:
    return replace(SLICE, device=replace(DEVICES["v5e"], memory=size))


def test_segments_of_one_program_are_one_need(corpus):
    segments = list(plan(study_runs("wsd", corpus)).walk())
    (one,) = needs(segments)
    assert one.segments == len(segments) and one.batch_tokens == STEP
    assert one.steps == sum(segment.steps for segment in segments)


def test_meshes_that_send_less_come_first_and_experts_are_split_apart():
    assert list(meshes(need(), 8)) == ["data:8", "fsdp:2,data:4", "fsdp:4,data:2", "fsdp:8"]
    experts = need(model(feed_forward=Experts(4, 2, 1)))
    assert list(meshes(experts, 8))[:3] == ["data:8", "expert:2,data:4", "fsdp:2,data:4"]
    assert "expert:4,fsdp:2" in list(meshes(experts, 8))


def test_of_meshes_that_cost_alike_the_one_that_splits_least_is_taken(monkeypatch):
    taken = lambda program: Memory(80.0 / program.mesh.shape["fsdp"], 0.0, 0.0, 0.0)
    for module in (targeted, thrift):
        monkeypatch.setattr(module, "memory", taken)
    assert fitted(need(), with_memory(100)).mesh == "data:8"
    assert fitted(need(), with_memory(50)).mesh == "fsdp:2,data:4"
    assert fitted(need(), with_memory(100), "fsdp:8").mesh == "fsdp:8"


def test_a_mesh_that_splits_more_is_taken_where_it_saves_time(monkeypatch):
    """Recomputing all costs .2 of the products' time, what is sent along `fsdp` less than that."""
    config = model(depth=2, width=64, context=1024)
    one = need(config, batch=8 * 4096)
    sizes = {"none": 90.0, "dots": 60.0, "full": 30.0}
    taken = lambda program: Memory(
        80.0 / program.mesh.shape["fsdp"], 0.0, sizes[program.recompute], 0.0
    )
    for module in (targeted, thrift):
        monkeypatch.setattr(module, "memory", taken)
    assert fitted(one, with_memory(120)).mesh == "data:8"  # So small a step is all delays.
    monkeypatch.setattr(targeted, "DELAYS", 0.0)
    fit = fitted(one, with_memory(120))
    assert (fit.mesh, fit.recompute) == ("fsdp:2,data:4", "dots")
    again = fitted(one, with_memory(120), "fsdp:4,data:2")
    assert (again.mesh, again.recompute) == ("fsdp:4,data:2", "none")


def test_what_fits_under_no_mesh_is_refused_with_the_chips_that_would(monkeypatch):
    taken = lambda program: Memory(80.0 / program.mesh.shape["fsdp"], 0.0, 0.0, 0.0)
    for module in (targeted, thrift):
        monkeypatch.setattr(module, "memory", taken)
    with pytest.raises(Refused, match="accepted: v5e with 16 chips or more, by accounting"):
        fitted(need(), with_memory(8))
    with pytest.raises(
        Refused, match="a smaller model, .* no number of chips that divides 64 sequences"
    ):
        fitted(need(), with_memory(1))


def test_a_batch_that_a_mesh_does_not_divide_is_refused():
    for mesh in ("data:8", ""):
        with pytest.raises(Refused, match="phase.batch_tokens: got 96; .* = 8 divides"):
            fitted(need(batch=96), SLICE, mesh)


def test_a_step_takes_products_and_links_by_accounting():
    fit = fitted(need(), SLICE)
    products, links = fit.by_accounting()
    assert products == pytest.approx(fit.need.flops_step / (8 * 197e12))
    assert fit.seconds == products + links and fit.overlapped == max(products, links)
    assert fit.mfu == pytest.approx(products / fit.seconds)
    assert fit.chip_hours == pytest.approx(10 * fit.seconds * 8 / 3600)


def compiled(**sizes) -> dict:
    kinds = dict.fromkeys(("arguments", "outputs", "temporaries", "aliased", "code"), 0)
    return {"memory": kinds | sizes, "seconds": 2.0, "overlapped": 1.0}


def test_what_the_compiler_says_goes_before_the_accounting(monkeypatch):
    monkeypatch.setattr(targeted, "missing", lambda target: None)
    said = {"data:8": {"full": 1e12}, "fsdp:2,data:4": compiled(arguments=5, outputs=5, aliased=4)}
    asked = []
    monkeypatch.setattr(targeted, "result", lambda job: asked.append(job.mesh) or said[job.mesh])
    fit = fitted(need(), SLICE)
    assert asked == ["data:8", "fsdp:2,data:4"]
    assert (fit.mesh, fit.bytes, fit.seconds) == ("fsdp:2,data:4", 6, 2.0)
