"""The report of the leverage study: compute curves, leverage by arm, the joint law."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.evidence.comparison import best_rates
from experiments.evidence.law_report import fit_table
from experiments.evidence.report import Block, Picture, Table, Text, subplots
from fitting import Fit, Observations, fit
from fitting.intervals import quantiles, widen
from fitting.laws import LAWS
from fitting.leverage import measured_leverage
from models import Experts

Arms = Mapping[str, Experts | None]  # None is the dense model.
DENSE = "dense"
LEVEL = 0.9
NEAR = 0.01  # In log loss; about what seeds differ by at these sizes.


def leverage_report(table: pd.DataFrame, arms: Arms) -> list[Block]:
    """Writes leverage by arm with intervals, the joint law, and the published law beside it.

    `table` is a run table with `arm`; its `flops` are of the published convention, `exact_flops`
    count every product.
    """
    fits = curves(table)
    if DENSE not in fits or len(fits) < 2:
        have = ", ".join(fits) or "none"
        text = (
            "Leverage needs the curves of the dense model and of a mixture, each of four efficient "
        )
        return [Text(f"{text}runs at three computes or more; there are those of: {have}.")]
    found = leverages(fits, arms)
    exact = leverages(curves(table.assign(flops=table["exact_flops"])), arms)
    return [
        Text(summary(found, exact, table)),
        Picture(
            "leverage",
            leverage_picture(found),
            "Leverage: measured (points, with 90 % intervals; shifted sideways where they would "
            "hide one another) and the published law (solid where it was fitted, dashed beyond).",
        ),
        leverage_table(found),
        equal_compute(table),
        Picture("curves", curve_picture(table, fits), "Held-out loss against compute by arm."),
        curve_table(fits),
        *joint_law(found),
        routing_table(table),
    ]


def efficient(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of an arm's settings of minimal loss, means over seeds.

    Those are within `NEAR` of the lower convex hull of log loss over log compute: sizes and lengths
    that do not fit together lie above it.
    """
    means = table.groupby("flops")["loss"].mean()
    x, y = np.log(means.index.to_numpy()), np.log(means.to_numpy())
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1 and above(*((x[j], y[j]) for j in (*hull[-2:], i))):
            hull.pop()
        hull.append(i)
    return table[table["flops"].isin(means.index[y <= np.interp(x, x[hull], y[hull]) + NEAR])]


def above(first: tuple, middle: tuple, last: tuple) -> bool:
    """Says whether a point lies on or above the line between its neighbours."""
    (x0, y0), (x, y), (x1, y1) = first, middle, last
    return (y - y0) * (x1 - x0) >= (y1 - y0) * (x - x0)


def curves(table: pd.DataFrame) -> dict[str, Fit]:
    """Fits L = α·C^−β to the efficient runs of every arm that has enough of them."""
    found = {}
    for arm, group in table.groupby("arm", sort=False):
        points = efficient(group).reset_index(drop=True)
        if len(points) >= 4 and points["flops"].nunique() >= 3:
            found[arm] = fit("compute", Observations(points))
    return found


def leverages(fits: Mapping[str, Fit], arms: Arms) -> pd.DataFrame:
    """Returns EL of every mixture at three computes that all curves cover, and the published one.

    A curve has two parameters, so more computes would only repeat it.
    """
    dense, rows = fits[DENSE], []
    covered = [found.observations.column("flops") for found in fits.values()]
    flops = np.geomspace(max(c.min() for c in covered), min(c.max() for c in covered), 3)
    for arm, found in fits.items():
        experts = arms[arm]
        if experts is None:
            continue
        value = measured_leverage(dense.parameters, found.parameters, flops)
        drawn = measured_leverage(
            {k: v[:, None] for k, v in dense.parameter_draws().items()},
            # The two curves' draws are paired as independent.
            {k: v[::-1, None] for k, v in found.parameter_draws().items()},
            flops[None],
        )
        factor = max(dense.draws.factor, found.draws.factor)
        low, high = quantiles(widen(drawn, value, factor), LEVEL)
        shape = {
            "activation_ratio": np.full(len(flops), experts.activation_ratio),
            "granularity": np.full(len(flops), experts.granularity),
        }
        law = LAWS["leverage"]
        expected = law.predict(shape | {"flops": flops}, law.published["paper"])
        columns = {"arm": arm} | shape | {"flops": flops, "leverage": value}
        rows.append(pd.DataFrame(columns | {"low": low, "high": high, "published": expected}))
    return pd.concat(rows, ignore_index=True)


def summary(found: pd.DataFrame, exact: pd.DataFrame, table: pd.DataFrame) -> str:
    """Says what compute means here, what was measured, and what the published law gives there."""
    side = found.groupby("arm", sort=False).apply(
        lambda g: "above" if (g["low"] > 1).all() else "below" if (g["high"] < 1).all() else "both",
        include_groups=False,
    )
    last = found[found["flops"] == found["flops"].max()]
    throughout = {name: (side == name).sum() for name in ("above", "below")}
    return (
        f"{len(table)} runs. Compute is the paper's C = M·D, M three times the non-embedding "
        "forward FLOPs of a token by its appendix C (`models.accounting.leverage_flops`); at equal "
        "width all arms have the same M. EL is the dense compute that reaches a mixture's loss, "
        "over the mixture's compute, both read off power laws L = α·C^−β through each arm's "
        f"efficient runs: those within {100 * NEAR:g} % of the lower convex hull of log loss over "
        "log compute.\n\n"
        f"Between {found['flops'].min():.2g} and {found['flops'].max():.2g} FLOPs the measured EL "
        f"is {found['leverage'].min():.2f} to {found['leverage'].max():.2f}; its 90 % interval is "
        f"above 1 throughout for {throughout['above']} of {len(side)} mixtures, below 1 throughout "
        f"for {throughout['below']}; at the largest compute it is above 1 for "
        f"{(last['low'] > 1).sum()}. The published law, extrapolated down to here, gives "
        f"{found['published'].min():.2f} to {found['published'].max():.2f}. With every product "
        "counted (`flops`: the router, which the paper leaves out, the causal half of attention, "
        f"the head) the measured EL is {exact['leverage'].min():.2f} to "
        f"{exact['leverage'].max():.2f}."
    )


def leverage_table(found: pd.DataFrame) -> Table:
    """Lists leverage by arm and compute."""
    shown = found.rename(
        columns={
            "activation_ratio": "A",
            "granularity": "G",
            "flops": "C (FLOPs)",
            "leverage": "EL",
            "low": "90 % low",
            "high": "90 % high",
            "published": "published law",
        }
    )
    return Table("leverage", shown, "Leverage at three computes that every curve covers.")


def equal_compute(table: pd.DataFrame) -> Table:
    """Sets every arm's loss beside the dense one at equal width, tokens, seed and compute."""
    keys = ["width", "tokens", "seed"]
    dense = table[table["arm"] == DENSE].set_index(keys)["loss"]
    longest = table[table["tokens"] == table.groupby("width")["tokens"].transform("max")]
    rows = {}
    for (arm, width), group in longest.groupby(["arm", "width"], sort=False):
        gap = (group.set_index(keys)["loss"] - dense).dropna()
        spread = f" ± {gap.std():.4f}" if len(gap) > 1 else ""
        shown = f"{group['loss'].mean():.4f}" if arm == DENSE else f"{gap.mean():+.4f}{spread}"
        rows.setdefault(arm, {"arm": arm})[f"width {width}"] = shown
    return Table(
        "equal_compute",
        pd.DataFrame(rows.values()),
        "Held-out loss (nats/token) of the longest runs: dense, and differences to it at equal "
        "tokens and compute, paired by seed (± standard deviation over seeds).",
    )


def curve_table(fits: Mapping[str, Fit]) -> Table:
    """Lists the power law of every arm."""
    rows = []
    for arm, found in fits.items():
        row = {"arm": arm, "runs": len(found.observations)}
        for name in ("alpha", "beta"):
            low, high = found.intervals[name]
            row |= {name: found.parameters[name], f"{name} 90 %": f"[{low:.3g}, {high:.3g}]"}
        rows.append(row | {"worst residual (%)": 100 * found.residuals["residual"].abs().max()})
    how = next(iter(fits.values())).interval_method
    return Table("compute_curves", pd.DataFrame(rows), f"L = α·C^−β per arm. Dense: {how}.")


def joint_law(found: pd.DataFrame) -> list:
    """Fits the joint law in A, G and C, and says what of it the data identify."""
    levels = {n: found[n].nunique() for n in ("activation_ratio", "granularity", "flops")}
    if min(levels.values()) < 3:
        few = ", ".join(f"{n}: {count}" for n, count in levels.items())
        return [Text(f"The joint law is not fitted: it needs three levels of each ({few}).")]
    law = fit("leverage", Observations(found.assign(trunk=found["arm"]).drop(columns="arm")))
    open_ = [name for name, verdict in law.verdicts.items() if verdict != "identified"]
    verdict = (
        "The profiles identify every parameter within these points"
        if not open_
        else "The points do **not** identify " + ", ".join(open_)
    )
    beside = pd.DataFrame(
        {
            "parameter": list(law.parameters),
            "here": list(law.parameters.values()),
            "published": [law.law.published["paper"].get(name) for name in law.parameters],
        }
    )
    return [
        Text(
            f"## The joint law\n\nEL in A, G and C, fitted to the {len(found)} points above, which "
            f"come from {found['arm'].nunique()} curves of two parameters each, over "
            f"{np.log10(found['flops'].max() / found['flops'].min()):.1f} decades of compute: "
            f"{verdict}. With A varied at one G and G at one A, its cross terms rest on the form "
            "of the law alone, and the fit takes the points for exact, so its intervals are too "
            "narrow; none of these values is to be carried to another scale."
        ),
        fit_table("fit_leverage", law),
        Table("joint_law", beside, "The joint law's parameters here and as published."),
    ]


def rates_blocks(table: pd.DataFrame, used: Mapping[str, float], where: str) -> list[Block]:
    """Shows the sweep of the learning rate behind the rates in use."""
    best = best_rates(table, "loss")
    means = table.groupby(["arm", "rate"])["loss"].mean()
    rows = [
        {
            "arm": row.arm,
            **{
                f"× {rate:g}": means.get((row.arm, rate)) for rate in sorted(table["rate"].unique())
            },
            "best": row.rate,
            "edge": "edge" if row.edge else "",
            "in use": used[row.arm],
            "excess of it (%)": 100 * (means[row.arm, used[row.arm]] / row.mean - 1),
        }
        for row in best.itertuples()
    ]
    return [
        Text("## Learning rates"),
        Table("rates", pd.DataFrame(rows), f"Loss by multiple of the ladder's rate: {where}."),
    ]


def routing_table(table: pd.DataFrame) -> Table:
    """Shows how evenly tokens were routed at the end of training."""
    names = {
        "router.dropped": "assignments dropped (%)",
        "router.load": "busiest expert over mean",
        "router.entropy": "entropy of a token's scores (nats)",
    }
    mixtures = table[table["arm"] != DENSE]
    means = mixtures.groupby("arm", sort=False)[["experts", *names]].mean().reset_index()
    means["router.dropped"] *= 100
    return Table(
        "routing",
        means.rename(columns=names),
        "Routing in the last batch, mean over runs and layers.",
    )


def leverage_picture(found: pd.DataFrame) -> Figure:
    """Draws leverage over compute: a panel over A, a panel over G, the published law beside."""
    law, low, high = LAWS["leverage"], found["flops"].min() / 3, 1e22
    flops = np.geomspace(low, high, 200)
    figure, axes = subplots(1, 2, figsize=(11, 4.6), sharey=True)
    fine = found.groupby("granularity")["activation_ratio"].first()
    ratio = fine[fine.index.max()]
    panels = (
        (axes[0], found[found["granularity"] == 2], "activation_ratio", "A", "granularity 2"),
        (axes[1], found[found["activation_ratio"] == ratio], "granularity", "G", f"A {ratio:.3f}"),
    )
    for axis, some, column, letter, title in panels:
        levels = sorted(some[column].unique())
        colours = colormaps["viridis"](np.linspace(0.05, 0.85, len(levels)))
        for index, (level, colour) in enumerate(zip(levels, colours, strict=True)):
            group = some[some[column] == level]
            shape = {n: np.full(200, group[n].iloc[0]) for n in ("activation_ratio", "granularity")}
            curve = law.predict(shape | {"flops": flops}, law.published["paper"])
            inside = (flops >= 1e18) & (flops <= 6e20)
            axis.plot(flops, curve, "--", lw=1, color=colour)
            axis.plot(flops[inside], curve[inside], "-", lw=2.2, color=colour)
            # Side by side, for points of equal compute would hide one another.
            x = group["flops"] * 1.12 ** (index - (len(levels) - 1) / 2)
            bars = (group["leverage"] - group["low"], group["high"] - group["leverage"])
            axis.errorbar(
                x,
                group["leverage"],
                np.maximum(bars, 0),
                fmt="o",
                ms=4,
                lw=1,
                color=colour,
                label=f"{letter} {level:.3g}",
            )
        axis.axhline(1, color="0.6", lw=0.8, zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="C = M·D (FLOPs, published convention)")
        axis.set_title(title, fontsize=10)
        ticks = (0.25, 0.5, 1, 2, 4, 8)
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.legend(fontsize=9)
    axes[0].set_ylabel("efficiency leverage EL")
    return figure


def curve_picture(table: pd.DataFrame, fits: Mapping[str, Fit]) -> Figure:
    """Draws every run's loss over compute, and the power law of each arm."""
    figure, axis = subplots(figsize=(7.5, 4.8))
    colours = colormaps["viridis"](np.linspace(0, 0.9, max(len(fits) - 1, 1)))
    shades = dict(zip(fits, [(0.8, 0.1, 0.1, 1.0), *colours], strict=False))
    for arm, found in fits.items():
        group = table[table["arm"] == arm]
        line = np.geomspace(group["flops"].min(), group["flops"].max(), 50)
        axis.plot(group["flops"], group["loss"], ".", ms=4, alpha=0.4, color=shades[arm])
        used = found.observations.frame
        axis.plot(used["flops"], used["loss"], "o", ms=4, color=shades[arm])
        curve = found.predict({"flops": line}, new_run=False)["prediction"]
        axis.plot(line, curve, "-", lw=1.2, color=shades[arm], label=arm)
    axis.set(xscale="log", xlabel="C = M·D (FLOPs, published convention)")
    axis.set_ylabel("held-out loss (nats/token)")
    axis.plot([], [], ".", ms=4, alpha=0.4, color="black", label="not compute-efficient: left out")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure
