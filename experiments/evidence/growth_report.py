"""The report on growth: the loss's jump at each growth, and the compute that growing saves."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.evidence.comparison import best_rates, comparison, interval
from experiments.evidence.report import Block, Picture, Table, Text, subplots

SCRATCH, EXACT, PUBLISHED, BASELINE = (
    "scratch",
    "grown, exact",
    "grown, as published",
    "Transformer",
)


def scratch(budget: float) -> str:
    """Names training from scratch at a multiple of the grown run's compute."""
    return SCRATCH if budget == 1 else f"{SCRATCH} × {budget:g}"


def jumps(seen: pd.DataFrame, rows: tuple[int, ...]) -> pd.DataFrame:
    """Returns the jump of the held-out loss at each growth by kind, with intervals over seeds."""
    table = []
    after = seen[seen["kind"].notna()]
    for (stage, arm, kind), group in after.groupby(["growth", "arm", "kind"], sort=False):
        if stage == 1 and arm == PUBLISHED:
            continue  # Before the first growth the arms are one.
        before = seen[(seen["arm"] == arm) & (seen["growth"] == stage - 1) & seen["kind"].isna()]
        before = before[before["steps"] == before["steps"].max()].set_index("seed")
        group = group.set_index("seed")
        jump = (group["loss"] - before["loss"]).dropna()
        low, high = interval(jump)
        table.append(
            {
                "rows": f"{rows[int(stage) - 1]} → {rows[int(stage)]}",
                "grown before": "not" if stage == 1 else arm.removeprefix("grown, "),
                "new rows": kind,
                "jump (nats/token)": jump.mean(),
                "90 % low": low,
                "90 % high": high,
                "jump (bits/byte)": (group["bits_per_byte"] - before["bits_per_byte"]).mean(),
            }
        )
    return pd.DataFrame(table)


def saved(table: pd.DataFrame, budgets: tuple[float, ...]) -> pd.DataFrame:
    """Returns the compute that growth saves against training from scratch to the same loss.

    Scratch's loss, at each budget's best rate, is interpolated in the logarithm of compute, seed by
    seed; a loss beyond the budgets tried counts as the nearest of them.
    """
    best = best_rates(table, "loss").set_index("arm")["rate"]
    at = lambda arm: table[(table["arm"] == arm) & (table["rate"] == best[arm])].set_index("seed")
    rows = []
    for arm in (EXACT, PUBLISHED):
        shares, outside = [], 0
        for seed, end in at(arm).iterrows():
            points = [at(scratch(b)).loc[seed] for b in sorted(budgets, reverse=True)]
            losses = [point["loss"] for point in points]
            outside += not losses[0] <= end["loss"] <= losses[-1]
            flops = np.exp(np.interp(end["loss"], losses, [math.log(p["flops"]) for p in points]))
            shares.append(100 * (1 - end["flops"] / flops))
        low, high = interval(pd.Series(shares))
        rows.append(
            {
                "arm": arm,
                "compute saved (%)": np.mean(shares),
                "90 % low": low,
                "90 % high": high,
                "seeds": len(shares),
                "seeds beyond the budgets": outside,
                "resolved": "yes" if low > 0 or high < 0 else "no",
            }
        )
    return pd.DataFrame(rows)


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """Returns what each arm costs and reaches at its best rate."""
    best, first = best_rates(table, "loss"), table.groupby("arm", sort=False).first()
    rates = table[table["rate"] == 1].groupby("arm", sort=False)["learning_rate"].first()
    return pd.DataFrame(
        {
            "arm": best["arm"],
            "training FLOPs": first["flops"].to_numpy(),
            "tokens": first["tokens"].to_numpy(),
            "best peak rate": best["rate"] * rates.to_numpy(),
            "loss (nats/token)": best["mean"],
            "sd over seeds": best["sd"],
            "edge of the sweep": np.where(best["edge"], "yes", "no"),
        }
    )


def growth_report(config, table: pd.DataFrame, seen: pd.DataFrame) -> list[Block]:
    """Writes the comparison, the jumps, and the compute saved.

    `table` has the finished runs with their labels, `seen` the looks that were taken on their way.
    """
    jump, saving = jumps(seen, config.rows), saved(table, config.budgets)
    lines = [
        f"- **{arm}**: {mean:+.1f} % [{low:+.1f}, {high:+.1f}] "
        f"({'resolved' if resolved == 'yes' else 'not resolved'})"
        for arm, mean, low, high, *_, resolved in saving.itertuples(index=False, name=None)
    ]
    return [
        Text(
            "Grown runs, `scratch` and the Transformer cost the same training FLOPs. Compute saved "
            "against training from scratch to the same loss, with 90 % intervals over seeds:\n\n"
            + "\n".join(lines)
        ),
        *comparison(table[table["arm"].isin((SCRATCH, EXACT, PUBLISHED, BASELINE))], SCRATCH),
        Table(
            "losses",
            losses(table),
            "Every arm and every budget from scratch at its own best rate; loss in nats/token.",
        ),
        Table(
            "saved",
            saving,
            "Compute saved against training from scratch to the same held-out loss, interpolated "
            "between scratch's budgets.",
        ),
        Table(
            "jumps",
            jump,
            "Jump of the held-out loss right after each growth, before any step, at the middle "
            "rate; mean and 90 % interval over seeds.",
        ),
        Picture(
            "along",
            picture(config, seen, table),
            "Held-out loss from the first growth on, at each arm's reference rate; means over "
            "seeds. Dotted lines mark growth, by rows of the attention; the points right before "
            "and after it share their compute.",
        ),
    ]


def picture(config, seen: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draws held-out loss over compute from the first growth on, and scratch's cooled ends."""
    figure, axis = subplots(figsize=(8, 4.6))
    middle = table[table["rate"] == 1].groupby("arm")[["flops", "loss"]].mean()
    means = {}
    for arm, color in ((PUBLISHED, "C1"), (EXACT, "C0")):
        kind = "zero keys, τ kept" if arm == EXACT else "random keys, τ = √n"
        way = seen[(seen["arm"] == arm) & (seen["kind"].isna() | (seen["kind"] == kind))]
        mean = way.groupby(["growth", "steps"])[["flops", "loss"]].mean()
        mean = means[arm] = mean.loc[(0, config.steps[0]) :]
        axis.plot(mean["flops"], mean["loss"], ".-", color=color, label=f"{arm}: before cooling")
        ends = np.stack([mean.iloc[-1], middle.loc[arm]]).T
        axis.plot(*ends, "--", color=color)
        axis.plot(*ends[:, 1], "o", color=color, label=f"{arm}: cooled")
    scratched = middle.loc[[scratch(budget) for budget in sorted(config.budgets)]]
    axis.plot(scratched["flops"], scratched["loss"], "ks-", label=f"{SCRATCH}: cooled")
    for stage in range(1, len(config.rows)):
        at = means[EXACT].loc[(stage, 0), "flops"]
        axis.axvline(at, color="0.6", lw=0.8, ls=":")
        label = f"{config.rows[stage - 1]} → {config.rows[stage]}"
        axis.text(at, 1.01, label, transform=axis.get_xaxis_transform(), fontsize=8, ha="center")
    axis.set(xlabel="training FLOPs", ylabel="held-out loss (nats/token)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return figure
