"""How long do fits take on one thread, and how much faster than the usual procedure?

Question: time and memory of the Chinchilla fit, its bootstrap, all published refits, and of reading
a large table; with `--usual`, the same optimum by 4,500 L-BFGS-B starts (Hoffmann et al. 2022,
appendix D.3).
Command: `python -m experiments.bench.fitting [--usual]`.
Cost: half a minute; a few minutes with --usual.
Published numbers: 88 to 100 s for the 4,500 starts of Besiroglu et al.'s notebook on 2 vCPUs.
"""

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from fitting import Observations, fit
from fitting.chinchilla import CHINCHILLA
from fitting.intervals import draw
from fitting.objective import Problem, objective_value
from fitting.solver import solve


def problem() -> Problem:
    """The 240 runs of the published fit, Huber(1e-3) on log loss."""
    runs = Observations.read("published:chinchilla:240")
    columns = {"params": runs.column("params_total"), "tokens": runs.column("tokens")}
    return Problem(CHINCHILLA, columns, runs.column("loss"))


def timed(task, repeats: int = 3) -> tuple[float, object]:
    """Least CPU seconds of a few repeats, and the last result."""
    best, value = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        value = task()
        best = min(best, time.process_time() - start)
    return best, value


def peak_memory() -> float:
    """Largest resident memory of this process so far, MB.

    From the kernel's own record where there is one: `getrusage` also remembers the memory of the
    process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return float(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def usual(here: Problem) -> tuple[int, float]:
    """4,500 starts of L-BFGS-B on the summed objective: starts done, best objective.

    As published: log-sum-exp in log A, log B, log E, alpha, beta, default stopping rules.
    """
    coefficients, exponents = (0, 5, 10, 15, 20, 25), (0, 0.5, 1, 1.5, 2)
    floors = (-1, -0.5, 0, 0.5, 1)
    grid = itertools.product(coefficients, coefficients, floors, exponents, exponents)
    size, data = np.log(here.columns["params"]), np.log(here.columns["tokens"])
    seen, ones = np.log(here.target), np.ones_like(size)

    def summed(theta):
        a, b, e, alpha, beta = theta
        parts = np.stack([a - alpha * size, b - beta * data, e * ones])
        top = parts.max(axis=0)
        shares = np.exp(parts - top)
        whole = shares.sum(axis=0)
        miss = top + np.log(whole) - seen
        slope = np.clip(miss, -here.delta, here.delta)
        shares = shares / whole * slope
        gradient = [*shares.sum(axis=1), -shares[0] @ size, -shares[1] @ data]
        return np.sum(slope * (miss - slope / 2)), np.array(gradient)

    starts = [np.array([a, b, e, alpha, beta]) for a, b, e, alpha, beta in grid]
    found = [minimize(summed, start, jac=True, method="L-BFGS-B").fun for start in starts]
    return len(starts), float(min(found))


def reading(rows: int) -> float:
    """CPU seconds of reading a table of runs, checked cell by cell, over those of pandas alone."""
    rng = np.random.default_rng(0)
    params, tokens = rng.integers(10**6, 10**9, rows), rng.integers(10**8, 10**11, rows)
    loss = 1.8 + 430 / params**0.34 + 1250 / tokens**0.3 + rng.normal(0, 1e-3, rows)
    table = pd.DataFrame({"params_total": params, "tokens": tokens, "loss": loss.round(5)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runs.csv"
        table.to_csv(file, index=False)
        theirs, _ = timed(lambda: pd.read_csv(file), 3)
        ours, _ = timed(lambda: Observations.read(file), 2)
    return ours / theirs


def run(with_usual: bool = False, draws: int = 4000, refits: bool = True) -> dict[str, float]:
    """Measured numbers by name; CPU seconds on one thread, memory in MB."""
    from experiments.evidence.published_fits import fits

    here = problem()
    out = {}
    with threadpool_limits(limits=1):
        out["chinchilla fit audited by 32 random starts, CPU s"], optimum = timed(
            lambda: solve(here), 10
        )
        out["chinchilla fit without the audit, CPU s"], _ = timed(lambda: solve(here, audits=0), 10)
        runs = Observations.read("published:chinchilla:240")
        trunks = runs.frame["run"].to_numpy()
        start = time.process_time()
        draw(here, optimum.point, trunks, np.arange(len(trunks)), draws)
        out[f"{draws} bootstrap draws, CPU s"] = time.process_time() - start
        out["fit with profiles and 2000 draws, CPU s"], _ = timed(
            lambda: fit("chinchilla", runs), 1
        )
        if refits:
            start = time.process_time()
            count = sum(1 for _ in fits(2000))
            out[f"all {count} published fits with intervals, CPU s"] = time.process_time() - start
        out["peak memory, MB"] = peak_memory()
        out["reading 1e6 rows over pandas.read_csv, aimed at 20 at most"] = reading(1_000_000)
        if with_usual:
            start = time.process_time()
            count, best = usual(here)
            seconds = time.process_time() - start
            out[f"{count} L-BFGS-B starts, CPU s"] = seconds
            out["ratio to our fit"] = (
                seconds / out["chinchilla fit audited by 32 random starts, CPU s"]
            )
            mine = objective_value(here, optimum.point)
            out["objective of theirs / ours - 1"] = best / mine - 1
    return out


def main(argv=None):
    """Print one line per number."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--usual", action="store_true", help="also the 4,500 L-BFGS-B starts")
    options = parser.parse_args(argv)
    for name, value in run(options.usual).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
