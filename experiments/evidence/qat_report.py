"""The report of `experiments/qat_ratio.py`: penalties, optima, fusion, memory, held-out runs."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from experiments.evidence.comparison import interval
from experiments.evidence.qat_figures import (
    fusion_figure,
    gain,
    memory_figure,
    named,
    optimum_figure,
    penalty_figure,
)
from experiments.evidence.qat_law import (
    CELL,
    FALLING,
    at_best,
    held_out,
    identified,
    law_optimum,
    law_rows,
    tokens_text,
    vertex,
)
from experiments.evidence.report import Block, Picture, Table, Text
from experiments.evidence.study import Results
from fitting import Fit, Observations, fit
from fitting import tables as write
from fitting.qat import optimal_fraction, tokens_per_byte
from scaling import unfolded

LEVEL = 0.9
DRAWS = 2000

# An optimum gets an interval if this share of its draws is a minimum inside the tested shares.
SUPPORTED = 0.95
FEWEST_SHARES = 5

PUBLISHED_FUSION = {1: "loses", 2: "loses in some cells", 4: "+0.06 to +1.72", 6: "+0.06 to +1.72"}


def report(results: Results, planned: int) -> list[Block]:
    """Writes the answer; every figure and table is computed from the run table."""
    every = unfolded(results.runs)
    runs = every[every["diverged_step"].isna()].reset_index(drop=True)
    paired = penalties(runs)
    classic = runs[runs["schedule"] != "fused"].reset_index(drop=True)
    observations = Observations(classic)
    law = fit(FALLING, observations, params="params_total", draws=200)
    free = fit("qat", observations, params="params_total", point_only=True)
    best = optima(paired, law)
    gains = fusion(paired)
    memory = fixed_memory(paired, law)
    return [
        Text(saving(results, planned, len(every) - len(runs))),
        Text("## Loss against the quantised share"),
        Text(penalty_text(paired)),
        Picture(
            "penalty",
            penalty_figure(paired, law),
            "Loss minus that of the full-precision run of the same trunk and tokens (classic "
            "schedule): points are means over seeds, bars the standard error of paired "
            "differences, lines the fitted law (solid: most tokens, dashed: fewer).",
        ),
        Table("penalties", penalty_table(paired), "Penalty by bits and share, mean over cells."),
        Text("## The best share"),
        Text(optimum_text(best)),
        Picture(
            "optimum",
            optimum_figure(best),
            "Best share against tokens per byte of quantised weights; filled points have an "
            "interval, hollow ones none that the runs support. The line is the published curve.",
        ),
        Table("optima", best.drop(columns="params_total"), optimum_caption()),
        Text("## Cooldown inside the quantised phase"),
        Text(fusion_text(gains)),
        Picture(
            "fusion", fusion_figure(paired), "Perplexity that fusion saves, by share and bits."
        ),
        Table("fusion", gains, "Gain of the fused over the classic schedule at equal tokens."),
        Text("## Bits at fixed memory"),
        Text(memory_text(memory)),
        Picture(
            "memory",
            memory_figure(paired),
            "Loss at the best share (classic) against the packed size of the weights.",
        ),
        Table("memory", memory, "Best bits at a size of the weights, by interpolation and law."),
        Text("## The law"),
        Text(identified(law, free)),
        Text(tokens_text(paired, law)),
        Table("law", law_rows(law), write.caption(law), write.as_latex(law)),
        *held_out(classic),
        Text("## Weights as kept"),
        Table("unquantised", unquantised(paired), "Loss of the same weights read in float32."),
    ]


def saving(results: Results, planned: int, diverged: int) -> str:
    """Says what sharing trunks saves, and that it is what the tree's closed form gives."""
    plan = results.plan
    ratio = plan.tokens / plan.tokens_alone
    agrees = "equal to" if plan.tokens == planned else f"**not** equal to ({planned:,})"
    scale = {
        "cpu": "The `cpu` preset proves the machinery: its sizes are thousands of times smaller "
        "than the published ones, and no number here is evidence for or against them at scale.\n\n"
    }.get(results.config.preset, "")
    lost = f" {diverged} runs diverged and are left out." if diverged else ""
    return (
        f"{scale}{len(plan.runs)} runs in {len(plan.segments)} segments on "
        f"{sum(results.config.seeds)} trunks: {plan.tokens:,} tokens trained, {agrees} the closed "
        f"form of the tree, instead of {plan.tokens_alone:,} apart: a saving of "
        f"{100 * (1 - ratio):.1f} %.{lost}"
    )


def penalties(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the quantised runs with `penalty`, nats above the plain run of trunk and tokens."""
    plain = runs[runs["schedule"] == "plain"][["trunk", "tokens", "loss"]]
    plain = plain.rename(columns={"loss": "plain_loss"})
    paired = runs[runs["schedule"] != "plain"].merge(plain, on=["trunk", "tokens"])
    return paired.assign(penalty=paired["loss"] - paired["plain_loss"])


def grids(paired: pd.DataFrame, key: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Yields cells and their penalties by share (rows) and seed (columns).

    Seeds that lack a share, and cells with fewer shares than a parabola needs, are left out.
    """
    for cell, group in paired.groupby(key):
        table = group.pivot(index="fraction", columns="seed", values="penalty").dropna(axis=1)
        if len(table.columns) and len(table) >= FEWEST_SHARES:
            yield cell, table


def noise(paired: pd.DataFrame) -> float:
    """Pools the standard deviation of a classic penalty about its seed's and its share's mean.

    What a whole trunk has in common moves no optimum; what remains does.
    """
    squares, degrees = 0.0, 0
    for _, frame in grids(paired[paired["schedule"] == "classic"], CELL):
        table = frame.to_numpy()
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        squares += float((rest**2).sum())
        degrees += (table.shape[0] - 1) * (table.shape[1] - 1)
    return np.sqrt(squares / degrees) if degrees else np.nan


def penalty_table(paired: pd.DataFrame) -> pd.DataFrame:
    """Averages classic penalties over sizes and token counts, bits by share."""
    classic = paired[paired["schedule"] == "classic"]
    table = classic.pivot_table(index="bits", columns="fraction", values="penalty")
    table.columns = [f"share {fraction:g} (nats/token)" for fraction in table.columns]
    bits = classic.groupby("bits")["bits_per_byte"].min().rename("lowest bits/byte")
    return table.join(bits).reset_index().astype({"bits": int})


def penalty_text(paired: pd.DataFrame) -> str:
    """Says how large penalties are and how exactly they are measured."""
    classic = paired[paired["schedule"] == "classic"]
    means = classic.groupby([*CELL, "fraction"])["penalty"].mean().groupby(CELL).min()
    sizes = ", ".join(
        f"{value:+.4f} at {named(bits)}" for bits, value in means.groupby("bits").mean().items()
    )
    return (
        "Each quantised run is compared with the full-precision run of its own trunk and token "
        f"count, so that what a seed has in common drops out. At the best share the penalty is "
        f"{sizes} (nats/token, mean over sizes and token counts). One penalty scatters by "
        f"{noise(paired):.4f} nats/token about what its seed and its share have in common."
    )


def optima(paired: pd.DataFrame, law: Fit) -> pd.DataFrame:
    """Finds each cell's best share by a parabola in the share's logarithm, and by the law.

    The interval is that of the parabola's lowest point under the pooled noise, given only where
    nearly all draws have a minimum inside the tested shares.
    """
    classic = paired[paired["schedule"] == "classic"]
    spread, rng = noise(classic), np.random.default_rng(0)
    rows = []
    for key, table in grids(classic, CELL):
        where = dict(zip(CELL, key, strict=True))
        shares, mean = table.index.to_numpy(), table.mean(axis=1).to_numpy()
        x = np.log(shares)
        error = spread / np.sqrt(table.shape[1])
        clouds = mean + error * rng.standard_normal((DRAWS, len(mean)))
        low_point, curved = vertex(x, clouds)
        inside = curved & (low_point > x[0]) & (low_point < x[-1])
        supported = bool(inside.mean() >= SUPPORTED)
        found, is_minimum = vertex(x, mean[None])
        low, high = np.exp(np.quantile(low_point, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        minimum = is_minimum[0] and x[0] < found[0] < x[-1]
        ends = shares[np.argmin(mean)]
        rows.append(
            where
            | {
                "bits": int(where["bits"]),
                "tokens per byte S": float(
                    tokens_per_byte(where["params_total"], where["tokens"], where["bits"])
                ),
                "best of those tried": ends,
                "parabola": float(np.exp(found[0])) if minimum else None,
                "90 % low": float(low) if supported else None,
                "90 % high": float(high) if supported else None,
                "fitted law": law_optimum(law, **where),
                "published": float(
                    optimal_fraction(where["params_total"], where["tokens"], where["bits"])
                ),
            }
        )
    return pd.DataFrame(rows)


def optimum_caption() -> str:
    """Says how optima were found."""
    return (
        "Best quantised share per cell: of those tried, by a parabola through five means over "
        "seeds, by the fitted law (searched between the smallest and largest share trained), and "
        f"as published. An interval stands only where at least {100 * SUPPORTED:.0f} % of draws "
        "under the pooled noise have a minimum inside the tested shares; no parabola stands where "
        "the curve has none there."
    )


def optimum_text(best: pd.DataFrame) -> str:
    """Says for how many cells the runs support an optimum, and how far it is from the curve."""
    known = best[best["90 % low"].notna()]
    edge = best["parabola"].isna().sum()
    if not len(known):
        return (
            f"No cell of {len(best)} supports an interval on its optimum: the curves are too flat "
            "for the scatter, or lowest at an end of the tested shares."
        )
    inside = known["published"].between(known["90 % low"], known["90 % high"])
    above = (known["90 % low"] > known["published"]).sum()
    trend = stats.spearmanr(known["tokens per byte S"], known["parabola"])
    how = (
        f" Among them the best share goes with S at a rank correlation of {trend.statistic:+.2f}."
        if len(known) > 2
        else ""
    )
    error = (known["parabola"] - known["published"]).abs().mean()
    ours = fit(
        "qat_fraction",
        Observations(known.rename(columns={"parabola": "optimal_fraction"})),
        params="params_total",
        point_only=True,
    )
    return (
        f"{len(known)} of {len(best)} cells support an interval on the optimum; in {edge} the "
        f"parabola has no minimum inside the tested shares. The published curve lies inside "
        f"{inside.sum()} of these intervals, below {above} and above "
        f"{len(known) - inside.sum() - above}; the mean distance is {error:.3f} (the paper's own "
        f"error: 0.091). The published formula fitted to them has a = {ours.parameters['a']:.2f} "
        f"instead of 6.73.{how}"
    )


def fusion(paired: pd.DataFrame) -> pd.DataFrame:
    """Summarises fusion's gain by bits: at equal share, and each schedule at its best."""
    every = gain(paired)
    rows = []
    for bits, group in every.groupby("bits"):
        equal = group.groupby("trunk")["gain"].mean()
        lowest = best_of_each(paired[paired["bits"] == bits])
        best = 100 * (1 - np.exp(lowest["fused"] - lowest["classic"])).groupby("trunk").mean()
        low, high = interval(equal)
        best_low, best_high = interval(best)
        by_share = group.groupby("fraction")["gain"].mean()
        at = {f"at share {share:g}": value for share, value in by_share.items()}
        rows.append(
            {
                "bits": int(bits),
                "gain (% perplexity)": equal.mean(),
                "90 % low": low,
                "90 % high": high,
                **at,
                "best with best": best.mean(),
                "its 90 % low": best_low,
                "its 90 % high": best_high,
                "trunks": len(equal),
                "published": PUBLISHED_FUSION.get(bits, "–"),
            }
        )
    return pd.DataFrame(rows)


def best_of_each(paired: pd.DataFrame) -> pd.DataFrame:
    """Returns each trunk's loss at each schedule's best share, by the mean over seeds.

    Only shares that both schedules were trained at take part.
    """
    both = paired.groupby("fraction")["schedule"].nunique() == 2
    paired = paired[paired["fraction"].isin(both.index[both])]
    key = [*CELL, "schedule"]
    means = paired.groupby([*key, "fraction"])["loss"].mean().reset_index()
    best = means.loc[means.groupby(key)["loss"].idxmin(), [*key, "fraction"]]
    chosen = best.merge(paired, on=[*key, "fraction"])
    return chosen.pivot(index=["trunk", "tokens"], columns="schedule", values="loss").dropna()


def fusion_text(gains: pd.DataFrame) -> str:
    """Says per bits whether fusion gains or loses, beside the published sign."""
    lines = []
    for row in gains.to_dict("records"):
        low, high = row["90 % low"], row["90 % high"]
        said = "gains" if low > 0 else "loses" if high < 0 else "is not told apart from none"
        lines.append(
            f"- **{named(row['bits'])}**: fusion {said}: {row['gain (% perplexity)']:+.2f} % "
            f"[{low:+.2f}, {high:+.2f}] at equal share; each schedule at its best of these "
            f"{row['best with best']:+.2f} % [{row['its 90 % low']:+.2f}, "
            f"{row['its 90 % high']:+.2f}]. Published: {row['published']}."
        )
    how = (
        f"Perplexity that fusion saves at equal tokens, averaged per trunk; intervals of "
        f"{100 * LEVEL:.0f} % are Student's over trunks (sizes and seeds)."
    )
    return "\n".join([how, "", *lines])


def fixed_memory(paired: pd.DataFrame, law: Fit) -> pd.DataFrame:
    """Compares bits at equal size of the weights, each at its best share, classic schedule.

    Losses between sizes are interpolated in the logarithm of the bytes, never extrapolated.
    """
    classic = paired[paired["schedule"] == "classic"]
    classic = classic.assign(nominal=classic["params_total"] * classic["bits"] / 8)
    means = classic.groupby([*CELL, "nominal", "bytes", "fraction"])["loss"].mean()
    lowest = means.groupby([*CELL, "nominal", "bytes"]).min().reset_index()
    every = sorted(lowest["bits"].unique())
    rows = []
    for column, shown in (("nominal", "params_total·bits/8"), ("bytes", "packed, with scales")):
        for tokens, group in lowest.groupby("tokens"):
            for size in budgets(group, column):
                found = {}
                for bits, curve in group.groupby("bits"):
                    curve = curve.sort_values(column)
                    if curve[column].min() <= size <= curve[column].max():
                        at = np.log(curve[column].to_numpy())
                        found[bits] = float(np.interp(np.log(size), at, curve["loss"]))
                by_law = None
                if column == "nominal":
                    by_law = int(min(every, key=lambda b, s=size, t=tokens: at_best(law, s, t, b)))
                losses = {f"{named(bits)} (nats/token)": found.get(bits) for bits in every}
                rows.append(
                    {"memory": shown, "tokens": tokens, "bytes": round(size)}
                    | losses
                    | {"best": int(min(found, key=found.get)), "best by the law": by_law}
                )
    return pd.DataFrame(rows)


def budgets(group: pd.DataFrame, column: str) -> np.ndarray:
    """Returns the sizes at which at least two widths of bits can be compared."""
    ends = group.groupby("bits")[column].agg(["min", "max"])
    sizes = np.geomspace(ends["min"].min(), ends["max"].max(), 9)
    several = [((ends["min"] <= s) & (ends["max"] >= s)).sum() > 1 for s in sizes]
    return sizes[several]


def memory_text(memory: pd.DataFrame) -> str:
    """Says which bits win at which sizes."""
    said = []
    for shown, group in memory.groupby("memory", sort=False):
        counts = group["best"].value_counts().sort_index()
        wins = ", ".join(f"{named(bits)} at {count}" for bits, count in counts.items())
        said.append(f"counted as {shown}: {wins} of {len(group)} sizes")
    return "Lowest loss at equal size of the weights, " + "; ".join(said) + "."


def unquantised(paired: pd.DataFrame) -> pd.DataFrame:
    """Compares quantised and unquantised evaluations by bits and schedule."""
    gap = paired.assign(gap=paired["loss_unquantised"] - paired["loss"])
    table = gap.pivot_table(index="bits", columns="schedule", values="gap")
    table.columns = [f"{name}: unquantised minus quantised (nats/token)" for name in table.columns]
    return table.reset_index().astype({"bits": int})
