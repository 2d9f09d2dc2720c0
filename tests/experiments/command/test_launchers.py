"""Launchers: the same table wherever workers run; what is printed, refused and handed on."""

import os
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.command import launchers, session
from experiments.command.launch import PLACES
from experiments.command.launchers import Launch, Task, launch, options, pod_script
from experiments.command.main import espalier
from refused import Refused
from tests.experiments.command import launched
from tests.experiments.command.test_main import ROOT, call
from tests.test_espalier import hostile

with pytest.MonkeyPatch.context() as patch:
    # Its own configuration closes every log of the process, and pytest's files with them.
    patch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    import submitit

TIMES = ["seconds", "tokens_per_second"]
EXAMPLES = ROOT / "experiments" / "launch"
POD = ("--option=name=pod-1", "--option=zone=us-east5-a", "--store=gs://bucket/runs")
STUDY = (
    "--config=experiments/over_training.py",
    "--config.widths=(16,)",
    "--config.seeds=(1,)",
    "--config.tokens=(20480,40960)",
    "--config.warmup_tokens=2048",
    "--config.evaluation_tokens=1024",
    "--mesh=data:1",
    "--keep=none",
)


def shell_checked(script: str) -> None:
    """Fails unless a script is free of errors and of what shellcheck warns of."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    binary = Path(sysconfig.get_path("scripts")) / "shellcheck"
    command = [binary, "--shell=bash", "--exclude=SC2016", "-"]  # It doubts every quoted $.
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def small_study():
    """Returns the study that STUDY names, and its configuration."""
    from experiments import over_training

    config = over_training.get_config("cpu")
    config.widths, config.seeds, config.tokens = (16,), (1,), (20480, 40960)
    config.warmup_tokens, config.evaluation_tokens = 2048, 1024
    return over_training.study(config), config


def table(store) -> pd.DataFrame:
    """Returns a store's run table without its times."""
    study, config = small_study()
    found = session.results(study, config, session.Settings(store=str(store)))
    return found.runs.drop(columns=TIMES)


def assert_same(store: Path, alone: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table(store), alone, check_exact=True)
    assert list((store / "leases").iterdir()) == []
    assert list(store.rglob("checkpoint")) == []


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The store of a single worker, as `espalier run` trains it."""
    store = tmp_path_factory.mktemp("alone")
    settings = session.Settings(store=str(store), mesh="data:1", fleet="loop")
    session.train(*small_study(), settings)
    return store


@pytest.fixture(scope="module")
def alone(done) -> pd.DataFrame:
    """The table of a single worker."""
    return table(done)


def test_a_job_of_submitit_that_is_requeued_gives_the_table_of_one(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "Task", launched.Interrupted)
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.chdir(ROOT)
    store, logs = tmp_path / "runs", tmp_path / "logs"
    executor = submitit.LocalExecutor(logs, max_num_timeout=1)
    executor.update_parameters(timeout_min=10)
    (job,) = launchers.submit(executor, Launch((*STUDY, f"--store={store}")))
    try:
        assert job.exception() is None, job.stdout() + job.stderr()
    finally:
        job.cancel()
        job._process.wait()
    assert job.stderr().count("Requeued job") == 1
    assert "stopped " in job.stdout() and "the plan is done" in job.stdout()
    assert_same(store, alone)


def test_actors_of_ray_one_of_them_killed_give_the_table_of_one(alone, tmp_path):
    store = tmp_path / "runs"
    common = ["--marker", tmp_path / "marker", *STUDY, f"--store={store}", "--lease-seconds=4"]
    # ml-collections loads configuration files with load_module.
    strict = ["-W", "error", "-W", "ignore:the load_module:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-m", "tests.experiments.command.launched", *common],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert_same(store, alone)
    assert "codes 1 1 143\n" in done.stdout, said
    assert done.stdout.count(" failed (") == 1 + 3, said
    assert "workers: 2, each of one CPU; CPUs: 2\n" in done.stdout, said
    assert "1 of 2 workers ended well; the same command goes on\n" in done.stdout, said
    assert "0 of 3 workers ended well; the same command goes on\n" in done.stdout, said
    assert "nowhere'); the others go on\n" in done.stdout, said
    assert "1 of 1 workers ended as told; the same command goes on\n" in done.stdout, said


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


def test_actors_of_ray_look_for_packages_where_ours_lie(tmp_path, monkeypatch):
    """Ray has its actors import from the folder that it is called in first."""
    called = []
    stop = lambda: called.append(os.getcwd()) or 1 / 0
    fake = SimpleNamespace(is_initialized=lambda: False, init=stop)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        launchers.on_ray(Launch(()))
    assert called == [str(ROOT)] and os.getcwd() == str(tmp_path)


def test_a_job_of_slurm_leaves_its_working_folder_off_pythons_path(capsys):
    _, out, _ = call(capsys, "launch", *STUDY, "--on=slurm", "--dry-run")
    assert f"{sys.executable} -P -u -m submitit" in out


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
    assert launchers.processes([[sys.executable, "-c", code] for code in codes]) == code
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
    assert launchers.processes([[sys.executable, "-c", WAITS]]) == launchers.ENDED
    assert "1 of 1 workers ended as told" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--on: got nothing; accepted: local|slurm|ray|tpu"),
        (["--on=moon"], "--on: got moon; accepted: local, slurm, ray, tpu"),
        (["--on=local", "--workers=0"], "--workers: got 0; accepted: a whole number, 1 or more"),
        (["--on=ray", "--option=time=3"], "--option: got time; accepted: none"),
        (["--on=local", "--fleet=4"], "--fleet: got 4; accepted: auto or loop"),
        (
            ["--on=local", "--coordinator=auto"],
            "--coordinator: got auto; accepted: espalier run, not espalier launch",
        ),
        (["--on=local", "--config.batch_tokens=7"], "phase.batch_tokens: got 7; accepted: a mult"),
        (["--on=slurm", "--option=time=1:00:00"], "--option=time: got 1:00:00; accepted: minutes"),
        (["--on=slurm", "--option=array=1-3"], "--option: got array; accepted: --workers=N"),
        (["--on=slurm"], "--on: got slurm; accepted: a machine with srun and sbatch, or --dry-run"),
        (["--on=tpu", *POD], "--on: got tpu; accepted: a machine with gcloud, or --dry-run"),
        (["--on=tpu", *POD[1:]], "--option=name: got nothing; accepted: the pod's"),
        (["--on=tpu", *POD, "--workers=2"], "--workers: got 2; accepted: none"),
        (["--on=tpu", *POD[:2]], "--store: got runs; accepted: what every host sees"),
    ],
)
def test_what_cannot_be_launched_is_told_in_one_line(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    store = [] if "--on=tpu" in args else [f"--store={tmp_path / 'store'}"]
    code, out, err = call(capsys, "launch", *STUDY, *store, *args)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"espalier: {message}" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("on", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_without_its_extra_a_launcher_names_it(on, package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = call(capsys, "launch", *STUDY, f"--on={on}", "--dry-run")
    assert code == 2
    wanted = f"{package} installed: pip install 'espalier[{on}]'"
    assert err == f"espalier: --on: got {on}; accepted: {wanted}\n"


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (
            ["--on=local", "--workers=3"],
            3 * ["-P -m espalier work --config=experiments/"],
        ),
        (["--on=ray", "--workers=3"], ["actors: 3", "num_gpus=1", "espalier work --config="]),
        (["--on=slurm"], ["#SBATCH --requeue", "#SBATCH --time=60", "# Each of 1 tasks: espalier"]),
        (
            ["--on=slurm", "--workers=4", "--option=time=90", "--option=gres=gpu:a100:1"],
            ["#SBATCH --array=0-3%4", "#SBATCH --time=90", "#SBATCH --gres=gpu:a100:1", "SBATCH"],
        ),
        (
            ["--on=slurm", "--option=exclusive", "--option=comment=it's $HOME"],
            ["#SBATCH --exclusive\n", """#SBATCH --comment='it'"'"'s $HOME'\n"""],
        ),
        (
            ["--on=tpu", *POD, "--option=internal-ip"],
            ["ssh pod-1 --zone=us-east5-a --internal-ip"],
        ),
    ],
)
def test_a_dry_run_prints_what_would_be_started_and_writes_nothing(
    args, lines, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PATH", "")
    store = [] if "--on=tpu" in args else [f"--store={tmp_path / 'store'}"]
    code, out, err = call(capsys, "launch", *STUDY, *store, *args, "--dry-run")
    assert code == 0 and err == ""
    assert all(line in out for line in lines), out
    assert all(out.count(line) >= lines.count(line) for line in lines)
    assert "'--config.tokens=(20480,40960)'" in out and "--dry" not in out
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    if "ray" not in args[0]:
        shell_checked(out)


def program(folder: Path, name: str, body: str) -> None:
    """Writes a program of bash."""
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)


def test_slurm_gets_what_the_dry_run_prints(tmp_path, capsys, monkeypatch):
    program(tmp_path, "srun", "exit 1")
    program(tmp_path, "sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 42')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    command = ["launch", *STUDY, "--on=slurm", "--workers=2", f"--store={tmp_path}/runs"]
    _, shown, _ = call(capsys, *command, "--dry-run")
    code, out, err = call(capsys, *command)
    assert code == 0, err
    assert out == f"submitted 42_0, 42_1; logs: {tmp_path}/runs/slurm\n"
    script = (tmp_path / "script").read_text()
    assert shown.startswith(script)
    for index in range(2):
        file = tmp_path / "runs" / "slurm" / f"42_{index}" / f"42_{index}_submitted.pkl"
        job = submitit.helpers.DelayedSubmission.load(file)
        assert job.function == Task((*STUDY, f"--store={tmp_path}/runs"))
        assert job._timeout_min == 60 and job._timeout_countdown == launchers.MOST_TIMEOUTS


def test_every_host_of_a_pod_gets_the_arguments_as_they_were_given(tmp_path, monkeypatch):
    checkout = tmp_path / "my checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    program(checkout / ".venv" / "bin", "espalier", f'printf "%s\\0" "$@" > {tmp_path}/got')
    # The remote shell gets what stands after --command=.
    log = f'printf "%s\\0" "$@" > {tmp_path}/asked'
    program(tmp_path, "gcloud", log + '; last="${@: -1}"; bash -c "${last#--command=}"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    arguments = ("--config=a b.py", "--config.mixture=it's=1", '--config.x=("$HOME",)', "--mesh=")
    given = options(["name=pod-1", "zone=z", f"checkout={checkout}", "internal-ip"])
    script = pod_script(arguments, given)
    shell_checked(script)
    shell_checked(script.partition("<<'HOST'\n")[2].partition("HOST\n")[0])
    subprocess.run(["bash", "-c", script], check=True)
    asked = (tmp_path / "asked").read_text().split("\0")
    ssh = ["compute", "tpus", "tpu-vm", "ssh", "pod-1", "--zone=z", "--internal-ip"]
    assert asked[: len(ssh) + 1] == [*ssh, "--worker=all"]
    got = (tmp_path / "got").read_text().split("\0")
    assert got == ["run", "--coordinator=auto", *arguments, ""]


@pytest.mark.parametrize(
    "own",
    [
        ["launch", "--on=local", "--workers=2"],
        ["--on", "local", "--workers", "2", "launch", "--dry_run"],
        ["-on=local", "launch", "--nodry_run"],
    ],
)
def test_workers_get_the_flags_that_are_not_the_launchers(own, capsys, monkeypatch):
    theirs = [*STUDY, "--store", "launch-runs", "--keep_params", "--stop_after=60"]
    wanted = []
    monkeypatch.setattr(launchers, "launch", lambda on, launch: wanted.append((on, launch)) or 0)
    code, _, err = call(capsys, *own, *theirs)
    assert code == 0, err
    ((on, asked),) = wanted
    assert on == "local" and asked.store == "launch-runs"
    assert asked.dry_run == ("--dry_run" in own) and asked.workers in (2, None)
    hyphens = ["--store=launch-runs", "--keep-params", "--stop-after=60"]
    assert asked.arguments == (*STUDY, *hyphens)
    monkeypatch.chdir(ROOT)
    root = espalier.make_context("espalier", ["work", *asked.arguments])
    worker = espalier.get_command(root, "work").make_context("work", [*asked.arguments], root)
    assert worker.params["store"] == "launch-runs" and worker.params["stop_after"] == 60
    _, config = worker.params["chosen"].open()
    assert worker.params["keep_params"] and config.tokens == (20480, 40960)


@pytest.mark.filterwarnings("ignore:domain .* is read:UserWarning")
@pytest.mark.parametrize("example", sorted(EXAMPLES.iterdir()), ids=lambda file: file.name)
def test_the_examples_are_commands_that_the_launcher_takes(example, tmp_path, capsys, monkeypatch):
    shell_checked(example.read_text())
    program(tmp_path, "espalier", f'printf "%s\\0" "$@" > {tmp_path}/got')
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        subprocess.run([example, "--dry-run"], check=True)
    *args, end = (tmp_path / "got").read_text().split("\0")
    assert args[0] == "launch" and args[-1] == "--dry-run" and end == ""
    code, out, err = call(capsys, *args)
    assert code == 0, err
    on = next(arg for arg in args if arg.startswith("--on=")).removeprefix("--on=")
    assert example.name.startswith(on) and " --config=over_training:" in out


def test_there_is_an_example_of_every_place():
    found = {file.name.partition(".")[0].partition("_")[0] for file in EXAMPLES.iterdir()}
    assert found == set(launchers.PLACES) == set(PLACES)


def test_a_job_that_sigterm_ended_waits_for_slurm(monkeypatch):
    naps = []
    monkeypatch.setattr(launchers, "work", lambda arguments: 128 + signal.SIGTERM)
    monkeypatch.setattr(launchers.time, "sleep", naps.append)
    with pytest.raises(RuntimeError, match="code 143"):
        Task(())()
    assert naps == [launchers.LONGEST_GRACE]


def test_an_unknown_place_is_refused_before_anything_else():
    with pytest.raises(Refused, match="accepted: local, slurm, ray, tpu"):
        launch("moon", Launch((), workers=0))
