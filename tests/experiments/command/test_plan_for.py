"""The plan for devices that are not here: what it says of each program, and what it refuses."""

import pytest

from experiments.command.main import main
from experiments.command.plan_for import way
from scaling.chips import targeted
from scaling.chips.targeted import Fit

POD = ("--config=over_training:pod", "--config.widths=(16,)", "--config.seeds=(1,)")
SMALL = ("--config.batch_tokens=8192", "--config.warmup_tokens=8192", "--config.context=64")
TOKENS = ("--config.tokens=(819200,1638400)", "--config.evaluation_tokens=8192")
GIVEN = ("plan", *POD, *SMALL, *TOKENS, "--config.vocabulary=512")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Calls the command where nothing that compiles is installed, or where `said` stands for it."""

    def called(*flags: str, said: dict | None = None) -> tuple[int, str, str]:
        lacking = "tpu" if said is None else None
        for module in ("scaling.chips.targeted", "experiments.command.plan_for"):
            monkeypatch.setattr(f"{module}.missing", lambda target: lacking)
        monkeypatch.setattr(targeted, "result", lambda job: said)
        code = main(["espalier", *GIVEN, f"--store={tmp_path}", *flags])
        return code, *capsys.readouterr()

    return called


def test_a_study_without_a_corpus_is_planned_by_accounting_and_priced(call):
    code, said, _ = call("--for=v5e:2x4", "--price=100000")
    assert code == 0
    assert "over_training on v5e:2x4 (8 devices): 1 programs, by accounting alone: pip" in said
    assert "no corpus: a stand-in of 512 tokens' vocabulary" in said
    assert "width 16, depth 2" in said and "mesh data:8: fits, " in said
    assert "MFU " in said and " chip-hours at least" in said and "at 100000 a chip-hour" in said


COMPILED = {
    "memory": dict(arguments=2**30, outputs=0, temporaries=2**30, aliased=0, code=0),
    "seconds": 0.25,
    "overlapped": 0.125,
    "flops": 3e12,
    "bytes": 4e9,
    "wire": 5e6,
    "compile_seconds": 7.0,
    "exchanges": [
        dict(kind="all-reduce", axes=["data"], count=3, bytes=6e6, wire=7e6, seconds=8e-5)
    ],
    "costliest": [["dot a", 0.2], ["dot b", 0.03], ["all-reduce c", 0.01]],
    "unread": ["odd_kernel"],
    "warnings": 0,
}


def test_a_compiled_program_says_what_a_step_does(call):
    code, said, _ = call("--for=v5e:2x4", "--mesh=fsdp:8", said=COMPILED)
    assert code == 0 and "compiled for it here, by XLA" in said
    assert "mesh fsdp:8: fits, 2.00 of 15.75 GiB a device" in said and "temporaries 1.00" in said
    assert "3TFLOPs, 4GB moved in memory, 5MB sent; attention: splash" in said
    assert "compiled in 7 s of CPU time" in said
    assert "3 × all-reduce along data: 6MB, sends 7MB, 80 µs" in said
    assert "costliest: 200 ms dot a; 30 ms dot b; 10 ms all-reduce c" in said
    assert "products of these kernels are not counted: odd_kernel" in said
    assert "a step takes 250 ms at least (125 ms with" in said


def test_what_a_program_does_to_fit_is_said():
    said = lambda *how: way(Fit(None, None, "data:8", None, None, *how))
    assert said() == said(1, "none") == ""
    assert said(4, "none") == ", in 4 micro-batches"
    assert said(2, "dots").endswith("s, the backward pass keeping products and attention alone")
    assert said(1, "full") == ", the backward pass keeping layers' inputs alone"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--for=v9:8"], "--for: got v9; accepted: a device of v4, v5e, v5p"),
        (["--for=v5e:3x3"], "--for: got v5e:3x3; accepted: a slice of 1x1, 2x2"),
        (["--price=3"], "--price: got 3.0; accepted: with --for=DEVICE[:SHAPE]"),
        (["--for=v5e:2x4", "--mesh=data:3"], "phase.batch_tokens: got 8192; accepted: a number"),
        (["--for=v5e:2x4", "--mesh=data:16"], "mesh: got data:16; accepted: a product of sizes"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(call, flags, message):
    code, _, error = call(*flags)
    assert code == 2 and message in error


def test_a_stand_in_trains_nothing(call, capsys, tmp_path):
    flags = [
        "espalier",
        "run",
        *GIVEN[1:],
        "--config.corpus=stand-in:512,code",
        f"--store={tmp_path}",
    ]
    assert main(flags) == 2
    assert "accepted: a corpus with tokens; a stand-in is for plans" in capsys.readouterr().err
