"""Where a store is put to the test: the real command in processes of its own, and what is right.

Processes are forked from one that has imported everything, before JAX has started anything, so that
a start takes no seconds of imports.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

import tests.conftest  # noqa: F401 — the same settings as in the tests.

ROOT = Path(__file__).parents[1]
TIMES = ["seconds", "tokens_per_second"]
STUDY = ("--config=tests/growing.py", "--config.seeds=(0,1)", "--keep=auto")
LEASE = 1.0  # Seconds of silence that are borne, where workers are stopped for longer.
LIMIT = 240.0  # Seconds after which a process that has not ended counts as hanging.

# All that may be in a store between two commands, besides what is read from a finished one.
ALLOWED = re.compile(
    r"segments/[0-9a-f]{16}/(spec\.json|metrics\.jsonl|eval\.jsonl|done\.json|checkpoint/\d+/.+)"
    r"|locks/[\w.-]+|workers/\.lock|studies/[\w.-]+/(study|sums)\.json"
    r"|studies/[\w.-]+/(report\.(md|html)|explorer\.html|\w+\.(csv|parquet|tex)|tensorboard/.+)"
)


@dataclass
class Stand:
    """Where commands are run: the corpus, a folder for stores, and what was found wrong."""

    corpus: Path
    folder: Path
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def start(self, command: str, store: Path, *args: str) -> "Child":
        """Starts a command on a store in a process of its own."""
        study = [f"--store={store}"]
        if command in ("run", "work", "plan", "report"):
            study += [*STUDY, f"--config.corpus={self.corpus}", "--mesh=data:1"]
            study = [s for s in study if command != "report" or not s.startswith(("--keep", "--m"))]
        if command in ("run", "work"):
            study += [f"--lease-seconds={LEASE}", "--checkpoint-seconds=0", "--fleet=loop"]
        return Child.of([command, *study, *args], self.folder)

    def run(self, command: str, store: Path, *args: str) -> "Child":
        """Runs a command to its end."""
        child = self.start(command, store, *args)
        child.wait(LIMIT)
        return child

    def count(self, kind: str) -> None:
        """Counts something that was done to a store."""
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def expect(self, good: bool, what: str) -> None:
        """Notes what is not as it should be."""
        if not good:
            self.faults.append(what)
            print(f"  WRONG: {what}", flush=True)


@dataclass
class Child:
    """A process that runs the command, with its output in files."""

    pid: int
    out: Path
    err: Path
    code: int | None = None

    @classmethod
    def of(cls, args: list[str], folder: Path) -> "Child":
        """Forks a process for a command line."""
        mark = f"{time.monotonic_ns()}"
        out, err = folder / f"{mark}.out", folder / f"{mark}.err"
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return cls(pid, out, err)
        code = 70
        try:
            for path, number in ((out, 1), (err, 2)):
                os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644), number)
            sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(ROOT)
            import scaling.train
            from experiments.command.main import interruptible, main

            interruptible()
            scaling.train.DISPATCH_STEPS = 2
            code = main(["espalier", *args])
        except BaseException:  # As the interpreter would.
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def poll(self) -> bool:
        """Says whether the process has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float) -> bool:
        """Waits for the process to end; says whether it has."""
        until = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def signal(self, number: int) -> bool:
        """Sends a signal, unless the process has ended."""
        if self.poll():
            return False
        os.kill(self.pid, number)
        return True

    @property
    def said(self) -> str:
        """What the process has written to stderr."""
        return self.err.read_text(errors="replace") if self.err.exists() else ""


def table(store: Path) -> pd.DataFrame:
    """Returns the run table that a store's last report wrote, without its times."""
    return pd.read_csv(store / "studies" / "growing-cpu" / "runs.csv").drop(columns=TIMES)


def lines(store: Path) -> dict[str, list]:
    """Returns step, loss and gradient norm of every line of every segment."""
    import json

    found = {}
    for file in sorted(store.glob("segments/*/metrics.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.parent.name] = [(r["step"], r["loss"], r["grad_norm"]) for r in records]
    return found


def whole(stand: Stand) -> Path:
    """Returns a store that was trained without any trouble."""
    store = stand.folder / "whole"
    if not store.exists():
        child = stand.run("run", store)
        assert child.code == 0, child.said
    return store


def as_whole(stand: Stand, store: Path, what: str, states: bool = True) -> None:
    """Compares a store with one that had no trouble: tables, lines, and nothing beside them.

    The same `states` are kept but where a disk had less room for them.
    """
    expected = whole(stand)
    stand.expect(table(store).equals(table(expected)), f"{what}: another table")
    stand.expect(lines(store) == lines(expected), f"{what}: other lines")
    names = {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    strays = sorted(name for name in names if not ALLOWED.fullmatch(name))
    stand.expect(not strays, f"{what}: left behind {strays[:3]}")
    kept = lambda s: {str(p.relative_to(s)) for p in s.glob("segments/*/checkpoint/*")}
    same = kept(store) == kept(expected) if states else kept(store) <= kept(expected)
    stand.expect(same, f"{what}: other states are kept")


def no_traceback(stand: Stand, child: Child, what: str) -> None:
    """Looks at what a process said."""
    stand.expect("Traceback" not in child.said, f"{what}: a traceback: {child.said[-400:]}")


def ended(stand: Stand, store: Path, what: str, states: bool = True) -> None:
    """Runs a study to its end, compares the store and removes it."""
    child = stand.run("run", store)
    no_traceback(stand, child, what)
    stand.expect(child.code == 0, f"{what}: exit code {child.code}: {child.said[-300:]}")
    if child.code == 0:
        as_whole(stand, store, what, states)
    shutil.rmtree(store, ignore_errors=True)


@contextlib.contextmanager
def stand_at(corpus: Path | None = None):
    """Gives a stand in a folder of its own, whose processes are forked before JAX starts."""
    import experiments.command.session  # noqa: F401 — what every command imports.
    import scaling.train  # noqa: F401
    from tests.corpora import small_corpus

    with tempfile.TemporaryDirectory() as folder:
        if corpus is None:
            small_corpus(Path(folder))
        yield Stand(corpus or Path(folder) / "small", Path(folder))
