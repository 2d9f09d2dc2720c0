"""Efficiency leverage: compute curves by arm, the compute they save, and the law of it.

Run tables have the label `arm`; their `flops` are of the published convention, `exact_flops` count
every product. Figures and tables of `experiments/moe_leverage.py`.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.evidence.claim import HIGH, LEVEL, LOW, Claim, listed
from experiments.evidence.figures import finish, intervals, panels, shades
from experiments.evidence.law import identified, law_table, parameter
from experiments.evidence.report import Block, Picture, Table, Text
from fitting import Fit, Observations, fit, style
from fitting.intervals import quantiles, widen
from fitting.laws import LAWS
from fitting.leverage import measured_leverage
from fitting.style import HELD_OUT, INK, QUIET, keyed, styled

DENSE = "dense"
NEAR = 0.01  # In log loss; about what seeds differ by at these sizes.
FITTED = (1e18, 6e20)  # FLOPs between which the published law was fitted (arXiv:2507.17702).
SHAPE = ["activation_ratio", "granularity"]
COMPUTE = "C = M·D (FLOPs, published convention)"
SHOWN = {"activation_ratio": "A", "granularity": "G", "flops": "C (FLOPs)", "leverage": "EL"}
ROUTING = {
    "experts": "experts",
    "router.dropped": "assignments dropped (%)",
    "router.load": "busiest expert over mean",
    "router.entropy": "entropy of a token's scores (nats)",
}


def leverage_blocks(table: pd.DataFrame) -> list[Block]:
    """Writes leverage by arm with intervals, the joint law, and the published law beside it."""
    fits = curves(table)
    if DENSE not in fits or len(fits) < 2:
        text = (
            "Leverage needs the curves of the dense model and of a mixture, each of four efficient "
            f"runs at three computes or more; there are those of: {listed(fits)}."
        )
        return [Text(text)]
    found = leverages(fits)
    exact = leverages(curves(table.assign(flops=table["exact_flops"])))
    shown = found.rename(columns=SHOWN | {"published": "published law"})
    routed = table[table["arm"] != DENSE].groupby("arm", sort=False)[list(ROUTING)].mean()
    routed["router.dropped"] *= 100
    return [
        Text(summary(found, exact, table)),
        Picture(
            "leverage",
            leverage_picture(found),
            "Leverage: measured (points, with 90 % intervals; shifted sideways where they would "
            "hide one another) and the published law (solid where it was fitted, dashed beyond).",
        ),
        Table("leverage", shown, "Leverage at three computes that every curve covers."),
        equal_compute(table),
        Picture("curves", curve_picture(table, fits), "Held-out loss against compute by arm."),
        curve_table(fits),
        *joint_law(found),
        Table(
            "routing",
            routed.rename(columns=ROUTING).reset_index(),
            "Routing in the last batch, mean over runs and layers.",
        ),
    ]


def efficient(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of an arm's settings of minimal loss, means over seeds.

    Those are within `NEAR` of the lower convex hull of log loss over log compute: sizes and lengths
    that do not fit together lie above it.
    """
    means = table.groupby("flops")["loss"].mean()
    x, y = np.log(means.index.to_numpy()), np.log(means.to_numpy())
    slope = lambda i, j: (y[j] - y[i]) / (x[j] - x[i])
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1 and slope(hull[-2], hull[-1]) >= slope(hull[-2], i):
            hull.pop()
        hull.append(i)
    return table[table["flops"].isin(means.index[y <= np.interp(x, x[hull], y[hull]) + NEAR])]


def curves(table: pd.DataFrame) -> dict[str, Fit]:
    """Fits L = α·C^−β to the efficient runs of every arm that has enough of them."""
    found = {}
    for arm, group in table.groupby("arm", sort=False):
        points = efficient(group).reset_index(drop=True)
        if len(points) >= 4 and points["flops"].nunique() >= 3:
            found[arm] = fit("compute", Observations(points))
    return found


def leverages(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """Returns EL of every mixture at three computes that all curves cover, and the published one.

    A curve has two parameters, so more computes would only repeat it.
    """
    dense, law, parts = fits[DENSE], LAWS["leverage"], []
    covered = [found.observations.column("flops") for found in fits.values()]
    flops = np.geomspace(max(c.min() for c in covered), min(c.max() for c in covered), 3)
    for arm, found in fits.items():
        if arm == DENSE:
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
        shape = {name: np.full(3, found.observations.frame[name].iloc[0]) for name in SHAPE}
        at = shape | {"flops": flops}
        columns = {"arm": arm} | at | {"leverage": value, LOW: low, HIGH: high}
        parts.append(columns | {"published": law.predict(at, law.published["paper"])})
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def summary(found: pd.DataFrame, exact: pd.DataFrame, table: pd.DataFrame) -> str:
    """Says what compute means here, what was measured, and what the published law gives there."""
    ends = found.groupby("arm", sort=False).agg({"leverage": "mean", LOW: "min", HIGH: "max"})
    last = found.loc[found["flops"] == found["flops"].max(), ["leverage", LOW, HIGH]]
    throughout, there = (
        [Claim(*row, than=1.0).verdict for row in some.itertuples(index=False)]
        for some in (ends, last)
    )
    span = lambda values: f"{values.min():.2f} to {values.max():.2f}"
    return (
        f"{len(table)} runs. Compute is the paper's C = M·D, M three times the non-embedding "
        "forward FLOPs of a token by its appendix C (`models.accounting.leverage_flops`); at equal "
        "width all arms have the same M. EL is the dense compute that reaches a mixture's loss, "
        "over the mixture's compute, both read off power laws L = α·C^−β through each arm's "
        f"efficient runs: those within {100 * NEAR:g} % of the lower convex hull of log loss over "
        "log compute.\n\n"
        f"Between {found['flops'].min():.2g} and {found['flops'].max():.2g} FLOPs the measured EL "
        f"is {span(found['leverage'])}; throughout it is higher than 1 for "
        f"{throughout.count('higher')} of {len(ends)} mixtures, lower for "
        f"{throughout.count('lower')}; at the largest compute it is higher for "
        f"{there.count('higher')}. The published law, extrapolated down to here, gives "
        f"{span(found['published'])}. With every product counted (`flops`: the router, which the "
        "paper leaves out, the causal half of attention, the head) the measured EL is "
        f"{span(exact['leverage'])}."
    )


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
    table = pd.DataFrame({"arm": list(fits), "runs": [len(f.observations) for f in fits.values()]})
    for name in ("alpha", "beta"):
        claims = [parameter(found, name) for found in fits.values()]
        table[name] = [claim.value for claim in claims]
        table[f"{name} 90 %"] = [f"[{claim.low:.3g}, {claim.high:.3g}]" for claim in claims]
    worst = [100 * found.residuals["residual"].abs().max() for found in fits.values()]
    how = f"L = α·C^−β per arm. Dense: {fits[DENSE].interval_method}."
    return Table("compute_curves", table.assign(**{"worst residual (%)": worst}), how)


def joint_law(found: pd.DataFrame) -> list[Block]:
    """Fits the joint law in A, G and C, and says what of it the data identify."""
    levels = {n: found[n].nunique() for n in (*SHAPE, "flops")}
    if min(levels.values()) < 3:
        few = ", ".join(f"{n}: {count}" for n, count in levels.items())
        return [Text(f"The joint law is not fitted: it needs three levels of each ({few}).")]
    law = fit("leverage", Observations(found.assign(trunk=found["arm"]).drop(columns="arm")))
    beside = pd.DataFrame({"parameter": list(law.parameters), "here": law.parameters.values()})
    beside["published"] = beside["parameter"].map(law.law.published["paper"])
    decades = np.log10(found["flops"].max() / found["flops"].min())
    return [
        Text(
            f"## The joint law\n\nEL in A, G and C, fitted to the {len(found)} points above, which "
            f"come from {found['arm'].nunique()} curves of two parameters each, over {decades:.1f} "
            f"decades of compute. {identified(law)} With A varied at one G and G at one A, its "
            "cross terms rest on the form of the law alone, and the fit takes the points for "
            "exact, so its intervals are too narrow; none of these values is to be carried to "
            "another scale."
        ),
        law_table("fit_leverage", law),
        Table("joint_law", beside, "The joint law's parameters here and as published."),
    ]


@styled
def leverage_picture(found: pd.DataFrame):
    """Draws leverage over compute: a panel over A, a panel over G, the published law beside."""
    law, flops = LAWS["leverage"], np.geomspace(found["flops"].min() / 3, 1e22, 200)
    inside = (flops >= FITTED[0]) & (flops <= FITTED[1])
    figure, axes = panels(2, height=2.8, share=True)
    finest = found.loc[found["granularity"].idxmax(), "activation_ratio"]
    views = (
        ("activation_ratio", "A", found[found["granularity"] == 2], "granularity 2"),
        ("granularity", "G", found[found["activation_ratio"] == finest], f"A {finest:.3f}"),
    )
    for axis, (column, letter, some, title) in zip(axes, views, strict=True):
        colours = shades(some[column])
        for index, (level, group) in enumerate(some.groupby(column)):
            style = dict(color=colours[level])
            shape = {name: np.full(200, group[name].iloc[0]) for name in SHAPE}
            curve = law.predict(shape | {"flops": flops}, law.published["paper"])
            axis.plot(flops, curve, "--", lw=0.8, **style)
            axis.plot(flops[inside], curve[inside], "-", lw=1.8, **style)
            # Side by side, for points of equal compute would hide one another.
            x = group["flops"] * 1.12 ** (index - (len(colours) - 1) / 2)
            style |= dict(label=f"{letter} {level:.3g}")
            intervals(axis, x, group["leverage"], group[LOW], group[HIGH], **style)
        axis.axhline(1, color=QUIET, lw=0.8, zorder=0)
        finish(axis, COMPUTE, yscale="log", title=title)
        ticks = (0.25, 0.5, 1, 2, 4, 8)
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    axes[0].set_ylabel("efficiency leverage EL")
    return keyed(figure)


@styled
def curve_picture(table: pd.DataFrame, fits: Mapping[str, Fit]):
    """Draws every run's loss over compute, and the power law of each arm."""
    figure, (axis,) = panels(wide=True, height=3.2)
    mixtures = style.shades(max(len(fits) - 1, 1))
    for (arm, found), colour in zip(fits.items(), [HELD_OUT, *mixtures], strict=False):
        group, used = table[table["arm"] == arm], found.observations.frame
        line = np.geomspace(group["flops"].min(), group["flops"].max(), 50)
        axis.plot(group["flops"], group["loss"], ".", alpha=0.4, color=colour)
        axis.plot(used["flops"], used["loss"], "o", color=colour)
        curve = found.predict({"flops": line}, new_run=False)["prediction"]
        axis.plot(line, curve, "-", lw=1.2, color=colour, label=arm)
    axis.plot([], [], ".", alpha=0.4, color=INK, label="not compute-efficient: left out")
    finish(axis, COMPUTE, "held-out loss (nats/token)")
    return keyed(figure)
