"""Comparisons: arms that differ in one thing, each at its own best learning rate.

A comparison trains every arm at every rate with every seed (`scaling.sweep`), so that a run table
has the labels `arm` and `rate` (`scaling.unfolded`). Each arm is then represented by the
rate with the lowest mean over seeds, and compared with the baseline by differences paired by seed.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.evidence.claim import Claim, bullets, rows
from experiments.evidence.figures import finish, means, panels
from experiments.evidence.report import Block, Picture, Table, Text
from fitting.style import keyed, styled

# What a comparison may be decided by: column of the run table → how it is called in reports.
MEASURES = {"bits_per_byte": "bits per byte", "loss": "nats per token"}


def best_rates(table: pd.DataFrame, measure: str = "bits_per_byte") -> pd.DataFrame:
    """Returns one row per arm: the rate with the lowest mean over seeds, and what it scored.

    A rate at which a seed diverged or is missing is not eligible. `edge` says that the best rate
    is the lowest or the highest tried, so that a better one may lie beyond.
    """
    found = []
    for arm, group in table.groupby("arm", sort=False):
        sound = group[group["diverged_step"].isna()]
        scores = sound.pivot(index="rate", columns="seed", values=measure)
        scores = scores.reindex(columns=group["seed"].unique()).dropna()
        rate = scores.mean(axis=1).idxmin() if len(scores) else np.nan
        best = scores.loc[rate] if len(scores) else pd.Series(dtype=float)
        edge = rate in (group["rate"].min(), group["rate"].max())
        row = {"arm": arm, "rate": rate, "mean": best.mean(), "sd": best.std(), "edge": edge}
        found.append(row)
    return pd.DataFrame(found)


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
    if isinstance(baseline, str):
        baseline = dict.fromkeys(filter(baseline.__ne__, table["arm"].unique()), baseline)
    scores = scores.reindex(columns=[*{*baseline, *baseline.values()}])
    return {arm: Claim.of(scores[arm] - scores[other]) for arm, other in baseline.items()}


def differences(claims: Mapping[str, Claim], unit: str) -> pd.DataFrame:
    """Tables the claims of `against`."""
    table = rows(claims, "arm", f"difference ({unit})")
    table["seeds"] = [claim.count for claim in claims.values()]
    return table.assign(verdict=[claim.verdict for claim in claims.values()])


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
    unit, claims = MEASURES[measure], against(table, baseline, measure)
    best = best_rates(table, measure)
    by_arm = table.groupby("arm", sort=False)
    arms = by_arm[["params_total", "params_non_embedding", "tokens", "flops"]].first()
    arms["tokens/s (median)"] = by_arm["tokens_per_second"].median().round()
    arms = arms.rename(columns={"flops": "training FLOPs"}).reset_index()
    arms = arms.merge(best.assign(edge=np.where(best["edge"], "edge", "")), on="arm")
    names = {"rate": "best rate (× reference)", "mean": f"{unit}, mean", "sd": "sd over seeds"}
    how = (
        f"Each arm at its best learning rate, against {baseline}; 90 % intervals per arm are "
        "Student's over differences paired by seed. Rates were chosen on the same seeds."
    )
    said = {arm: claim.said(unit, than=baseline) for arm, claim in claims.items()}
    return [
        Text(bullets(said, [how, edges(best)])),
        Table(
            f"{prefix}arms",
            arms.rename(columns=names),
            f"Every arm at its best rate; {unit} on held-out text.",
        ),
        Table(
            f"{prefix}differences",
            differences(claims, unit),
            f"Best against best ({baseline}), paired by seed.",
        ),
        Picture(
            f"{prefix}rates", picture(table, measure), f"Held-out {unit} against learning rate."
        ),
    ]


@styled
def picture(table: pd.DataFrame, measure: str):
    """Draws the measure over the rate: a line of means per arm, a dot per seed."""
    figure, (axis,) = panels(wide=True)
    means(axis, table[table["diverged_step"].isna()], "rate", measure, "arm", seeds=True)
    finish(
        axis,
        "learning rate (× the arm's reference)",
        f"held-out {MEASURES[measure]}",
        ticks=table["rate"].unique(),
    )
    return keyed(figure)
