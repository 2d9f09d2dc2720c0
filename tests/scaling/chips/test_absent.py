"""Programs compiled for devices that are not here, in a child, once."""

import json
import math
import subprocess
from dataclasses import replace

import pytest

from models import Experts
from refused import Refused
from scaling.chips import absent
from scaling.chips.absent import Job, compile_job, missing, result
from scaling.chips.devices import Target
from scaling.chips.estimate import wire
from scaling.chips.targeted import Need, fitted, program_on
from tests.corpora import model, recipe

SLICE = Target.of("v5e:2x4")


def job(**fields) -> Job:
    return Job(recipe(model(depth=1, **fields)), 2048, "fsdp:4,data:2", SLICE)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What children are asked, who answer with what is in the list."""
    asked, answers = [], []

    def run(command, input, **more):
        asked.append(command)
        code, out, err = answers.pop(0)
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(absent, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(absent, "versions", lambda target: ["1"])
    monkeypatch.setattr(absent.subprocess, "run", run)
    return asked, answers


def test_a_program_is_compiled_once_and_again_when_it_or_the_code_changes(told, monkeypatch):
    asked, answers = told
    answers += [(0, b'noise\n{"flops": 1}\n', b"Involuntary full rematerialization")] * 3
    assert result(job()) == result(job()) == {"flops": 1, "warnings": 1}
    assert len(asked) == 1
    result(job(qk_norm=True))
    monkeypatch.setattr(absent, "code", lambda: "changed")
    result(job())
    assert len(asked) == 3


def test_a_child_that_fails_is_refused_with_its_last_line(told):
    told[1].append((1, b"", b"Traceback\nValueError: no\n"))
    with pytest.raises(Refused, match=r"--for: got v5e:2x4; .* is read \(ValueError: no\)"):
        result(job())


@pytest.mark.parametrize(
    "said",
    [
        "Ran out of memory in memory space hbm. Used 17.50G of 15.75G",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (17.50G) exceeds "
        "available HBM (15.75G).",
    ],
)
def test_a_full_device_is_a_result(said, monkeypatch):
    class Full:
        def compile(self):
            raise absent.jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")

    monkeypatch.setattr(absent, "devices", lambda target: absent.jax.devices())
    monkeypatch.setattr(absent, "lowered", lambda program: Full())
    assert compile_job(job()) == {"full": 17.5 * (1 << 30)}


def test_the_extra_that_is_lacking_is_named(monkeypatch):
    monkeypatch.setattr(absent.importlib.util, "find_spec", lambda name: None)
    assert missing(SLICE) == "tpu" and missing(Target.of("h100")) == "gpu"


EXPERTS = Experts(4, 2, 1, granularity=2.0, capacity_factor=1.0)
SLICED = {
    "fsdp:4,data:2": ({}, "all-gather"),
    "expert:4,data:2": ({"feed_forward": EXPERTS}, "all-to-all"),
}


@pytest.mark.skipif(missing(SLICE) is not None, reason="libtpu, of the extra tpu, is not installed")
@pytest.mark.parametrize("mesh", SLICED)
def test_a_step_for_a_slice_divides_its_work_and_keeps_no_scores(mesh):
    (fields, kind), length = SLICED[mesh], 1152  # Equal to no width.
    config = model(dtype="bfloat16", width=128, heads=1, depth=1, context=length, **fields)
    need = Need(recipe(config).static, 16 * length)
    fit = fitted(need, SLICE, mesh)
    found = fit.compiled
    assert json.loads(json.dumps(found)) == found
    assert found["warnings"] == 0 and found["unread"] == []
    # Of what all devices multiply, what is computed again and what fills blocks is the rest.
    assert 1 <= found["flops"] * SLICE.count / need.flops_step <= 1.4
    scores = 2 * length**2  # Two sequences on a device, one head.
    assert all(math.prod(shape) < scores for _, shape, _, _ in found["largest"])
    # Code is not foretold, nor what stays in a chip's near memory: much of so small a program.
    assert 0.9 * (fit.bytes - found["memory"]["code"]) <= fit.memory.total <= 1.3 * fit.bytes
    assert {one["kind"] for one in found["exchanges"]} >= {kind}
    assert found["wire"] <= 1.3 * sum(wire(program_on(need, mesh, SLICE)).values())


@pytest.mark.skipif(missing(SLICE) is not None, reason="libtpu, of the extra tpu, is not installed")
def test_micro_batches_for_a_slice_send_no_gradients_of_sequences():
    """A token table's gradient was gathered row by row along `fsdp`: 2.4 of the formula's bytes."""
    config = model(dtype="bfloat16", width=128, heads=1, depth=1, context=1152, vocabulary=512)
    need = Need(recipe(config).static, 32 * 1152)
    found = result(Job(need.recipe, need.batch_tokens, "fsdp:4,data:2", SLICE, 2, "none"))
    program = replace(program_on(need, "fsdp:4,data:2", SLICE), accumulate=2)
    assert found["wire"] <= 1.3 * sum(wire(program).values())
    assert found["warnings"] == 0
