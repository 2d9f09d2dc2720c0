"""Workers of this machine: real ones, their GPUs, and how they end."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from experiments.command.launchers import Launch, local
from experiments.command.launchers.local import devices, gpus
from experiments.command.launchers.wanted import ENDED
from refused import Refused
from tests.experiments.command.launchers.trained import STUDY, program
from tests.experiments.command.test_main import ROOT
from tests.test_espalier import hostile


@pytest.mark.system
def test_workers_of_this_machine_are_real_workers_beside_packages_of_a_users_own(done, tmp_path):
    hostile(tmp_path)
    study = ("--config=over_training", *STUDY[1:])
    command = [sys.executable, "-P", "-m", "espalier", "launch", "--on=local", f"--store={done}"]
    found = subprocess.run(
        [*command, *study],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    out = found.stdout
    assert found.returncode == 0, out + found.stderr
    assert "workers: 1; CPUs: " in out and "[0] nothing to train\n" in out
    assert "[0] the plan is done" in out and "1 of 1 workers ended well\n" in out


ENDS = "import sys; print('ended'); sys.exit({code})"
TELLS = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.kill(os.getppid(), signal.SIGTERM)
signal.pause()
"""
WAITS = "import signal; signal.pause()"
IGNORES = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(os.getppid(), signal.SIGTERM)
os.kill(os.getppid(), signal.SIGINT)
signal.pause()
"""


@pytest.mark.parametrize(
    ("codes", "code", "lines"),
    [
        ([ENDS.format(code=0)] * 2, 0, ["[0] ended", "[1] ended", "2 of 2 workers ended well"]),
        (
            [ENDS.format(code=0), ENDS.format(code=3)],
            1,
            ["[1] ended", "worker 1 failed with code 3; the others go on", "1 of 2 workers ended"],
        ),
        ([ENDS.format(code=143)], 1, ["worker 0 failed with code 143"]),
        ([WAITS, TELLS], 143, ["2 of 2 workers ended as told; the same command goes on"]),
        ([IGNORES], 1, ["worker 0 failed with code -9"]),
    ],
)
def test_processes_are_told_to_end_and_their_end_is_told(codes, code, lines, capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert local.processes([[sys.executable, "-c", code] for code in codes]) == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    out = capsys.readouterr().out
    assert all(line in out for line in lines), out


class Starting(subprocess.Popen):
    """A process that a signal comes for before whoever starts it has it in hand."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        signal.raise_signal(signal.SIGTERM)


class Elsewhere(subprocess.Popen):
    """A process whose launcher gets the signal in a thread other than the one that waits."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        here = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        threading.Timer(0.2, here).start()


@pytest.mark.parametrize("kind", [Starting, Elsewhere])
def test_no_signal_is_slept_through(kind, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", kind)
    assert local.processes([[sys.executable, "-c", WAITS]]) == ENDED
    assert "1 of 1 workers ended as told" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "count", "each", "said"),
    [
        ([], 2, [None, None], ""),
        (["0", "1"], 2, ["0", "1"], "; GPUs: 2, 1 for each"),
        ([*"01234567"], 3, ["0,1", "2,3", "4,5"], "; GPUs: 8, 2 for each, 2 idle"),
        (["4", "GPU-5"], 1, ["4,GPU-5"], "; GPUs: 2, 2 for each"),
        (["0", "1"], 3, ["0", "1", "0"], "; GPUs: 2, each shared by up to 2 workers"),
    ],
)
def test_each_worker_has_gpus_of_its_own_or_is_told_who_shares(
    found, count, each, said, monkeypatch
):
    monkeypatch.delenv(local.MEMORY, raising=False)
    environments, words = devices(found, count)
    assert [e.get("CUDA_VISIBLE_DEVICES") for e in environments] == each and words == said
    shared = {e.get(local.MEMORY) for e in environments}
    assert shared == ({"0.38"} if "shared" in said else {None})


@pytest.mark.parametrize(
    ("around", "found"),
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "3, MIG-7"}, ["3", "MIG-7"]),
        ({"CUDA_VISIBLE_DEVICES": "3,-1,4"}, ["3"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"JAX_PLATFORMS": "cpu"}, []),
        ({"PATH": ""}, []),
    ],
)
def test_gpus_are_those_that_the_launcher_itself_may_use(around, found, tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", "printf '0\\n1\\n'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    assert gpus() == found


def test_workers_beside_each_other_see_different_gpus(capsys):
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    each, _ = devices(["0", "1"], 2)
    assert local.processes([[sys.executable, "-S", "-c", code]] * 2, each) == 0
    assert {"[0] 0", "[1] 1"} < set(capsys.readouterr().out.splitlines())


def test_chips_of_a_tpu_are_not_shared(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(local.glob, "glob", lambda pattern: ["/dev/accel0"])
    with pytest.raises(Refused, match="--workers: got 2; accepted: 1: the TPU chips"):
        local.launch(Launch((), workers=2))
