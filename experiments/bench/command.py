"""The command of two checkouts by turns: CPU seconds of help, plan, fit and report.

`python -m experiments.bench.command --before=CHECKOUT --store=STORE` prints the table. STORE has a
finished `over_training:cpu`, of `espalier run`; each side reports from a copy of it. The sides take
turns on one machine, with the packages of one Python, and of several turns the least counts: what
else the machine does makes a turn dearer, never cheaper. `report` stands there whole and beside its
fits and figures, which are timed in the process that makes them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
# What Python compiled is kept, as for users: of several turns only the first compiles.
SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
STUDY = "experiments/over_training.py:cpu"
LAW = ("fit", "--law=chinchilla", "--table=published:chinchilla:240")
# The entry of a checkout of before there was `espalier.py`, and that of one with it.
ENTRIES = {
    False: "from experiments.main import run; run()",
    True: "import espalier; espalier.run()",
}
NAMES = "from experiments.command.main import COMMANDS; print(*COMMANDS)"
# Runs the entry and says on the last line of stderr what the fits and figures within it took.
TIMED = """
import functools, resource, sys, types

def now():
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime

began = now()
import matplotlib.figure
spent, inside = [now() - began], [False]  # Nothing but figures needs it.
import fitting, fitting.figures

def timed(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if inside[0]:
            return function(*args, **kwargs)
        inside[0], began = True, now()
        try:
            return function(*args, **kwargs)
        finally:
            inside[0], spent[0] = False, spent[0] + now() - began
    return wrapped

for module, names in ((fitting, ("fit", "baselines")), (fitting.figures, dir(fitting.figures))):
    for name in names:
        if isinstance(found := getattr(module, name), types.FunctionType) and name[0] != "_":
            setattr(module, name, timed(found))
matplotlib.figure.Figure.savefig = timed(matplotlib.figure.Figure.savefig)
try:
    {entry}
finally:
    print(f"{{now() - spent[0]:.3f}}", file=sys.stderr)
"""


def seconds(checkout: Path, code: str, arguments: Sequence[str], folder: Path) -> tuple:
    """Returns the CPU seconds of a process that runs code of a checkout, and its last line."""
    command = [sys.executable, "-c", code, *arguments]
    told = folder / "told"
    with told.open("w") as opened:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | SETTINGS | {"PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=opened,
        )
        _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime, (told.read_text().splitlines() or [""])[-1]


def measured(sides: dict[str, Path], store: Path, turns: int, say: Callable) -> dict[str, list]:
    """Returns {what: [least seconds of each side]}."""
    asked = subprocess.run([sys.executable, "-c", NAMES], cwd=HERE, capture_output=True, text=True)
    names = asked.stdout.split()
    tasks = {"help": ["help"]} | {f"{name} --help": [name, "--help"] for name in names}
    tasks |= {"plan": ["plan"], "fit": [*LAW], "report": ["report"]}
    found: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for side in sides:
            shutil.copytree(store, folder / side / "runs")
        for what, arguments in tasks.items():
            least = [float("inf")] * 4
            for _ in range(turns):
                for i, (side, checkout) in enumerate(sides.items()):
                    study = [f"--config={checkout / STUDY}"] * (what in ("plan", "report"))
                    code = ENTRIES[(checkout / "espalier.py").exists()]
                    code = TIMED.format(entry=code) if what == "report" else code
                    whole, line = seconds(checkout, code, [*arguments, *study], folder / side)
                    least[i] = min(least[i], whole)
                    if what == "report":
                        least[2 + i] = min(least[2 + i], float(line))
            found[what] = least[:2]
            if what == "report":
                found["report, beside its fits and figures"] = least[2:]
            say(f"{what}: {least}")
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    say = lambda line: print(line, file=sys.stderr, flush=True)
    found = measured({"before": asked.before, "now": HERE}, asked.store, asked.turns, say)
    print("| CPU-seconds, the least | before | now |\n| --- | ---: | ---: |")
    for what, (before, now) in found.items():
        print(f"| `{what}` | {before:.2f} | {now:.2f} |")


if __name__ == "__main__":
    main()
