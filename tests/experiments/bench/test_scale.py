"""The table of sizes on devices, at sizes that are traced in a moment."""

import pytest

import models
from experiments.bench import scale
from refused import Refused
from scaling.chips import targeted
from scaling.chips.devices import Target


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in dict(VOCABULARY=64, CONTEXT=32, HEAD_SIZE=8, EACH=64).items():
        monkeypatch.setattr(scale, name, value)
    monkeypatch.setattr(scale, "LADDER", {"tiny": (16, 48, 1)})
    monkeypatch.setattr(scale, "DEVICES", ("h100", "v5e:2x2"))
    monkeypatch.setattr(targeted, "missing", lambda target: "tpu")


def test_the_sizes_are_those_that_are_claimed(monkeypatch):
    monkeypatch.undo()
    counts = [models.count(scale.shape(size)).params_total for size in scale.LADDER]
    assert counts == pytest.approx([20e6, 120e6, 350e6, 1.3e9, 7e9], rel=0.05)
    assert scale.need("1.3B", Target.of("v6e:16x16")).batch_tokens == 1 << 19
    assert scale.need("7B", Target.of("v6e:16x16")).batch_tokens == 1 << 22


def test_rows_that_are_not_compiled_say_so(capsys):
    scale.main([])
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| tiny")]
    assert len(rows) == 2 and all("by accounting" in row and "≤ " in row for row in rows)
    assert said.startswith("# At scale") and "Sizes: tiny is " in said


def test_compiled_rows_say_what_they_miss_and_how_well_memory_was_foretold(monkeypatch, capsys):
    sizes = dict(arguments=1 << 20, outputs=0, temporaries=0, aliased=0, code=1 << 10)
    found = {"seconds": 1.0, "overlapped": 0.5, "wire": 1e6, "memory": sizes}
    found |= {"compile_seconds": 7.0, "costliest": [['dot "jit(advance)/while/body/x"', 0.5]]}
    monkeypatch.setattr(targeted, "missing", lambda target: None)
    monkeypatch.setattr(targeted, "result", lambda job: found)
    monkeypatch.setattr(scale, "AIMED", {"tiny": 50})
    scale.main(["--compile=all"])
    said = capsys.readouterr().out
    assert "- MFU of at least 50 % at tiny: 0 of 2 rows. Missed by: tiny on h100 (0), tiny" in said
    assert "- Compiled for TPUs in at most 7 CPU-s (tiny on v5e:2x2)." in said
    over = lambda name: targeted.fitted(scale.need("tiny", Target.of(name)), Target.of(name)).memory
    ends = [f"{over(name).total / (1 << 20):.2f} (tiny on {name})" for name in ("v5e:2x2", "h100")]
    assert f"- Memory foretold over XLA's without code: {' to '.join(ends)}." in said
    assert "- tiny on v5e:2x2: 500 ms dot `while/body/x`" in said


def test_a_row_or_a_size_that_there_is_not_is_refused():
    with pytest.raises(Refused, match="--sizes: got huge; accepted: sizes of tiny"):
        scale.main(["--sizes=huge"])
    with pytest.raises(
        Refused, match="--compile: got tiny on b200; accepted: all, or rows of tiny on h100"
    ):
        scale.main(["--compile=tiny on b200"])
