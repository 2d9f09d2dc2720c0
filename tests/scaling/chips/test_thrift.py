"""A program takes the cheapest way that fits, and on CPUs none."""

from dataclasses import replace

import pytest

from models import count
from scaling import make_mesh
from scaling.chips import thrift
from scaling.chips.devices import DEVICES, Target
from scaling.chips.estimate import Memory, memory
from scaling.chips.targeted import Need, fitted, program_on
from scaling.chips.thrift import cost, exchange_share, fitting, update_share, ways
from scaling.grouping import program_of
from scaling.plan import plan
from scaling.state import abstract, array_bytes
from scaling.train import Program
from tests.corpora import model, recipe, study_runs

SLICE = Target.of("v5e:2x4")
# Eight sequences of 1,024 tokens on each of eight devices, and on one that sends nothing.
PROGRAM = program_on(Need(recipe(model(context=1024)).static, 1 << 16), "data:8", SLICE)
SPLIT = ("fsdp:8", "data:8")
ALONE = program_on(Need(PROGRAM.recipe, 1 << 13), "data:1", Target.of("v5e"))


def way(program):
    return program.accumulate, program.recompute


def test_ways_begin_with_none_and_cost_more_and_more():
    found = [way(program) for program in ways(ALONE)]
    assert found[:4] == [(1, "none"), (2, "none"), (1, "dots"), (2, "dots")]
    assert found[-1] == (2, "full")  # Four micro-batches would leave a device 2,048 tokens.


def test_micro_batches_cost_what_they_send_again(monkeypatch):
    # Of a wide model on many devices, gradients take long beside the products of few tokens.
    big = model(width=1024, heads=8, depth=2, vocabulary=512, context=1024)
    split, once = (program_on(Need(recipe(big).static, 1 << 16), m, SLICE) for m in SPLIT)
    device, accounts = SLICE.device, count(big)
    products = accounts.flops_train * (1 << 16) / (8 * device.peak)
    # Two arrays gathered and one summed into parts; few are whole on every device.
    more = (2 * 4 + 4) * accounts.params_total * 7 / 8 / device.link
    share = lambda program, count: exchange_share(replace(program, accumulate=count))
    assert share(split, 1) == pytest.approx(more / products, rel=1e-2)
    assert share(split, 4) == pytest.approx(4 * share(split, 1))
    # Along `data` gradients are sent after the last micro-batch.
    assert share(split, 1) > 0.05 and share(once, 2) == share(once, 1) > 0
    assert share(ALONE, 2) == 0
    assert [way(one) for one in ways(once)][:2] == [(1, "none"), (2, "none")]
    monkeypatch.setattr(thrift, "exchange_share", lambda program: 0.6 * program.accumulate)
    assert [way(one) for one in ways(once)][:2] == [(1, "none"), (1, "dots")]


def test_a_mesh_that_splits_the_state_reads_and_writes_less_of_it():
    need = Need(recipe(model()).static, 1 << 14)
    whole, split = (program_on(need, mesh, SLICE) for mesh in ("data:8", "fsdp:8"))
    least = count(model()).flops_train * (1 << 14) / (8 * SLICE.device.peak)
    share = 2 * array_bytes(abstract(need.recipe)) / SLICE.device.bandwidth / least
    assert update_share(whole) == pytest.approx(share)
    assert share / 8 < update_share(split) < share / 7
    assert cost(whole) == pytest.approx(exchange_share(whole) + share)


def test_gpus_compute_again_in_a_scan_what_would_be_more_to_keep():
    on = lambda depth: program_on(
        Need(recipe(model(depth=depth, context=1024)).static, 1 << 16),
        "data:8",
        Target.of("h100:8"),
    )
    looped, scanned = ([way(one) for one in ways(on(depth))] for depth in (12, 13))
    assert looped[0] == (1, "none") and scanned[0] == (1, "dots")
    assert looped[-1] == scanned[-1] == (2, "full")  # The least memory comes last.
    assert all(recompute != "none" for _, recompute in scanned)


def test_each_way_needs_less_memory_where_it_says_so():
    taken = {way(program): memory(program).activations for program in ways(PROGRAM)}
    assert taken[1, "none"] > taken[1, "dots"] > taken[1, "full"]
    assert taken[1, "none"] > taken[2, "none"] > taken[2, "dots"] > taken[2, "full"]


def test_the_cheapest_way_that_fits_is_taken(monkeypatch):
    sizes = {"none": 100.0, "dots": 80.0, "full": 40.0}
    taken = lambda program: Memory(0.0, 0.0, sizes[program.recompute] / program.accumulate, 0.0)
    monkeypatch.setattr(thrift, "memory", taken)
    assert [way(fitting(ALONE, most)) for most in (100, 99, 45, 20)] == [
        (1, "none"),
        (2, "none"),
        (2, "dots"),
        (2, "full"),
    ]
    assert fitting(ALONE, 19) is None


def test_plans_for_devices_say_how_a_program_fits(monkeypatch):
    monkeypatch.setattr("scaling.chips.targeted.missing", lambda target: "tpu")
    need = Need(PROGRAM.recipe, PROGRAM.batch_tokens)
    most = memory(replace(PROGRAM, accumulate=2, recompute="none")).total
    small = replace(SLICE, device=replace(DEVICES["v5e"], memory=most / thrift.MEMORY_SHARE))
    fit = fitted(need, small, "data:8")
    assert (fit.accumulate, fit.recompute) == (2, "none")
    assert fit.by_accounting()[1] == pytest.approx(fitted(need, SLICE).by_accounting()[1])


def test_a_cpu_trains_programs_as_they_are(corpus):
    (segment, *_) = plan(study_runs("wsd", corpus)).walk()
    mesh = make_mesh("data:1")
    plain = Program(recipe=segment.recipe, batch_tokens=segment.phase.batch_tokens, mesh=mesh)
    assert program_of(segment, mesh) == plain and way(plain) == (1, "auto")
