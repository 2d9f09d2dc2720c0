"""Is a fit no slower than in an earlier version of this repository, for the same law and settings?

Question: CPU seconds of `fit("chinchilla", ...)` of the 240 published runs, with profiles and 2,000
draws on one thread, here and in a commit before. Each side is a process of its own on one and the
same CPU, and they take turns, so that what else the machine does hits both.
Command: `python -m experiments.bench.fit_before [--commit=cf68389] [--turns=9]`, in a clone with
its history.
Cost: half a minute.
Published numbers: none.
"""

import argparse
import inspect
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.bench.peer import ONE_THREAD, alternate

HERE = Path(__file__).parents[2]
FIRST = "cf68389"  # the last commit before there was more than one law a call
LAW, TABLE = "chinchilla", "published:chinchilla:240"


def serve() -> None:
    """Is one side: fits once per line on stdin, and answers with its seconds and its parameters.

    Its text is run in both checkouts: an older one has no file like this.
    """
    import json
    import os
    import sys
    import time

    from fitting import Observations, fit

    folder, file = os.environ["PYTHONPATH"], sys.modules["fitting"].__file__
    if not file.startswith(folder + os.sep):
        raise ImportError(f"fitting is not that of {folder}: {file}")
    law, table = sys.argv[1:]
    runs = Observations.read(table)
    for _ in sys.stdin:
        start = time.process_time()
        result = fit(law, runs)
        spent = {"cpu": time.process_time() - start, "parameters": dict(result.parameters)}
        print(json.dumps(spent | {"intervals": dict(result.intervals)}), flush=True)


def compare(before: Path, turns: int = 9) -> dict:
    """Times the fit here and in another checkout, in turns; the first of each is not counted.

    Returns:
      {"here", "before": median CPU seconds, "ratio": median of here / before over the turns,
      "apart": largest relative difference of a parameter or an end of its interval}.
    """
    cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    # -P: not from the working directory, which is that of this checkout.
    side = [sys.executable, "-P", "-c", f"{inspect.getsource(serve)}\nserve()", LAW, TABLE]
    folders = [{"PYTHONPATH": str(folder)} | ONE_THREAD for folder in (HERE, before)]
    pairs = alternate([(side, added) for added in folders], turns, cpu)
    ours, theirs = (statistics.median(pair[side]["cpu"] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(pair[0]["cpu"] / pair[1]["cpu"] for pair in pairs)
    apart = max(abs(a / b - 1) for a, b in zip(*map(_numbers, pairs[0]), strict=True))
    return {"here": ours, "before": theirs, "ratio": ratio, "apart": apart}


def _numbers(answer: dict) -> list[float]:
    ends = [end for name in sorted(answer["intervals"]) for end in answer["intervals"][name]]
    return [answer["parameters"][name] for name in sorted(answer["parameters"])] + ends


def run(commit: str = FIRST, turns: int = 9) -> dict | None:
    """`compare` with a commit, checked out in a folder that is removed again; None without it."""
    git = ["git", "-C", str(HERE)]
    known = subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True)
    if known.returncode:
        return None
    git.append("worktree")
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder).resolve() / "before"
        added = [*git, "add", "--quiet", "--detach", str(before), commit]
        subprocess.run(added, check=True)
        try:
            return compare(before, turns)
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)


def main(argv=None):
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commit", default=FIRST)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args(argv)
    found = run(options.commit, options.turns)
    if found is None:
        print(f"fit before: {options.commit} is not in this clone's history, so not compared")
        return
    print(
        f"fit of {LAW} to 240 runs, CPU s, medians of {options.turns} turns: here "
        f"{found['here']:.3f}, at {options.commit} {found['before']:.3f}, ratio "
        f"{found['ratio']:.3f} (at most 1); results {found['apart']:.1e} apart"
    )


if __name__ == "__main__":
    main()
