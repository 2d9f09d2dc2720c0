"""Do 90 % prediction intervals hold at ten times the compute?

Question: planted data sets of the size of the published tables are fitted, and a new run at ten
times the largest compute is predicted; how often does the interval contain it, overall and among
the fits judged identified?
Command: `python -m experiments.bench.coverage [--sets=200] [--only=PLANS] [--out=FILE]`; offline,
one thread. Each row is written when it is done; `--only` replaces the rows of the named plans.
Cost: 26 CPU-minutes for 200 sets per plan and noise structure, 14 of them for `qat` (one core of an
Intel Xeon, the other at work, 2026-11-25).
Published numbers: none; `experiments/results/coverage.csv` holds the last full run.

Noise is normal in log loss with the scale of the published fit's residuals. In half of the sets
70 % of its variance is shared by the runs of a trunk. Laws without a published table have no plan,
but for the QAT laws, whose paper describes its runs; nor has the mixing law, which predicts
mixtures and not compute.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from fitting import LAWS, Observations, fit
from refused import Refused

LEVEL, DRAWS, SHARED = 0.9, 300, (0.0, 0.7)
OUT = Path(__file__).parents[1] / "results" / "coverage.csv"


@dataclass(frozen=True)
class Plan:
    """One law's planted truth: settings and trunks of the runs, parameters, noise, target runs."""

    law: str
    frame: pd.DataFrame
    parameters: dict
    noise: float
    target: dict
    objective: str = "huber"
    sets: int | None = None  # at most this many, where the row is a contrast and not a claim


def _grouped(frame: pd.DataFrame, by: list[str], size: int) -> pd.DataFrame:
    """The table with trunks of `size` neighbouring runs that agree in `by`."""
    frame = frame.sort_values(by, kind="stable").reset_index(drop=True)
    place = frame.groupby(by[:-1] or by, sort=False).cumcount() // size
    frame["trunk"] = (
        frame[by[:-1] or by].astype(str).agg("/".join, axis=1) + "/" + place.astype(str)
    )
    return frame


def _neighbours(frame: pd.DataFrame, by: list[str], size: int) -> pd.DataFrame:
    """The table with trunks of `size` runs that follow one another in `by`."""
    frame = frame.sort_values(by).reset_index(drop=True)
    return frame.assign(trunk=[f"trunk{row // size}" for row in range(len(frame))])


def _published(law: str, table: str, by, size, target, objective="huber", columns=None) -> Plan:
    obs = Observations.read(f"published:{table}")
    options = {"objective": objective, "point_only": True}
    result = fit(law, obs, **options)
    miss = result.residuals["residual"].to_numpy()
    # The median absolute residual is not moved by the few outliers the Huber loss is there for.
    noise = float(1.4826 * np.median(np.abs(miss)))
    keep = [name for name in columns or () if name in obs.frame]
    frame = _grouped(obs.frame[keep].copy(), by, size)
    return Plan(law, frame, dict(result.parameters), noise, target, objective)


def chinchilla() -> Plan:
    """240 runs; trunks of 4 runs nearest in size."""
    columns = ["params_total", "tokens"]
    target = {"params_total": [3.5e10], "tokens": [6e11]}  # about 10 x the largest 1.3e22 FLOP
    plan = _published("chinchilla", "chinchilla:240", columns, 4, target, columns=columns)
    return replace(plan, frame=_neighbours(plan.frame, columns, 4))


def over_training() -> Plan:
    """34 runs on C4; trunks of 4 runs of one size."""
    columns = ["params_total", "tokens"]
    target = {"params_total": [6.9e9 * 10**0.5], "tokens": [1.38e11 * 10**0.5]}
    return _published("over_training", "over_training:c4", columns, 4, target, columns=columns)


def parscale() -> Plan:
    """24 runs on Pile; trunks of 2 runs nearest in size."""
    columns = ["params_non_embedding", "streams"]
    target = {"params_non_embedding": [4.4e10], "streams": [8]}
    plan = _published("parscale", "parscale:pile", columns, 2, target, columns=columns)
    parameters = {name: plan.parameters[name] for name in LAWS["parscale"].names}
    return replace(plan, frame=_neighbours(plan.frame, columns, 2), parameters=parameters)


def downstream() -> Plan:
    """Error on 17 tasks of 34 models trained on C4; trunks of 4 models nearest in loss."""
    target = {"loss": [2.136]}  # what the over-training law gives at 10 x the largest compute
    plan = _published("downstream", "over_training:c4", ["loss"], 4, target, columns=["loss"])
    return replace(plan, frame=_neighbours(plan.frame, ["loss"], 4))


def repetition() -> Plan:
    """182 runs; trunks of 4 runs of one size; the published R_D and R_N are planted."""
    columns = ["params_total", "unique_tokens", "tokens"]
    target = {"params_total": [2e10], "tokens": [7.7e11], "unique_tokens": [5e10]}
    plan = _published("repetition", "repetition", columns, 4, target, columns=columns)
    published = dict(LAWS["repetition"].published["c4"])
    # Residuals of the published fit carry outliers of several per cent; seeds differ by far less.
    return Plan(plan.law, plan.frame, published, 0.005, target)


def routed() -> Plan:
    """58 S-Base runs; trunks of 4 runs of one dense size."""
    columns = ["params_active", "experts"]
    target = {"params_active": [1.3e10], "experts": [64]}
    options = {"objective": "least_squares_log", "columns": columns}
    return _published("routed", "routed:s-base", columns, 4, target, **options)


# No coefficients of the four-term law are public. With these the best QAT share follows the
# published formula (arXiv:2509.22935) to 0.04 on average over the grid of `qat`, and at that share
# quantisation costs about 0.43, 0.22, 0.06 and 0.015 nats/token at 1, 2, 4 and 6 bits.
QAT = {
    **{"alpha": 1.7, "beta": 0.55, "zeta": 0.75, "theta": 0.75, "phi": 0.24, "lambda": 0.79},
    **{"gamma": 0.33, "eta": 0.32, "kappa": 1.06, "chi": 0.9, "psi": 0.56, "omega": 0.165},
    **{"mu": 0.84, "nu": 0.42, "xi": 0.4, "rho": 0.08},
}


def _qat(budgets, shares, bits, sets=None) -> Plan:
    """Sizes of the paper x budgets x QAT shares x bits, and every budget in full precision."""
    rows = []
    for params in (8.6e7, 1.94e8, 3.96e8, 7.59e8):
        for tokens in budgets:
            trunk = f"{params:g}/{tokens:.4g}"  # branches of one full-precision run
            rows.append((params, 0.0, tokens, 16.0, trunk))
            for share in shares:
                rows += [(params, share * tokens, (1 - share) * tokens, b, trunk) for b in bits]
    names = ["params_total", "tokens_qat", "tokens_fp", "bits", "trunk"]
    params, tokens = 7.59e8 * 10**0.5, budgets[-1] * 10**0.5
    target = {"params_total": [params], "bits": [4.0]}
    target |= {"tokens_qat": [0.3 * tokens], "tokens_fp": [0.7 * tokens]}
    return Plan("qat", pd.DataFrame(rows, columns=names), QAT, 0.003, target, sets=sets)


def qat() -> Plan:
    """768 QAT runs of 1 to 6 bits on 2.3e9 to 1.4e12 tokens, as the paper's 757, and 32 without."""
    shares = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
    return _qat(np.geomspace(2.3e9, 1.4e12, 8), shares, (1.0, 2.0, 4.0, 6.0))


def qat_small() -> Plan:
    """144 QAT runs of 2 to 6 bits and 12 without: too few for 16 parameters, and said to be."""
    return _qat(np.geomspace(1e10, 3e11, 3), (0.1, 0.2, 0.4, 0.8), (2.0, 4.0, 6.0), sets=20)


def qat_fraction() -> Plan:
    """36 optimal QAT shares, known to 10 %; trunks are sizes of one bit width."""
    rows = [
        (params, params * multiplier, bits)
        for params in (8.6e7, 3.96e8, 7.59e8)
        for multiplier in (20.0, 100.0, 500.0)
        for bits in (2.0, 3.0, 4.0, 6.0)
    ]
    frame = pd.DataFrame(rows, columns=["params_total", "tokens", "bits"])
    frame["trunk"] = frame["params_total"].astype(str) + "/" + frame["bits"].astype(str)
    target = {"params_total": [2.4e9], "tokens": [1.2e12], "bits": [4.0]}
    return Plan("qat_fraction", frame, {"a": 6.7297}, 0.1, target)


PLANS: dict[str, Callable[[], Plan]] = {
    plan.__name__: plan
    for plan in (
        *(chinchilla, over_training, parscale, downstream, qat_fraction, routed, repetition),
        *(qat, qat_small),
    )
}


def plant(plan: Plan, shared: float, rng) -> tuple[Observations, np.ndarray]:
    """One planted table and the measured value of the new run on a trunk of its own."""
    law = LAWS[plan.law]
    params = "params_total" if "params" in law.predictors else None
    renamed = {name: params if name == "params" else name for name in law.predictors}

    def mean(table):
        columns = {name: np.asarray(table[theirs], float) for name, theirs in renamed.items()}
        return law.predict(columns, plan.parameters)

    _, index = np.unique(plan.frame["trunk"], return_inverse=True)
    between = np.sqrt(shared) * rng.normal(size=index.max() + 1)[index]
    noise = between + np.sqrt(1 - shared) * rng.normal(size=len(index))
    frame = plan.frame.copy()
    frame[law.target] = mean(frame) * np.exp(plan.noise * noise)
    new = mean(plan.target) * np.exp(plan.noise * rng.normal(size=1))
    return Observations(frame), new


def judge(plan: Plan, shared: float, seed: int) -> dict:
    """One planted set: covered, identified, and the relative width of the interval."""
    obs, new = plant(plan, shared, np.random.default_rng([seed, int(100 * shared)]))
    options = {"objective": plan.objective, "draws": DRAWS, "level": LEVEL, "audits": 4}
    try:
        result = fit(plan.law, obs, seed=seed, **options)
    except Refused:
        return {"covered": False, "identified": False, "width": np.nan}
    row = result.predict(plan.target).iloc[0]
    verdicts = set(result.verdicts.values())
    return {
        "covered": bool(row["low"] <= new[0] <= row["high"]),
        "identified": verdicts == {"identified"},
        "width": (row["high"] - row["low"]) / row["prediction"],
    }


def run(laws=tuple(PLANS), sets: int = 200, echo=print) -> pd.DataFrame:
    """Coverage table: one row per law and share of the noise variance that a trunk shares."""
    rows = []
    for name in laws:
        plan = PLANS[name]()
        count = min(sets, plan.sets or sets)
        for shared in SHARED:
            start = time.process_time()
            table = pd.DataFrame([judge(plan, shared, seed) for seed in range(count)])
            rows.append(summary(name, plan, shared, table, time.process_time() - start))
            echo(rows[-1])
    return pd.DataFrame(rows)


def summary(name: str, plan: Plan, shared: float, table: pd.DataFrame, seconds: float) -> dict:
    """One row of the coverage table from the judged sets of a plan."""
    sure = table["identified"]
    low, high = bounds(int(table["covered"].sum()), len(table))
    return {
        "plan": name,
        "runs": len(plan.frame),
        "trunks": plan.frame["trunk"].nunique(),
        "shared_variance": shared,
        "sets": len(table),
        "coverage": table["covered"].mean(),
        "coverage_low": low,
        "coverage_high": high,
        "identified": sure.mean(),
        "coverage_identified": table["covered"][sure].mean(),
        "coverage_other": table["covered"][~sure].mean(),
        "median_relative_width": table["width"].median(),
        "cpu_seconds": round(seconds, 1),
    }


def bounds(covered: int, sets: int) -> tuple[float, float]:
    """Wilson interval of a coverage, at the level of the intervals themselves."""
    found = binomtest(covered, sets).proportion_ci(LEVEL, method="wilson")
    return found.low, found.high


def asked(argv, about: str, plans, out: Path) -> tuple[argparse.Namespace, list[str]]:
    """Reads what a bench of planted tables is told: options `sets` and `out`, and the plans."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--only", help="plans by name, with commas")
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args(argv)
    chosen = options.only.split(",") if options.only else list(plans)
    for name in chosen:
        if name not in plans:
            parser.error(str(Refused("--only", name, ", ".join(plans))))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options, chosen


def main(argv=None):
    """Run the study and write the table."""
    options, chosen = asked(argv, __doc__, PLANS, OUT)

    def keep(row: dict):
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        write(options.out, pd.DataFrame([row]))

    table = run(chosen, options.sets, keep)
    print(f"{table['cpu_seconds'].sum() / 60:.1f} CPU-minutes")


def write(out: Path, rows: pd.DataFrame):
    """Puts rows into the table on disk, which is whole at every moment."""
    if out.exists():
        rows = merged(pd.read_csv(out, comment="#"), rows)
    header = (
        f"# {LEVEL:.0%} prediction intervals of a new run at 10 x the largest compute, "
        f"{DRAWS} bootstrap draws each\n"
        f"# coverage_low, coverage_high: {LEVEL:.0%} Wilson interval of coverage over the sets\n"
        "# plans with fewer sets are a contrast and not a claim\n"
    )
    partial = out.with_suffix(".partial")
    partial.write_text(header + rows.to_csv(index=False, float_format="%.4g"))
    os.replace(partial, out)


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The old table with the rows of the new one put in their place, in the order of `PLANS`."""
    keys = ["plan", "shared_variance"]
    again = old.set_index(keys).index.isin(new.set_index(keys).index)
    both = pd.concat([old[~again], new])
    both = both[both["plan"].isin(PLANS)].sort_values("shared_variance", kind="stable")
    order = both["plan"].map(list(PLANS).index)
    return both.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


if __name__ == "__main__":
    main()
