"""Comparisons: arms that differ in one thing, each at its own best learning rate.

A comparison trains every arm at every rate with every seed. Each arm is then represented by the
rate with the lowest mean over seeds, and compared with the baseline by differences paired by seed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.evidence.claim import Claim, bullets
from experiments.evidence.figures import finish, means, panels
from experiments.evidence.report import Block, Picture, Table, Text
from refused import Refused
from scaling import Run

# What a comparison may be decided by: column of the run table → how it is called in reports.
MEASURES = {"bits_per_byte": "bits per byte", "loss": "nats per token"}


class Trial(NamedTuple):
    """A run as a member of a comparison; `rate` is the multiple of the arm's reference rate."""

    arm: str
    rate: float
    seed: int
    run: Run


def trials(
    arms: Mapping[str, Callable[[float, int], Run]], rates: Iterable[float], seeds: Iterable[int]
) -> tuple[Trial, ...]:
    """Builds every arm at every multiple of its reference rate with every seed.

    An arm is a function (rate multiple, seed) → run.

    Raises:
      Refused: fewer than three rates, with which a best one could not be told from an edge, or
        one that is not above 0.
    """
    rates, seeds = sorted(rates), list(seeds)
    if len(set(rates)) < 3 or not rates[0] > 0:
        raise Refused("config.rates", tuple(rates), "three or more above 0, around 1.0")
    return tuple(
        Trial(arm, rate, seed, build(rate, seed))
        for arm, build in arms.items()
        for rate in rates
        for seed in seeds
    )


def tried(trials: Iterable[Trial], runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the finished trials: columns `arm` and `rate`, then those of the run table.

    A run that belongs to several arms has a row in each.
    """
    keys = pd.DataFrame(
        [(t.arm, t.rate, t.run.identity) for t in trials], columns=["arm", "rate", "run"]
    )
    return keys.merge(runs, on="run", how="inner")


def best_rates(table: pd.DataFrame, measure: str = "bits_per_byte") -> pd.DataFrame:
    """Returns one row per arm: the rate with the lowest mean over seeds, and what it scored.

    A rate at which a seed diverged or is missing is not eligible. `edge` says that the best rate
    is the lowest or the highest tried, so that a better one may lie beyond.
    """
    rows = []
    for arm, group in table.groupby("arm", sort=False):
        sound = group[group["diverged_step"].isna()]
        scores = sound.pivot(index="rate", columns="seed", values=measure)
        scores = scores.reindex(columns=group["seed"].unique()).dropna()
        rate = scores.mean(axis=1).idxmin() if len(scores) else np.nan
        best = scores.loc[rate] if len(scores) else pd.Series(dtype=float)
        edge = rate in (group["rate"].min(), group["rate"].max())
        row = {"arm": arm, "rate": rate, "mean": best.mean(), "sd": best.std(), "edge": edge}
        rows.append(row)
    return pd.DataFrame(rows)


def at_best(table: pd.DataFrame, measure: str = "bits_per_byte") -> pd.DataFrame:
    """Returns the rows of every arm at its best rate."""
    best = best_rates(table, measure).set_index("arm")["rate"]
    return table[table["rate"] == table["arm"].map(best)].reset_index(drop=True)


def against(
    table: pd.DataFrame, baseline: str | Mapping[str, str], measure: str = "bits_per_byte"
) -> dict[str, Claim]:
    """Claims each arm's difference to a baseline (or to its own): best with best, paired by seed.

    The interval is Student's over the seeds' differences.
    """
    scores = at_best(table, measure).pivot(index="seed", columns="arm", values=measure)
    scores = scores.reindex(columns=table["arm"].unique())
    if isinstance(baseline, str):
        baseline = dict.fromkeys(scores.columns.drop(baseline), baseline)
    return {arm: Claim.of(scores[arm] - scores[other]) for arm, other in baseline.items()}


def differences(claims: Mapping[str, Claim], measure: str = "bits_per_byte") -> pd.DataFrame:
    """Tables the claims of `against`."""
    unit = f"difference ({MEASURES[measure]})"
    rows = [
        {"arm": arm} | claim.columns(unit) | {"seeds": claim.count, "verdict": claim.verdict}
        for arm, claim in claims.items()
    ]
    return pd.DataFrame(rows)


def edges(best: pd.DataFrame) -> str:
    """Names the arms whose best rate is at the edge of the sweep."""
    names = ", ".join(best.loc[best["edge"], "arm"])
    return f"The best rate of {names} is at the edge of the sweep." if names else ""


def comparison(
    table: pd.DataFrame, baseline: str, measure: str = "bits_per_byte", prefix: str = ""
) -> list[Block]:
    """Writes a comparison: the paired verdicts, what each arm costs and scores, loss over rate.

    `prefix` begins the names of the tables and the figure.
    """
    unit, best, claims = MEASURES[measure], best_rates(table, measure), against(table, baseline)
    by_arm = table.groupby("arm", sort=False)
    arms = by_arm[["params_total", "params_non_embedding", "tokens", "flops"]].first()
    arms["tokens/s (median)"] = by_arm["tokens_per_second"].median().round()
    arms = arms.rename(columns={"flops": "training FLOPs"}).reset_index()
    best = best.assign(edge=np.where(best["edge"], "edge", ""))
    names = {"rate": "best rate (× reference)", "mean": f"{unit}, mean", "sd": "sd over seeds"}
    how = (
        f"Each arm at its best learning rate, against {baseline}; 90 % intervals per arm are "
        "Student's over differences paired by seed. Rates were chosen on the same seeds."
    )
    said = {arm: claim.said(unit, than=baseline) for arm, claim in claims.items()}
    return [
        Text(bullets(said, [how, edges(best_rates(table, measure))])),
        Table(
            f"{prefix}arms",
            arms.merge(best, on="arm").rename(columns=names),
            f"Every arm at its best rate; {unit} on held-out text.",
        ),
        Table(
            f"{prefix}differences",
            differences(claims, measure),
            f"Best against best ({baseline}), paired by seed.",
        ),
        Picture(
            f"{prefix}rates", picture(table, measure), f"Held-out {unit} against learning rate."
        ),
    ]


def picture(table: pd.DataFrame, measure: str) -> Figure:
    """Draws the measure over the rate: a line of means per arm, a dot per seed."""
    figure, (axis,) = panels(width=8.5)
    means(axis, table[table["diverged_step"].isna()], "rate", measure, "arm", mark="-", seeds=True)
    finish(
        axis,
        "learning rate (× the arm's reference)",
        f"held-out {MEASURES[measure]}",
        ticks=table["rate"].unique(),
        legend="beside",
    )
    return figure
