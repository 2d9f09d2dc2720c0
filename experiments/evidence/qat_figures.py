"""Figures of `experiments/qat_ratio.py`."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fitting import Fit
from fitting.qat import optimal_fraction


def gain(paired: pd.DataFrame) -> pd.DataFrame:
    """Pairs classic and fused runs of equal trunk, tokens, bits and share: % of perplexity."""
    key = ["trunk", "seed", "width", "tokens", "bits", "fraction"]
    both = paired.pivot(index=key, columns="schedule", values="loss").dropna().reset_index()
    return both.assign(gain=100 * (1 - np.exp(both["fused"] - both["classic"])))


def named(bits: float) -> str:
    """Writes a number of bits."""
    return "1 bit" if bits == 1 else f"{bits:g} bits"


def axes(columns: int, width: float = 3.4, height: float = 3.4, share: bool = False):
    """Returns a figure with a row of axes."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False, sharey=share)[0]


def colours(values) -> dict:
    """Gives each value a colour."""
    values = sorted(values)
    return dict(
        zip(values, colormaps["viridis"](np.linspace(0.05, 0.85, len(values))), strict=True)
    )


def penalty_figure(paired: pd.DataFrame, law: Fit) -> Figure:
    """Draws the classic penalty over the share, a panel per bits, a colour per size."""
    classic = paired[paired["schedule"] == "classic"]
    shades, marks = (
        colours(classic["width"].unique()),
        dict(zip(sorted(classic["tokens"].unique()), "osD^", strict=False)),
    )
    figure, panels = axes(classic["bits"].nunique())
    for axis, (bits, panel) in zip(panels, classic.groupby("bits"), strict=True):
        for (width, params, tokens), cell in panel.groupby(["width", "params_total", "tokens"]):
            by_share = cell.groupby("fraction")["penalty"]
            mean, error = by_share.mean(), by_share.sem()
            label = f"width {width}, {tokens / 1e6:.3g}M tokens"
            axis.errorbar(
                mean.index,
                mean,
                error,
                fmt=marks.get(tokens, "o"),
                ms=4,
                lw=1,
                color=shades[width],
                label=label,
            )
            x = np.geomspace(mean.index.min(), mean.index.max(), 60)
            curve = law_penalty(law, params, tokens, bits, x)
            axis.plot(x, curve, "-" if tokens == max(marks) else "--", lw=1, color=shades[width])
        axis.set(xscale="log", title=named(bits), xlabel="quantised share of the tokens")
        ticks(axis, mean.index)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("loss above full precision (nats/token)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return figure


def law_penalty(law: Fit, params, tokens, bits, share) -> np.ndarray:
    """Returns the law's loss at some shares minus its loss at full precision."""

    def loss(share):
        table = {"params_total": params, "bits": bits}
        table |= {"tokens_qat": tokens * share, "tokens_fp": tokens * (1 - share)}
        table = {name: np.broadcast_to(values, share.shape) for name, values in table.items()}
        return law.law.predict(law.columns(table), law.parameters)

    return loss(share) - loss(np.zeros_like(share))


def ticks(axis, shares) -> None:
    """Labels a logarithmic axis with the shares that were trained."""
    axis.set_xticks(list(shares), [f"{share:g}" for share in shares], fontsize=8)
    axis.set_xticks([], minor=True)


def optimum_figure(best: pd.DataFrame) -> Figure:
    """Draws the best share against S, with the published curve."""
    figure, (axis,) = axes(1, 6.2, 4.2)
    shades = colours(best["bits"].unique())
    s = np.geomspace(
        best["tokens per byte S"].min() / 1.5, best["tokens per byte S"].max() * 1.5, 80
    )
    axis.plot(s, optimal_fraction(8.0, s, 1.0), "k-", lw=1.2, label="published, exp(−6.73/ln S)")
    for bits, group in best.groupby("bits"):
        known = group[group["90 % low"].notna()]
        x, y = known["tokens per byte S"], known["parabola"]
        bars = [np.maximum(y - known["90 % low"], 0), np.maximum(known["90 % high"] - y, 0)]
        axis.errorbar(x, y, bars, fmt="o", ms=5, lw=1, color=shades[bits], label=named(bits))
        rest = group[group["90 % low"].isna()]
        axis.scatter(
            rest["tokens per byte S"],
            rest["best of those tried"],
            s=22,
            facecolors="none",
            edgecolors=[shades[bits]],
        )
        axis.plot(group["tokens per byte S"], group["fitted law"], "x", ms=5, color=shades[bits])
    axis.plot([], [], "x", ms=5, color="0.3", label="the fitted law's")
    axis.scatter(
        [], [], s=22, facecolors="none", edgecolors="0.3", label="best of those tried, no interval"
    )
    axis.set(xscale="log", xlabel="S, tokens per byte of quantised weights", ylim=(0, 0.8))
    axis.set_ylabel("best quantised share")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left")
    return figure


def fusion_figure(paired: pd.DataFrame) -> Figure:
    """Draws fusion's gain over the share: means over trunks with their standard error."""
    every = gain(paired)
    counts = sorted(every["tokens"].unique())
    shades = colours(every["bits"].unique())
    figure, panels = axes(len(counts), 4.4, 3.6, share=True)
    for axis, tokens in zip(panels, counts, strict=True):
        for bits, group in every[every["tokens"] == tokens].groupby("bits"):
            by_share = group.groupby("fraction")["gain"]
            mean, error = by_share.mean(), by_share.sem()
            axis.errorbar(
                mean.index,
                mean,
                error,
                fmt="o-",
                ms=4,
                lw=1,
                color=shades[bits],
                label=named(bits),
            )
        axis.axhline(0, color="k", lw=0.8)
        axis.set(xscale="log", title=f"{tokens / 1e6:.3g}M tokens", xlabel="quantised share")
        ticks(axis, mean.index)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("perplexity saved by fusion (%)")
    panels[0].legend(fontsize=8)
    return figure


def memory_figure(paired: pd.DataFrame) -> Figure:
    """Draws the loss at the best share against packed bytes, a line per bits."""
    classic = paired[paired["schedule"] == "classic"]
    shades = colours(classic["bits"].unique())
    counts = sorted(classic["tokens"].unique())
    figure, panels = axes(len(counts), 4.4, 3.6, share=True)
    for axis, tokens in zip(panels, counts, strict=True):
        for bits, group in classic[classic["tokens"] == tokens].groupby("bits"):
            means = group.groupby(["bytes", "fraction"])["loss"].mean().groupby("bytes").min()
            axis.plot(means.index, means, "o-", ms=4, lw=1, color=shades[bits], label=named(bits))
        axis.set(xscale="log", title=f"{tokens / 1e6:.3g}M tokens", xlabel="packed weights (bytes)")
        axis.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("held-out loss (nats/token)")
    panels[-1].legend(fontsize=8)
    return figure
