"""Quantised runs beside full precision: penalties, best shares, fusion, and memory.

Runs have the labels `schedule` ("plain" is full precision throughout) and `fraction`, the quantised
share of their tokens. Figures and tables of `experiments/qat_ratio.py`.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from experiments.evidence.claim import HIGH, LEVEL, LOW, Claim, bullets
from experiments.evidence.figures import finish, intervals, panels, per_panel, shades
from experiments.evidence.quantised_law import CELL, law_loss
from experiments.evidence.report import Block, Picture, Table, Text
from fitting import Fit, Observations, fit
from fitting.mixtures import rank_correlation
from fitting.qat import optimal_fraction, tokens_per_byte
from fitting.style import INK, QUIET, keyed, styled

DRAWS = 2000

# An optimum gets an interval if this share of its draws is a minimum inside the tested shares.
SUPPORTED = 0.95
FEWEST_SHARES = 5  # A parabola through a lowest point and two neighbours on either side.

PUBLISHED_FUSION = {1: "loses", 2: "loses in some cells", 4: "+0.06 to +1.72", 6: "+0.06 to +1.72"}

SHARES = np.linspace(0.05, 0.7, 131)  # Between which the law is asked for its best.


def named(bits: float) -> str:
    """Writes a number of bits."""
    return "1 bit" if bits == 1 else f"{bits:g} bits"


def millions(tokens: int) -> str:
    """Writes a number of tokens."""
    return f"{tokens / 1e6:.3g}M tokens"


def penalties(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the quantised runs with `penalty`, nats above the plain run of trunk and tokens."""
    plain = runs[runs["schedule"] == "plain"][["trunk", "tokens", "loss"]]
    plain = plain.rename(columns={"loss": "plain_loss"})
    paired = runs[runs["schedule"] != "plain"].merge(plain, on=["trunk", "tokens"])
    return paired.assign(penalty=paired["loss"] - paired["plain_loss"])


def grids(classic: pd.DataFrame) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Yields cells and their penalties by share (rows) and seed (columns).

    Seeds that lack a share, and cells with fewer shares than a parabola needs, are left out.
    """
    for cell, group in classic.groupby(CELL):
        table = group.pivot(index="fraction", columns="seed", values="penalty").dropna(axis=1)
        if len(table.columns) and len(table) >= FEWEST_SHARES:
            yield cell, table


def noise(classic: pd.DataFrame) -> float:
    """Pools the standard deviation of a penalty about its seed's and its share's mean.

    What a whole trunk has in common moves no optimum; what remains does.
    """
    squares, degrees = 0.0, 0
    for table in (frame.to_numpy() for _, frame in grids(classic)):
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        squares += float((rest**2).sum())
        degrees += (table.shape[0] - 1) * (table.shape[1] - 1)
    return np.sqrt(squares / degrees) if degrees else np.nan


def penalty_blocks(paired: pd.DataFrame, law: Fit) -> list[Block]:
    """Writes how the penalty goes with the share, in the runs and in the law."""
    classic = paired[paired["schedule"] == "classic"]
    means = classic.groupby([*CELL, "fraction"])["penalty"].mean().groupby(CELL).min()
    least = means.groupby("bits").mean().items()
    sizes = ", ".join(f"{value:+.4f} at {named(bits)}" for bits, value in least)
    table = classic.pivot_table(index="bits", columns="fraction", values="penalty")
    table.columns = [f"share {fraction:g} (nats/token)" for fraction in table.columns]
    lowest = classic.groupby("bits")["bits_per_byte"].min().rename("lowest bits/byte")
    return [
        Text(
            "## Loss against the quantised share\n\nEach quantised run is compared with the "
            "full-precision run of its own trunk and token count, so that what a seed has in "
            f"common drops out. At the best share the penalty is {sizes} (nats/token, mean over "
            f"sizes and token counts). One penalty scatters by {noise(classic):.4f} nats/token "
            "about what its seed and its share have in common."
        ),
        Picture(
            "penalty",
            penalty_figure(classic, law),
            "Loss minus that of the full-precision run of the same trunk and tokens (classic "
            "schedule): points are means over seeds, bars the standard error of paired "
            "differences, lines the fitted law (solid: most tokens, dashed: fewer).",
        ),
        Table(
            "penalties",
            table.join(lowest).reset_index().astype({"bits": int}),
            "Penalty by bits and share, mean over cells.",
        ),
    ]


@styled
def penalty_figure(classic: pd.DataFrame, law: Fit):
    """Draws the penalty over the share, a panel per bits, a colour per size."""
    cells = classic.assign(cell=list(zip(classic["width"], classic["tokens"], strict=True)))
    colours, most = shades(classic["width"]), classic["tokens"].max()
    figure, axes = per_panel(
        cells,
        "bits",
        "penalty",
        ("quantised share of the tokens", "loss above full precision (nats/token)"),
        named,
        share=False,
        x="fraction",
        by="cell",
        mark={cell: "o" if cell[1] == most else "s" for cell in cells["cell"]},
        error="sem",
        label=lambda cell: f"width {cell[0]}, {millions(cell[1])}",
        colours={cell: colours[cell[0]] for cell in cells["cell"]},
        ticks=classic["fraction"].unique(),
    )
    line = np.geomspace(classic["fraction"].min(), classic["fraction"].max(), 60)
    for (width, params, tokens, bits), _ in classic.groupby(CELL):
        curve = law_loss(law, params, tokens, bits, line) - law_loss(law, params, tokens, bits, 0.0)
        style = "-" if tokens == most else "--"
        axes[bits].plot(line, curve, style, lw=1, color=colours[width])
    return keyed(figure)


def vertex(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where parabolas through y [draws, points] are extreme, and if minima inside x.

    The lowest point and its neighbours up to two steps away are used: far from the optimum the
    curves are no parabolas.
    """
    nearest = np.clip(np.argmin(y.mean(axis=0)), 2, len(x) - 3)
    some = slice(nearest - 2, nearest + 3)
    curvature, slope, _ = np.polyfit(x[some], y[:, some].T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        lowest = np.nan_to_num(-slope / (2 * curvature))
    return lowest, (curvature > 0) & (lowest > x[0]) & (lowest < x[-1])


def optima(classic: pd.DataFrame, law: Fit) -> pd.DataFrame:
    """Finds each cell's best share by a parabola in the share's logarithm, and by the law.

    The interval is that of the parabola's lowest point under the pooled noise, given only where
    nearly all draws have a minimum inside the tested shares.
    """
    spread, rng, rows = noise(classic), np.random.default_rng(0), []
    for (width, *setting), table in grids(classic):
        x, mean = np.log(table.index.to_numpy()), table.mean(axis=1).to_numpy()
        errors = spread / np.sqrt(table.shape[1]) * rng.standard_normal((DRAWS, len(mean)))
        lowest, inside = vertex(x, mean + errors)
        (found,), (minimum,) = vertex(x, mean[None])
        ends = np.exp(np.quantile(lowest, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        low, high = ends if inside.mean() >= SUPPORTED else (np.nan, np.nan)
        parabola = Claim(float(np.exp(found)) if minimum else np.nan, low, high)
        rows.append(
            {"width": width, "tokens": setting[1], "bits": int(setting[2])}
            | {"tokens per byte S": float(tokens_per_byte(*setting))}
            | {"best of those tried": table.index[np.argmin(mean)]}
            | parabola.columns("parabola")
            | {"fitted law": float(SHARES[np.argmin(law_loss(law, *setting, SHARES))])}
            | {"published": float(optimal_fraction(*setting)), "params_total": setting[0]}
        )
    return pd.DataFrame(rows)


def optimum_blocks(paired: pd.DataFrame, law: Fit) -> list[Block]:
    """Writes each cell's best share beside the published curve."""
    best = optima(paired[paired["schedule"] == "classic"], law)
    return [
        Text(f"## The best share\n\n{optimum_text(best)}"),
        Picture(
            "optimum",
            optimum_figure(best),
            "Best share against tokens per byte of quantised weights; filled points have an "
            "interval, hollow ones none that the runs support. The line is the published curve.",
        ),
        Table(
            "optima",
            best.drop(columns="params_total"),
            "Best quantised share per cell: of those tried, by a parabola through five means over "
            "seeds, by the fitted law (searched between the smallest and largest share trained), "
            f"and as published. An interval stands only where at least {100 * SUPPORTED:.0f} % of "
            "draws under the pooled noise have a minimum inside the tested shares; no parabola "
            "stands where the curve has none there.",
        ),
    ]


def optimum_text(best: pd.DataFrame) -> str:
    """Says for how many cells the runs support an optimum, and how far it is from the curve."""
    known = best[best[LOW].notna()]
    if not len(known):
        return (
            f"No cell of {len(best)} supports an interval on its optimum: the curves are too flat "
            "for the scatter, or lowest at an end of the tested shares."
        )
    ends = known[["parabola", LOW, HIGH, "published"]].itertuples(index=False)
    sides = [Claim(value, low, high, than=theirs).verdict for value, low, high, theirs in ends]
    trend = float(rank_correlation(known["tokens per byte S"], known["parabola"]))
    error = (known["parabola"] - known["published"]).abs().mean()
    renamed = Observations(known.rename(columns={"parabola": "optimal_fraction"}))
    ours = fit("qat_fraction", renamed, params="params_total", point_only=True).parameters["a"]
    return (
        f"{len(known)} of {len(best)} cells support an interval on the optimum; in "
        f"{best['parabola'].isna().sum()} the parabola has no minimum inside the tested shares. "
        f"Against the published curve {sides.count('higher')} of these optima are higher, "
        f"{sides.count('lower')} lower and {sides.count('not resolved')} not resolved; the mean "
        f"distance is {error:.3f} (the paper's own error: 0.091). The published formula fitted to "
        f"them has a = {ours:.2f} instead of 6.73."
        + f" The best share goes with S at a rank correlation of {trend:+.2f}."
        * (len(known) > 2)
    )


@styled
def optimum_figure(best: pd.DataFrame):
    """Draws the best share against S, with the published curve."""
    figure, (axis,) = panels()
    colours, s = shades(best["bits"]), best["tokens per byte S"]
    line = np.geomspace(s.min() / 1.5, s.max() * 1.5, 80)
    curve = optimal_fraction(8.0, line, 1.0)
    axis.plot(line, curve, "-", color=INK, label="published, exp(−6.73/ln S)")
    hollow = dict(s=12, facecolors="none")
    for bits, group in best.groupby("bits"):
        known, rest = group[group[LOW].notna()], group[group[LOW].isna()]
        y, style = known["parabola"], dict(color=colours[bits])
        intervals(axis, known[s.name], y, known[LOW], known[HIGH], label=named(bits), **style)
        axis.scatter(rest[s.name], rest["best of those tried"], edgecolors=colours[bits], **hollow)
        axis.plot(group[s.name], group["fitted law"], "x", **style)
    axis.plot([], [], "x", color=INK, label="the fitted law's")
    axis.scatter([], [], edgecolors=INK, label="best of those tried, no interval", **hollow)
    labels = ("S, tokens per byte of quantised weights", "best quantised share")
    finish(axis, *labels, ylim=(0, 0.8))
    return keyed(figure)


def gains(losses: pd.DataFrame) -> pd.Series:
    """Returns the % of perplexity that fusion saves, from losses with a column per schedule."""
    return 100 * (1 - np.exp(losses["fused"] - losses["classic"]))


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


def fusion_blocks(paired: pd.DataFrame) -> list[Block]:
    """Writes fusion's gain by bits: at equal share, and each schedule at its best."""
    key = ["trunk", "tokens", "bits", "fraction"]
    every = paired.pivot(index=key, columns="schedule", values="loss").dropna()
    every = every.assign(gain=gains(every)).reset_index()
    rows, said = [], {}
    for bits, group in every.groupby("bits"):
        equal = Claim.of(group.groupby("trunk")["gain"].mean())
        lowest = gains(best_of_each(paired[paired["bits"] == bits]))
        best = Claim.of(lowest.groupby("trunk").mean())
        by_share = group.groupby("fraction")["gain"].mean()
        row = {"bits": int(bits)} | equal.columns("gain (% perplexity)")
        row |= {f"at share {share:g}": value for share, value in by_share.items()}
        row |= best.columns("best with best", "its ") | {"trunks": equal.count}
        rows.append(row | {"published": PUBLISHED_FUSION.get(bits, "–")})
        said[named(bits)] = (
            f"{equal.said('%', '+.2f')} at equal share; each schedule at its best of these "
            f"{best.said('%', '+.2f')}. Published: {rows[-1]['published']}"
        )
    how = (
        "Perplexity that fusion saves at equal tokens, averaged per trunk; 90 % intervals are "
        "Student's over trunks (sizes and seeds)."
    )
    return [
        Text("## Cooldown inside the quantised phase\n\n" + bullets(said, [how])),
        Picture("fusion", fusion_figure(every), "Perplexity that fusion saves, by share and bits."),
        Table(
            "fusion",
            pd.DataFrame(rows),
            "Gain of the fused over the classic schedule at equal tokens.",
        ),
    ]


@styled
def fusion_figure(every: pd.DataFrame):
    """Draws what fusion saves over the share, a panel per token count, a colour per bits."""
    labels = ("quantised share", "perplexity saved by fusion (%)")
    shown = dict(x="fraction", by="bits", label=named, error="sem", colours=shades(every["bits"]))
    ticks = every["fraction"].unique()
    figure, axes = per_panel(every, "tokens", "gain", labels, millions, ticks=ticks, **shown)
    for axis in axes.values():
        axis.axhline(0, color=QUIET, lw=0.8, zorder=0)
    return keyed(figure)


def memory_blocks(paired: pd.DataFrame, law: Fit) -> list[Block]:
    """Writes which bits are best at equal size of the weights, each at its best share, classic."""
    classic = paired[paired["schedule"] == "classic"]
    classic = classic.assign(nominal=classic["params_total"] * classic["bits"] / 8)
    key = ["tokens", "bits", "nominal", "bytes"]
    lowest = classic.groupby([*key, "fraction"])["loss"].mean().groupby(key).min().reset_index()
    table = pd.DataFrame(
        row
        for column, shown in (("nominal", "params_total·bits/8"), ("bytes", "packed, with scales"))
        for tokens, group in lowest.groupby("tokens")
        for row in fixed_memory(group, column, shown, tokens, law)
    )
    said = []
    for shown, group in table.groupby("memory", sort=False):
        counts = group["best"].value_counts().sort_index().items()
        wins = ", ".join(f"{named(bits)} at {count}" for bits, count in counts)
        said.append(f"counted as {shown}: {wins} of {len(group)} sizes")
    return [
        Text(
            "## Bits at fixed memory\n\nLowest loss at equal size of the weights, "
            f"{'; '.join(said)}."
        ),
        Picture(
            "memory",
            memory_figure(lowest),
            "Loss at the best share (classic) against the packed size of the weights.",
        ),
        Table("memory", table, "Best bits at a size of the weights, by interpolation and law."),
    ]


@styled
def memory_figure(lowest: pd.DataFrame):
    """Draws the least loss over the size of the weights, a panel per token count."""
    labels = ("packed weights (bytes)", "held-out loss (nats/token)")
    how = dict(x="bytes", by="bits", label=named, colours=shades(lowest["bits"]))
    return keyed(per_panel(lowest, "tokens", "loss", labels, millions, **how)[0])


def fixed_memory(
    lowest: pd.DataFrame, column: str, shown: str, tokens: int, law: Fit
) -> Iterator[dict]:
    """Yields rows of losses by bits at sizes where at least two widths of bits can be compared.

    Losses between sizes are interpolated in the logarithm of the bytes, never extrapolated.
    """
    curves = {bits: c.set_index(column)["loss"].sort_index() for bits, c in lowest.groupby("bits")}
    for size in np.geomspace(lowest[column].min(), lowest[column].max(), 9):
        found = {
            bits: float(np.interp(np.log(size), np.log(curve.index), curve))
            for bits, curve in curves.items()
            if curve.index[0] <= size <= curve.index[-1]
        }
        if len(found) < 2:
            continue
        at_best = lambda bits, params=8 * size: law_loss(law, params / bits, tokens, bits, SHARES)
        by_law = int(min(curves, key=lambda b: at_best(b).min())) if column == "nominal" else None
        losses = {f"{named(bits)} (nats/token)": found.get(bits) for bits in curves}
        row = {"memory": shown, "tokens": tokens, "bytes": round(size)} | losses
        yield row | {"best": int(min(found, key=found.get)), "best by the law": by_law}


def unquantised(paired: pd.DataFrame) -> Table:
    """Compares quantised and unquantised evaluations by bits and schedule."""
    gap = paired.assign(gap=paired["loss_unquantised"] - paired["loss"])
    table = gap.pivot_table(index="bits", columns="schedule", values="gap")
    table.columns = [f"{name}: unquantised minus quantised (nats/token)" for name in table.columns]
    table = table.reset_index().astype({"bits": int})
    return Table("unquantised", table, "Loss of the same weights read in float32.")
