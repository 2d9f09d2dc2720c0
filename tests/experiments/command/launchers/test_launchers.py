"""Launchers: what is printed, refused and handed on, wherever workers run."""

import os
import shlex
import subprocess
import sys

import pytest

from experiments.command import launchers
from experiments.command.launch import PLACES
from experiments.command.launchers import Launch, launch
from experiments.command.main import espalier
from refused import Refused
from tests.experiments.command.launchers.trained import STUDY, program, shell_checked
from tests.experiments.command.test_main import ROOT, call

EXAMPLES = ROOT / "experiments" / "launch"
POD = (
    "--option=name=pod-1",
    "--option=zone=us-east5-a",
    "--option=accelerator-type=v5litepod-32",
    "--option=runtime-version=v2-alpha-tpuv5-lite",
    "--store=gs://bucket/runs",
)


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
        (["--on=slurm", "--option=time=1h"], "--option=time: got 1h; accepted: 240, 04:00:00, "),
        (["--on=slurm", "--option=nodes=2"], "--option=nodes: got 2; accepted: 1: each of --wor"),
        (["--on=slurm", "--option=-n=4"], "--option=n: got 4; accepted: 1: each of --workers=N"),
        (["--on=local", "--setup=true"], "--setup: got true; accepted: none, but with slurm and"),
        (["--on=ray", "--no-report"], "--no-report: got it; accepted: launch --on=slurm"),
        (["--on=slurm", "--option=a=1", "--option=a=2"], "--option=a: got 1 and 2; accepted: it"),
        (["--on=slurm", "--option=array=1-3"], "--option: got array; accepted: --workers=N"),
        (["--on=slurm"], "--on: got slurm; accepted: a machine with srun and sbatch, or --dry-run"),
        (
            ["--on=tpu", *POD],
            "--on: got tpu; accepted: a machine with bash and gcloud, or --d",
        ),
        (["--on=tpu", *POD[1:]], "--option=name: got nothing; accepted: the pod's"),
        (["--on=tpu", POD[0], *POD[2:]], "--option=zone: got nothing; accepted: the pod's, as in"),
        (["--on=tpu", *POD[:2], *POD[3:]], "--option=accelerator-type: got nothing; accepted: the"),
        (["--on=tpu", "--option=name=P 1", *POD[1:]], "--option=name: got P 1; accepted: small le"),
        (["--on=tpu", *POD, "--option=node-count=2"], "--option: got node-count; accepted: none"),
        (["--on=tpu", *POD, "--workers=2"], "--workers: got 2; accepted: none"),
        (["--on=tpu", *POD[:4]], "--store: got runs; accepted: what every host sees"),
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
            [
                "--on=slurm",
                "--option=time=1-12",
                "--option=o=my logs/%A",
                "--setup=module load x",
            ],
            [
                "#SBATCH --time=2160\n",
                "#SBATCH --output='my logs/%A'\n",
                "set -e\nmodule load x\nset +e\n",
                " '--output=my logs/%A' '--error=my logs/%A' ",
            ],
        ),
        (["--on=slurm", "--option=J=mine"], ["--job-name=mine\n", "--job-name=mine-report\n"]),
        (
            ["--on=tpu", *POD, "--option=internal-ip", "--option=spot", "--setup=echo it's me"],
            ["pod='pod-1'\nwide=(--zone=us-east5-a)\nreach=(--internal-ip)\n", "\necho it's me\n"],
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


@pytest.mark.filterwarnings("ignore:domain .* is read:UserWarning")
@pytest.mark.parametrize("place", PLACES)
def test_each_places_page_begins_with_a_command_that_it_takes(place, capsys, monkeypatch):
    text = (ROOT / "docs" / "launchers" / f"{place}.md").read_text()
    typed = text.split("```\n")[1].replace("\\\n", " ").splitlines()[-1]
    program, *args = shlex.split(typed)
    assert program == "espalier" and f"--on={place}" in args
    monkeypatch.setattr("experiments.evidence.study.Study.check", lambda study: {})
    code, out, err = call(capsys, *args, "--dry-run")
    assert code == 0 and out, err
    if place != "ray":
        shell_checked(out)


def test_there_is_an_example_of_every_place():
    found = {file.name.partition(".")[0].partition("_")[0] for file in EXAMPLES.iterdir()}
    assert found == set(launchers.PLACES) == set(PLACES)


def test_an_unknown_place_is_refused_before_anything_else():
    with pytest.raises(Refused, match="accepted: local, slurm, ray, tpu"):
        launch("moon", Launch((), workers=0))
