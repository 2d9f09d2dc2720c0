"""Comparisons: arms that differ in one thing, each at its own best learning rate.

A comparison trains every arm at every rate with every seed (`scaling.sweep`), so that a run table
has the labels `arm` and `rate` (`scaling.unfolded`). Each arm is then represented by the
rate with the lowest mean over seeds, and compared with the baseline by differences paired by seed.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy import stats

from experiments.evidence.report import Block, Picture, Table, Text, subplots

# What a comparison may be decided by: column of the run table → how it is called in reports.
MEASURES = {"bits_per_byte": "bits per byte", "loss": "nats per token"}


def best_rates(table: pd.DataFrame, measure: str = "bits_per_byte") -> pd.DataFrame:
    """Returns one row per arm: the rate with the lowest mean over seeds, and what it scored.

    A rate at which a seed diverged or is missing is not eligible. `edge` says that the best rate
    is the lowest or the highest tried, so that a better one may lie beyond.
    """
    rows = []
    for arm, group in table.groupby("arm", sort=False):
        sound = group[group["diverged_step"].isna() & group[measure].notna()]
        counts = sound.groupby("rate")[measure].count()
        means = sound.groupby("rate")[measure].mean()[counts == group["seed"].nunique()]
        if means.empty:
            rows.append({"arm": arm, "rate": np.nan, "mean": np.nan, "sd": np.nan, "edge": False})
            continue
        rate = means.idxmin()
        scores = sound.loc[sound["rate"] == rate, measure]
        edge = rate in (group["rate"].min(), group["rate"].max())
        row = {"arm": arm, "rate": rate, "mean": means[rate], "sd": scores.std(), "edge": edge}
        rows.append(row)
    return pd.DataFrame(rows)


def interval(values: pd.Series, level: float = 0.9) -> tuple[float, float]:
    """Returns Student's interval of a mean; NaN where one value leaves none."""
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std() / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def differences(
    table: pd.DataFrame, baseline: str, measure: str = "bits_per_byte", level: float = 0.9
) -> pd.DataFrame:
    """Returns one row per arm other than the baseline: best against best, paired by seed.

    The interval is Student's over the seeds' differences; with one seed there is none. The verdict
    is `lower`, `higher` or `not resolved`.
    """
    best = best_rates(table, measure).set_index("arm")

    def scores(arm):
        chosen = table[(table["arm"] == arm) & (table["rate"] == best.loc[arm, "rate"])]
        return chosen.set_index("seed")[measure]

    rows = []
    for arm in best.index.drop(baseline):
        paired = (scores(arm) - scores(baseline)).dropna()
        low, high = interval(paired, level)
        resolved = "lower" if high < 0 else "higher" if low > 0 else "not resolved"
        rows.append(
            {
                "arm": arm,
                "difference": paired.mean(),
                "low": low,
                "high": high,
                "seeds": len(paired),
                "verdict": resolved,
            }
        )
    return pd.DataFrame(rows)


def comparison(
    table: pd.DataFrame, baseline: str, measure: str = "bits_per_byte", level: float = 0.9
) -> list[Block]:
    """Writes a comparison: what each arm costs and scores, the paired verdicts, loss over rate."""
    unit = MEASURES[measure]
    best, paired = best_rates(table, measure), differences(table, baseline, measure, level)
    costs = table.groupby("arm", sort=False).first()
    seconds = table.groupby("arm", sort=False)["tokens_per_second"].median()
    arms = pd.DataFrame(
        {
            "arm": best["arm"],
            "params_total": costs["params_total"].to_numpy(),
            "params_non_embedding": costs["params_non_embedding"].to_numpy(),
            "tokens": costs["tokens"].to_numpy(),
            "training FLOPs": costs["flops"].to_numpy(),
            "tokens/s (median)": seconds.to_numpy().round(),
            "best rate (× reference)": best["rate"],
            f"{unit}, mean": best["mean"],
            "sd over seeds": best["sd"],
            "edge": np.where(best["edge"], "edge", ""),
        }
    )
    name = f"{level:.0%}".replace("%", " %")
    shown = paired.rename(
        columns={
            "difference": f"difference ({unit})",
            "low": f"{name} low",
            "high": f"{name} high",
        }
    )
    edges = list(best.loc[best["edge"], "arm"])
    note = f" The best rate of {', '.join(edges)} is at the edge of the sweep." if edges else ""
    return [
        Text(verdict_text(paired, baseline, unit, name) + note),
        Table("arms", arms, f"Every arm at its best rate; {unit} on held-out text."),
        Table("differences", shown, f"Best against best ({baseline}), paired by seed."),
        Picture("rates", picture(table, measure), f"Held-out {unit} against learning rate."),
    ]


def verdict_text(paired: pd.DataFrame, baseline: str, unit: str, level: str) -> str:
    """Says in a sentence per arm whether it differs from the baseline."""
    lines = []
    for row in paired.itertuples():
        if row.seeds == 0:
            lines.append(f"- **{row.arm}**: diverged at every rate.")
            continue
        if row.seeds == 1:
            said = "one seed: no interval, no verdict"
        elif row.verdict == "not resolved":
            said = "the difference is not resolved"
        else:
            said = f"{row.verdict} than {baseline}"
        interval = f" [{row.low:+.4f}, {row.high:+.4f}]" if row.seeds > 1 else ""
        lines.append(f"- **{row.arm}**: {row.difference:+.4f} {unit}{interval}: {said}.")
    how = (
        f"Each arm at its best learning rate, against {baseline}; intervals of {level} per arm are "
        "Student's over differences paired by seed. Rates were chosen on the same seeds."
    )
    return "\n".join([how, "", *lines])


def picture(table: pd.DataFrame, measure: str) -> Figure:
    """Draws the measure over the rate: a line of means per arm, a dot per seed."""
    figure, axis = subplots(figsize=(7, 4.2))
    sound = table[table["diverged_step"].isna()]
    for arm, group in sound.groupby("arm", sort=False):
        means = group.groupby("rate")[measure].mean()
        (line,) = axis.plot(means.index, means, "-", lw=1.5, label=arm)
        axis.plot(group["rate"], group[measure], ".", ms=5, alpha=0.6, color=line.get_color())
    axis.set(xscale="log", xlabel="learning rate (× the arm's reference)")
    axis.set_ylabel(f"held-out {MEASURES[measure]}")
    axis.set_xticks(sorted(table["rate"].unique()))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
