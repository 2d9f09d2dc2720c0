"""The console command: what it refuses, in one line, with exit code 2 and nothing written."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[3]
STUDY = "--config=experiments/over_training.py"
CHINCHILLA = ("fit", "--law=chinchilla", "--table=published:chinchilla")
TOGETHER = ("--coordinator=127.0.0.1:1",)  # Where nobody listens.
SMALL = (
    "--config.widths=(16,)",
    "--config.seeds=(1,)",
    "--config.tokens=(20480,40960)",
    "--config.warmup_tokens=2048",
    "--config.evaluation_tokens=1024",
)


def espalier(*args, cwd=ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "espalier", *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def call(capsys, *args) -> tuple[int, str, str]:
    """Runs the command in this process, from the checkout."""
    from experiments.command import main as module

    with contextlib.chdir(ROOT):
        code = module.main(["espalier", *map(str, args)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["grow"],
            "command: got grow; accepted: plan, run, work, launch, report, status, compare, export",
        ),
        (["plan"], "--config: got nothing; accepted: STUDY[:PRESET]: "),
        (
            ["export", STUDY, "--out=x"],
            "--run: got nothing; accepted: one of the study's 44 runs, such as",
        ),
        (
            ["sample", STUDY, "--run=x"],
            "--run: got x; accepted: one of the study's 44 runs, such as",
        ),
        (
            ["export", "--run=../x", "--out=x"],
            "run: got ../x; accepted: an id of 16 hexadecimal digits",
        ),
        (["export", "--out=x"], "--run: got nothing; accepted: an id of the run table"),
        (["sample", "--study=x", "--run=x"], "--study: got x; accepted: a study trained in"),
        (["status"], "accepted: a store in which a study was trained"),
        (["compare", "a", "a"], "study: got a twice; accepted: two studies"),
        (["compare", "a", "../b"], "study's name: got ../b; accepted: at most 100 letters"),
        (["report", STUDY, "--as=<b>"], "study's name: got <b>; accepted: at most 100 letters"),
        (["run", STUDY, "--keep=some"], "--keep: got some; accepted: auto, all, none or bytes"),
        (["plan", STUDY, "--config.mixture=code=0.3,code=1"], "mixture.code: got two shares"),
        (
            ["run", STUDY, "--config.tokens=(25600,)", "--config.warmup_tokens=102400"],
            "warmup_tokens: got 102400; accepted: at most the 20,480 tokens of its phase",
        ),
        (
            ["run", STUDY, "--config.evaluation_tokens=1000000000"],
            "held_out.tokens_per_domain: got 1000000000 tokens; accepted: at most",
        ),
        (["report", STUDY], "accepted: a store in which over_training-cpu has been trained"),
        (["plan", "--config=experiments/nowhere.py"], "or a study's name: binary_codes, known_"),
        (
            ["plan", STUDY, "--profile=x"],
            "--profile: got x; accepted: espalier run, launch, not espalier plan",
        ),
        (["run", STUDY, "--profile=gs://x"], "--profile: got gs://x; accepted: a folder on this"),
        (["plan", f"{STUDY}:huge"], "preset: got huge; accepted: cpu, laptop, gpu, pod, pod_7b"),
        (
            ["plan", STUDY, "--config.widht=3"],
            "config.widht: got an unknown name; accepted: batch_tokens",
        ),
        (
            ["plan", STUDY, "--config.batch_tokens=abc"],
            "config.batch_tokens: got abc; accepted: int",
        ),
        (
            ["plan", STUDY, "--config.widths=abc"],
            "config.widths: got ('abc',); accepted: a tuple of int",
        ),
        (["plan", STUDY, "--config.widths=(17,)", "--config.seeds=(1,)"], "width: got 17"),
        (["plan", STUDY, "--color=red"], "flag: got --color"),
        (["plan", STUDY, "--config.corpus=web"], "corpus: got 'web'; accepted: wheels"),
        (["plan", STUDY, "--config.mixture=web=1"], "mixture.web: got"),
        (["plan", STUDY, "--config.mixture=code=0.5,docs=0.6"], "accepted: shares that sum to 1"),
        (["plan", STUDY, "--config.mixture=code"], "mixture: got code; accepted: DOMAIN=SHARE"),
        (
            ["plan", STUDY, "--config.batch_tokens=1000"],
            "phase.batch_tokens: got 1000; accepted: a multiple of model.context=64",
        ),
        (["plan", STUDY, "--config.tokens=(1000,)"], "tokens: got 1000; accepted: enough"),
        (
            [
                "plan",
                STUDY,
                "--config.context=1000000",
                "--config.batch_tokens=1000000",
                "--config.tokens=(20000000,)",
            ],
            "context",
        ),
        (["plan", STUDY, "--config.tokens=(102400000,)"], "epochs of domain"),
        (["run", STUDY, "--mesh=rows:2"], "mesh: got rows:2"),
        (["work", STUDY, "--mesh=rows:2"], "mesh: got rows:2"),
        (
            ["work", STUDY, "--lease-seconds=0"],
            "--lease-seconds: got 0; accepted: a number more than 0",
        ),
        (["work", STUDY, "--fleet=4"], "--fleet: got 4; accepted: auto or loop"),
        (["run", STUDY, "--processes=2"], "--processes: got 2; accepted: --coordinator=HOST:PORT"),
        (["run", STUDY, "--process=1"], "--process: got 1; accepted: --coordinator=HOST:PORT"),
        (["run", STUDY, *TOGETHER, "--processes=2", "--process=2"], "--process: got 2; accepted: "),
        (["run", STUDY, *TOGETHER, "--process=0"], "--processes: got None; accepted: how many"),
        (
            ["run", STUDY, "--coordinator=10.0.0.1", "--processes=2", "--process=0"],
            "--coordinator: got 10.0.0.1; accepted: HOST:PORT",
        ),
        (
            ["run", STUDY, *TOGETHER, "--processes=2", "--process=1", "--join-seconds=0.1"],
            "--coordinator: got 127.0.0.1:1; accepted: where process 0 listens; none within 0.1 s",
        ),
        (
            ["work", STUDY, *TOGETHER],
            "--coordinator: got 127.0.0.1:1; accepted: espalier run, not espalier work",
        ),
        (["fit", "--law=chinchilla"], "--table"),
        (["fit", "--law=gravity", "--table=published:chinchilla"], "law: got gravity; accepted: "),
        (["fit", "--law=chinchilla", "--table=nowhere.csv"], "nowhere.csv"),
        ([*CHINCHILLA, "--level=90"], "level: got 90.0; accepted: a number between 0 and 1"),
        ([*CHINCHILLA, "--objective=foo"], "objective: got foo; accepted: huber, lad"),
        ([*CHINCHILLA, "--held-out=garbage"], "held_out: got garbage; accepted: largest_decile"),
        ([*CHINCHILLA, "--columns=tokens"], "--columns: got tokens; accepted: THEIRS=OURS"),
        ([*CHINCHILLA, "--columns=size=tokens"], "columns: got size; accepted: one of"),
        ([*CHINCHILLA, "--flops=1e20,many"], "--flops: got 1e20,many; accepted: FLOP"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(args, message, capsys, tmp_path):
    store = f"--store={tmp_path / 'store'}"
    has_none = ("grow", "fit", "corpus", "help", "completion")
    code, out, err = call(capsys, *args, *([] if args[0] in has_none else [store]))
    assert code == 2
    assert out == "" and err.startswith("espalier: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "store").exists()


def test_a_coordinator_at_a_port_that_is_taken_is_refused(capsys):
    with socket.create_server(("", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        several = (f"--coordinator={here}", "--processes=2", "--process=0")
        code, out, err = call(capsys, "run", STUDY, *several)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"--coordinator: got {here}; accepted: a port that is free in process 0" in err


def test_a_mistake_leaves_the_process_with_code_two():
    done = espalier("plan", f"{STUDY}:huge")
    assert done.returncode == 2
    assert done.stderr == "espalier: preset: got huge; accepted: cpu, laptop, gpu, pod, pod_7b\n"


def test_a_tampered_corpus_is_refused(tmp_path, capsys):
    from tests.corpora import small_corpus

    corpus = small_corpus(tmp_path)
    file = next(tmp_path.glob("small/*.train.bin"))
    file.write_bytes(file.read_bytes()[::-1])
    path = next(iter(corpus.domains.values())).folder
    code, _, err = call(capsys, "plan", STUDY, f"--config.corpus={path}")
    assert code == 2 and "content hash" in err and err.count("\n") == 1


def test_plan_run_again_and_report(tmp_path, capsys, monkeypatch):
    store = f"--store={tmp_path / 'store'}"
    with monkeypatch.context() as patch:  # Nothing known of fleets: a plan does not measure them.
        patch.setattr("scaling.speed.cache_folder", lambda: tmp_path)
        patch.setattr("scaling.speed.timed", None)
        patch.setattr("scaling.speed.CPU_FLEET_FLOPS", 0.0)
        code, out, _ = call(capsys, "plan", STUDY, *SMALL, store, "--mesh=data:1")
    assert code == 0
    assert "fleets: none" in out and "not measured on this device yet: 1 (the run" in out
    for words in ("2 runs, 4 segments", "tokens/param", "sharing: ", "(0.7333)", "memory: about"):
        assert words in out, out
    assert "epochs per domain" in out and "0 of 4 segments are there" in out
    few = "the over-training law cannot be fitted to these runs: 0 of params_total, 0 of tokens"
    assert few in " ".join(out.split())  # All of the only width's runs are held out.
    assert not (tmp_path / "store").exists()

    from experiments import over_training
    from experiments.command import session

    config = over_training.get_config("cpu")
    config.widths, config.seeds, config.tokens = (16,), (1,), (20480, 40960)
    config.warmup_tokens, config.evaluation_tokens = 2048, 1024
    study = over_training.study(config)
    settings = session.Settings(
        store=str(tmp_path / "store"), mesh="data:1", profile=str(tmp_path / "trace")
    )
    session.run(study, config, settings)
    first, told = capsys.readouterr()
    assert "4 to train" in first and "trained 4 segments" in first
    assert few in first and f"tensorboard --logdir={tmp_path}/store/studies/over_t" in first
    assert told.count("espalier: the report has no law: ") == 1
    assert f"trace: {tmp_path / 'trace'}" in first
    session.run(study, config, settings)
    again = capsys.readouterr().out
    assert "nothing to train" in again and "no trace: " in again
    out = tmp_path / "store" / "studies" / "over_training-cpu"
    assert {
        "report.md",
        "report.html",
        "explorer.html",
        "runs.csv",
        "runs.parquet",
        "evals.csv",
    } <= {f.name for f in out.iterdir()}
    page = (out / "report.html").read_text()
    assert "These runs do not give what the report is about" in page and "20480" in page
    (out / "report.html").unlink()
    session.report(study, config, settings)
    assert (out / "report.html").read_text() == page
    assert len(list((out / "tensorboard").iterdir())) == 2
    assert len(pd.read_csv(out / "runs.csv")) == 2
    code, said, _ = call(capsys, "plan", STUDY, *SMALL, store)
    assert "4 of 4 segments are there" in said and "✓" in said


def test_a_run_beside_workers_of_the_same_study_is_refused_and_they_beside_it(tmp_path, capsys):
    from scaling import Store

    store = tmp_path / "runs"
    for command, other_shares in (("run", True), ("run", False), ("work", False)):
        with Store.at(store).reserved("over_training-cpu", shared=other_shares):
            code, out, err = call(
                capsys, command, STUDY, *SMALL, f"--store={store}", "--mesh=data:1"
            )
        assert code == 2 and out == "" and "over_training-cpu in training; accepted: one" in err
    assert [file.name for file in store.iterdir()] == ["locks"]


@pytest.mark.system
def test_a_worker_ends_on_sigterm_with_its_code_and_another_goes_on(tmp_path, capsys, monkeypatch):
    import scaling.train
    from experiments.command import session
    from scaling.progress import Silent

    class Terminate(Silent):
        def update(self, segment, step, loss, speed):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(scaling.train, "DISPATCH_STEPS", 4)
    store = tmp_path / "runs"
    arguments = ["work", STUDY, *SMALL, "--mesh=data:1", "--keep=none", f"--store={store}"]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(session, "progress", Terminate)
        code, out, err = call(capsys, *arguments)
    assert code == 128 + signal.SIGTERM, err
    assert "stopped at step" in out and "no lease held" in out and "the plan is done" not in out
    assert list((store / "leases").iterdir()) == []
    assert list(store.rglob("checkpoint")) != []
    code, out, err = call(capsys, *arguments)
    assert code == 0, err
    assert "the plan is done" in out
    assert list(store.rglob("checkpoint")) == [] == list((store / "leases").iterdir())
    code, out, err = call(capsys, *arguments)
    assert code == 0 and "nothing to train" in out and ": 0 segments finished here" in out
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.system
def test_a_run_goes_on_when_nobody_reads_what_it_prints(corpus, tmp_path):
    path = next(iter(corpus.domains.values())).folder
    command = [sys.executable, "-P", "-m", "espalier", "run", f"--store={tmp_path}"]
    command += ["--config=tests/experiments/command/one_run.py", f"--config.corpus={path}"]
    run = subprocess.Popen(
        [*command, "--config.steps=20", "--mesh=data:1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        assert run.stdout.readline() == "one_run: 2 segments, 2 to train\n"
        run.stdout.close()
        err = run.stderr.read()
    assert run.returncode == 0, err
    assert "Error" not in err and (tmp_path / "studies" / "one_run-cpu" / "report.md").exists()


def test_help_and_mistakes_need_none_of_the_heavy_libraries():
    heavy = "{'jax', 'flax', 'numpy', 'pandas', 'ml_collections', 'scaling', 'data', 'models'}"
    code = (
        "import sys; from experiments.command.main import main; "
        "codes = [main(['espalier', *line.split()]) for line in sys.argv[1:]]; "
        f"assert not {heavy} & set(sys.modules), set(sys.modules) & {heavy}; print(codes)"
    )
    lines = ["help", "fit --help", "corpus build -h", "plan --stroe=x", "plan --config=stems"]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines, "completion bash", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("[0, 0, 0, 2, 2, 0, 0]\n"), done.stderr


def test_a_plan_starts_without_what_only_training_or_a_corpus_of_its_own_needs():
    code = (
        "import sys, scaling, data, models; "
        "assert not {'orbax', 'scipy', 'matplotlib', 'fitting'} & set(sys.modules); "
        "import experiments.command.session, experiments.over_training; late = {'scipy.special', "
        "'scipy.stats', 'matplotlib', 'markdown', 'orbax', 'scaling.chips.compiled'}; "
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_process_ends_without_looking_for_garbage():
    code = (
        "import atexit, gc, sys; from experiments.command.main import run; "
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000)); "
        "sys.argv[1:] = ['help', 'plan']; run()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("True\n") and done.returncode == 0 and done.stderr == ""


def test_fit_needs_no_accelerator_library(tmp_path):
    rng = np.random.default_rng(0)
    params, tokens = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6))
    )
    loss = 1.7 + 400 * params**-0.34 + 410 * tokens**-0.28
    table = pd.DataFrame(
        {"size": params, "tokens": tokens, "loss": loss * np.exp(rng.normal(0, 0.003, 36))}
    )
    table.to_csv(tmp_path / "mine.csv", index=False)
    code = (
        "import sys; from experiments.command import main; "
        "code = main.main(['espalier', *sys.argv[1:]]); "
        "assert not {'jax', 'flax', 'models', 'scaling'} & set(sys.modules), 'imported'; "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "fit",
            "--law=chinchilla",
            f"--table={tmp_path / 'mine.csv'}",
            "--columns=size=params_total",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "alpha" in done.stdout and "interval" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="loss"), "loss"),
        (lambda t: t.assign(loss=[-1.0, *t["loss"][1:]]), "loss: got -1 in run run0"),
        (lambda t: t.iloc[[0, 1, 2, 4, 5, 8]], "runs: got 6; accepted: 7"),
    ],
)
def test_tables_that_cannot_be_fitted_are_refused(change, message, tmp_path, capsys):
    params, tokens = (x.ravel() for x in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    loss = 1.7 + 400 * params**-0.34 + 410 * tokens**-0.28
    table = pd.DataFrame({"params_total": params, "tokens": tokens, "loss": loss})
    change(table).to_csv(tmp_path / "bad.csv", index=False)
    out = tmp_path / "out"
    code, _, err = call(
        capsys, "fit", "--law=chinchilla", f"--table={tmp_path / 'bad.csv'}", f"--out={out}"
    )
    assert code == 2 and message in err and err.count("\n") == 1
    assert not out.exists()
