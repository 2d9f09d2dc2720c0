"""Do the 90 % intervals of a law's parameters hold the planted ones?

Question: tables are planted with a law's own parameters and noise and fitted by the same law; how
often does a parameter's interval hold the planted value, for each law?
Command: `python -m experiments.bench.recovery [--sets=200] [--only=LAWS] [--out=FILE]`; offline,
one thread. Each row is written when it is done; `--only` replaces the rows of the named laws.
Cost: cpu_seconds of each row of the table.
Published numbers: none; `experiments/results/recovery.csv` holds the last run.

Beside `coverage`, which asks laws with a public table for a new run; here stand those without one.
Noise is normal in log target, every run its own trunk.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.bench.coverage import LEVEL, asked, bounds
from fitting import LAWS, Observations, fit
from fitting.kaplan import searched as kaplan_searched
from fitting.repetition import C4_BASE
from fitting.skaling import searched as skaling_searched
from refused import Refused

DRAWS = 150
OUT = Path(__file__).parents[1] / "results" / "recovery.csv"


@dataclass(frozen=True)
class Planted:
    """A law's runs, parameters and noise; `fixed` are known to the fit too."""

    axes: dict
    parameters: dict
    noise: float = 0.003
    fixed: dict = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """Every combination of the axes."""
        mesh = np.meshgrid(*self.axes.values(), indexing="ij")
        pairs = zip(self.axes, mesh, strict=True)
        return pd.DataFrame({name: axis.ravel() for name, axis in pairs})


_SIZES, _TOKENS = np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 6)
_SMALL, _BODIES = np.geomspace(1e8, 1e10, 6), np.geomspace(3e7, 1e9, 5)
_BY_TOKENS = C4_BASE["B"] * 1e10 ** -C4_BASE["beta"]
_FREE_BASE = {
    **{"E": C4_BASE["E"], "S": _BY_TOKENS, "alpha": C4_BASE["alpha"], "beta": C4_BASE["beta"]},
    **{"ratio": C4_BASE["A"] * 1e8 ** -C4_BASE["alpha"] / _BY_TOKENS, "R_D": 15.39, "R_N": 5.31},
}
PLANS: dict[str, Planted] = {
    "skaling": Planted(
        {"params_total": _SIZES, "tokens": _TOKENS},
        skaling_searched(
            {"E": 1.6, "A": 4e4, "B": 3e5, "alpha": 0.5, "beta": 0.55, "k": 0.4},
        ),
    ),
    "kaplan": Planted(
        {"params_total": np.geomspace(1e6, 1e9, 5), "tokens": np.geomspace(1e8, 2e10, 5)},
        kaplan_searched(LAWS["kaplan"].published["paper"]),
    ),
    "size": Planted(
        {"params_total": np.geomspace(1e8, 1e10, 12)}, {"E": 1.7, "A": 60.0, "alpha": 0.2}, 0.001
    ),
    "compute_floor": Planted(
        {"flops": np.geomspace(1e17, 1e21, 12)}, {"E": 1.7, "alpha": 600.0, "beta": 0.15}, 0.001
    ),
    "broken_data": Planted(
        {"tokens": np.geomspace(1e6, 1e12, 40)},
        {"E": 1.5, "b": 30.0, "c0": 0.1, "c1": 0.25, "d": 1e9, "f": 0.3},
    ),
    "farseer": Planted(
        {
            "params_non_embedding": np.geomspace(1e7, 3e9, 7),
            "tokens": np.geomspace(1e9, 2e11, 8),
        },
        {
            **{"E": 2.0, "floor_slope": -0.08, "gamma": -0.1, "B": 3000.0, "slope": 0.3},
            **{"beta": 0.05, "rate": 0.36, "rate_slope": 0.03, "alpha": 0.1},
        },
    ),
    "sparsity": Planted(
        {
            "params_total": _SMALL,
            "tokens": np.geomspace(1e9, 1e11, 5),
            "activation_ratio": np.geomspace(0.02, 1.0, 5),
        },
        {
            **{"e": 1.0, "a": 2000.0, "b": 5000.0, "c": 0.4, "d": 18.0, "alpha": 0.45},
            **{"beta": 0.4, "lambda": -0.2, "delta": 0.15, "gamma": 0.16},
        },
    ),
    "routed_floor": Planted(
        {"params_active": np.geomspace(1e7, 2e9, 6), "experts": 2.0 ** np.arange(10)},
        {"E": 1.4, "K": 1.9, "a": 0.2, "b": -0.15, "c": 0.012, "E_start": 2.0, "E_max": 300.0},
    ),
    "repetition_free": Planted(
        {
            "params_total": np.geomspace(2e8, 1e10, 5),
            "unique_tokens": np.array([1e9, 4e9, 16e9]),
            "epochs": np.array([1.0, 2.0, 4.0, 8.0, 16.0, 40.0]),
        },
        _FREE_BASE,
    ),
    "vocabulary": Planted(
        {
            "params_non_embedding": _BODIES,
            "vocabulary": np.geomspace(4e3, 1e5, 4),
            "tokens": np.geomspace(1e9, 2e10, 4),
        },
        dict(LAWS["vocabulary"].published["paper"]),
    ),
    "rate_batch_response": Planted(
        {"learning_rate": np.geomspace(3e-4, 1e-2, 6), "batch_tokens": np.geomspace(1e5, 4e6, 5)},
        {
            **{"base": 2.9, "rate": -0.02, "rate2": 0.03},
            **{"batch": 0.04, "batch2": 0.02, "rate_batch": -0.02},
        },
    ),
    "loss_to_loss": Planted(
        {"loss": np.linspace(2.2, 4.5, 20)},
        {"E_b": 0.6, "K": 0.52, "E_a": 1.6, "kappa": 1.29},
        fixed={"E_a": 1.6},
    ),
    "downstream_sigmoid": Planted(
        {"loss": np.linspace(0.4, 2.5, 25)},
        {"floor": 0.25, "reach": 0.9, "steepness": 4.0, "middle": 1.1},
        0.005,
        fixed={"floor": 0.25},
    ),
}


def plant(name: str, seed: int) -> Observations:
    """One planted table of a law."""
    plan, law = PLANS[name], LAWS[name]
    frame = plan.frame
    if "epochs" in frame:
        frame["tokens"] = frame["unique_tokens"] * frame.pop("epochs")
    if "vocabulary" in frame:
        words = frame["vocabulary"] * 64 * (frame["params_non_embedding"] / 1e6) ** 0.4
        frame["params_total"] = frame["params_non_embedding"] + words
        frame["unigram_loss"] = 4.5 + 0.3 * np.log(frame.pop("vocabulary"))
    columns = {key: frame["params_total" if key == "params" else key] for key in law.predictors}
    shaken = np.random.default_rng(seed).normal(size=len(frame))
    mean = law.predict(columns, plan.parameters)
    # A share that noise moves beyond 1 is read as 1.
    top = 1.0 if law.target == "accuracy" else np.inf
    frame[law.target] = np.minimum(mean * np.exp(plan.noise * shaken), top)
    return Observations(frame)


def judge(name: str, seed: int, draws: int = DRAWS) -> dict:
    """{parameter: whether its interval holds the planted value}; empty where there is no fit."""
    plan, law = PLANS[name], LAWS[name]
    params = "params_total" if "params" in law.predictors else None
    options = {"draws": draws, "level": LEVEL, "audits": 4, "fixed": plan.fixed}
    try:
        result = fit(law, plant(name, seed), seed=seed, params=params, **options)
    except Refused:
        return {}
    return {
        key: bool(result.intervals[key][0] <= plan.parameters[key] <= result.intervals[key][1])
        for key in law.names
        if key not in plan.fixed
    }


def recover(name: str, sets: int, draws: int = DRAWS) -> dict:
    """One row: the share of parameters held, over all, and the parameter that is held least."""
    start = time.process_time()
    found = [judge(name, seed, draws) for seed in range(sets)]
    free = [key for key in LAWS[name].names if key not in PLANS[name].fixed]
    held = pd.DataFrame([{key: row.get(key, False) for key in free} for row in found])
    by_name = held.mean()
    low, high = bounds(int(held[by_name.idxmin()].sum()), sets)
    return {
        "law": name,
        "runs": len(PLANS[name].frame),
        "parameters": len(free),
        "sets": sets,
        "refused": sum(not row for row in found),
        "held": float(held.to_numpy().mean()),
        "least": float(by_name.min()),
        "least_low": low,
        "least_high": high,
        "least_parameter": str(by_name.idxmin()),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def write(out: Path, row: dict):
    """Puts a row into the table on disk, in the order of `PLANS`."""
    rows = pd.DataFrame([row])
    if out.exists():
        old = pd.read_csv(out, comment="#")
        rows = pd.concat([old[old["law"] != row["law"]], rows])
    rows = rows[rows["law"].isin(PLANS)]
    rows = rows.iloc[np.argsort([list(PLANS).index(name) for name in rows["law"]], kind="stable")]
    header = (
        f"# {LEVEL:.0%} intervals of the parameters of planted laws, {DRAWS} bootstrap draws each\n"
        f"# least_low, least_high: {LEVEL:.0%} Wilson interval of the parameter held least\n"
    )
    partial = out.with_suffix(".partial")
    partial.write_text(header + rows.to_csv(index=False, float_format="%.4g"))
    os.replace(partial, out)


def main(argv=None):
    """Run the study and write the table."""
    options, chosen = asked(argv, __doc__, PLANS, OUT)
    for name in chosen:
        row = recover(name, options.sets)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        write(options.out, row)


if __name__ == "__main__":
    main()
