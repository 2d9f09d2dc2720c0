"""Do 90 % intervals hold: of planted parameters, of new runs, and where the fitted law is wrong?

Question: tables are planted with a law's own parameters and noise and fitted; how often do the
intervals of the parameters hold the planted ones, and how often does a new run beyond the largest
compute lie inside its prediction interval? The same where another law is fitted than the true one,
with and without the extrapolation misfit that rolling fits show.
Command: `make coverage`, or `python -m experiments.bench.coverage [--sets=200] [--only=PLANS]
[--out=FILE]`; offline, one thread. Each plan's rows are written when it is done; `--only` replaces
the rows of the named plans.
Cost: the table's column cpu_seconds, which adds up to the run.
Published numbers: none; `experiments/results/coverage.csv` holds the last run of each plan.

Noise is normal in log target with the scale of the published fit's residuals, or as `plans` has
it; where a plan has trunks, 70 % of its variance is shared by the runs of a trunk in a second set
of tables. The mixing and schedule laws have no rows: they predict mixtures and curves.
"""

import argparse
import os
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits

from experiments.bench.plans import PLANS
from experiments.bench.planted import Plan, plant, truth
from fitting import LAWS, fit
from fitting.choice import extrapolating
from fitting.rolling import extrapolations
from refused import Refused

LEVEL, DRAWS = 0.9, 150
BAND = 0.85, 0.95  # where the coverage of an interval at this level should lie
OUT = Path(__file__).parents[1] / "results" / "coverage.csv"


def judge(plan: Plan, shared: float, seed: int, draws: int = DRAWS) -> list[dict]:
    """One planted set: a row for each parameter and each new run that is asked for.

    Returns:
      dicts of asked, name (of the parameter), covered, identified, alone (covered by noise alone,
      where the interval carries misfit), width (relative), refused.
    """
    obs, new = plant(plan, shared, np.random.default_rng([seed, int(100 * shared)]))
    law = LAWS[plan.fitted or plan.law]
    how = {"objective": plan.objective, "fixed": plan.fixed, "level": LEVEL, "audits": 4}
    if "params" in law.predictors:
        how["params"] = "params_total"
    try:
        result = fit(law, obs, seed=seed, draws=draws, **how)
    except Refused:
        # An interval that cannot be had holds nothing.
        asked = [("parameters", name) for name in plan.estimated]
        asked += [(_asked(times), "") for times in new]
        return [{"asked": a, "name": n, "covered": False, "refused": True} for a, n in asked]
    common = {"identified": set(result.verdicts.values()) == {"identified"}, "refused": False}
    rows = []
    for name in plan.estimated:
        low, high = result.intervals[name]
        held = bool(low <= plan.parameters[name] <= high)
        rows.append(common | {"asked": "parameters", "name": name, "covered": held})
    rolled = extrapolations([law], obs, params=how.get("params")) if len(new) > 1 else None
    for times, value in new.items():
        row = common | {"asked": _asked(times), "name": ""}
        rows.append(row | _new_run(plan, result, times, value, rolled))
    return rows


def _asked(times: int) -> str:
    return f"new run, {times} times"


def _new_run(plan: Plan, result, times: int, value: float, rolled) -> dict:
    """Whether a new run is inside; with misfit and without where there are rolling fits."""
    table, out = plan.new[times], {}
    if rolled is not None:
        low, high = result.predict(table).iloc[0][["low", "high"]]
        out["alone"] = bool(low <= value <= high)
        result = extrapolating(result, rolled, distance=float(np.log(times)))
    low, high = result.predict(table).iloc[0][["low", "high"]]
    width = (high - low) / truth(plan, table)[0]
    return out | {"covered": bool(low <= value <= high), "width": width}


def run(plans=tuple(PLANS), sets: int = 200, draws: int = DRAWS):
    """Yields the rows of the coverage table, plan by plan."""
    for name in plans:
        with threadpool_limits(limits=1):
            plan = PLANS[name]()
            for shared in plan.shared:
                start = time.process_time()
                found = [
                    {"set": seed, **row}
                    for seed in range(sets)
                    for row in judge(plan, shared, seed, draws)
                ]
                seconds = time.process_time() - start
                table = pd.DataFrame(found).reindex(columns=_JUDGED)
                parts = table.groupby("asked", sort=False)
                for asked, part in parts:
                    common = {"plan": name, "fitted": plan.fitted or plan.law, "asked": asked}
                    row = common | {"shared_variance": shared} | summary(plan, part)
                    cost = {"draws": draws, "cpu_seconds": round(seconds / len(parts), 1)}
                    yield row | cost | {"date": str(date.today())}


_JUDGED = ["set", "asked", "name", "covered", "identified", "refused", "alone", "width"]


def summary(plan: Plan, part: pd.DataFrame) -> dict:
    """What the sets of one plan come to, for one thing that is asked."""
    sets = part["set"].nunique()
    by_name = part.groupby("name", sort=False)["covered"].mean()
    coverage = float(part["covered"].mean())
    low, high = bounds(round(coverage * sets), sets)
    sure = part["identified"] == True  # noqa: E712 (a refused set has none)
    return {
        "objective": plan.objective,
        "runs": len(plan.frame),
        "trunks": plan.frame["trunk"].nunique() if "trunk" in plan.frame else len(plan.frame),
        "sets": sets,
        "refused": int(part.groupby("set")["refused"].first().sum()),
        "coverage": coverage,
        "coverage_low": low,
        "coverage_high": high,
        "least": float(by_name.min()) if len(by_name) > 1 else np.nan,
        "least_parameter": by_name.idxmin() if len(by_name) > 1 else "",
        "noise_alone": part["alone"].astype(float).mean(),
        "identified": float(sure.mean()),
        "coverage_identified": part["covered"][sure].mean(),
        "median_relative_width": part["width"].astype(float).median(),
    }


def bounds(covered: int, sets: int) -> tuple[float, float]:
    """Wilson interval of a coverage, at the level of the intervals themselves."""
    found = binomtest(covered, sets).proportion_ci(LEVEL, method="wilson")
    return found.low, found.high


def device() -> str:
    """The processor, as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def write(out: Path, rows: pd.DataFrame):
    """Puts the rows of some plans in the place of theirs; the file is whole at every moment."""
    if out.exists():
        old = pd.read_csv(out, comment="#")
        rows = pd.concat([old[~old["plan"].isin(rows["plan"])], rows])
    rows = rows[rows["plan"].isin(PLANS)]
    order = rows["plan"].map(list(PLANS).index)
    rows = rows.iloc[np.argsort(order, kind="stable")]
    error = np.sqrt(rows["coverage"] * (1 - rows["coverage"]) / rows["sets"])
    rows = rows.assign(standard_error=error, band=_band(rows["coverage"], error))
    header = (
        f"# {LEVEL:.0%} intervals of planted tables, one thread of {device()}; each row is of the "
        "run of its date, with its own sets and draws\n"
        "# asked: all parameters of the planted law (coverage is the mean over them, least that of "
        "the one held least), or a new run so many times beyond the largest compute\n"
        f"# coverage_low, coverage_high: {LEVEL:.0%} Wilson interval over the sets; noise_alone: "
        "coverage without the misfit, where the interval carries it; standard_error: of coverage, "
        f"binomial over the sets; band: inside {BAND[0]:.0%} to {BAND[1]:.0%}, or on which side, "
        "and whether within a standard error of it\n"
    )
    partial = out.with_suffix(".partial")
    partial.write_text(header + rows.to_csv(index=False, float_format="%.4g"))
    os.replace(partial, out)


def _band(coverage, error) -> list[str]:
    """Where coverages lie, (rows,): inside the band, within a standard error of it or farther."""
    low, high = BAND
    beyond = np.maximum(low - coverage, coverage - high).to_numpy()
    side = np.where(coverage > high, "above", "below")
    errors = beyond / np.maximum(error.to_numpy(), 1e-12)
    near = np.where(errors <= 1, "within an error ", "")
    return list(np.where(beyond <= 1e-9, "inside", np.char.add(near, side)))


def main(argv=None):
    """Run the study and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--only", help="plans by name, with commas")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    chosen = options.only.split(",") if options.only else list(PLANS)
    for name in chosen:
        if name not in PLANS:
            parser.error(str(Refused("--only", name, ", ".join(PLANS))))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    total = 0.0
    for name in chosen:
        rows = pd.DataFrame(run([name], options.sets))
        for row in rows.itertuples():
            print(f"{row.plan}, {row.asked}: {row.coverage:.3f}, {row.cpu_seconds} s", flush=True)
        write(options.out, rows)
        total += rows["cpu_seconds"].sum()
    print(f"{total / 60:.1f} CPU-minutes")


if __name__ == "__main__":
    main()
