"""The figures that papers show of a fit; each function returns a matplotlib Figure.

Nothing is written inside them but axes, and the legend above these: titles and the sentence on how
intervals were made belong into the caption (`CAPTIONS`, `tables.caption`). `wide` is the width of a
page's text.
"""

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fitting.chinchilla import CHINCHILLA
from fitting.fitted import Fitted
from fitting.isoflop import IsoFlop
from fitting.latex import symbol
from fitting.observations import Observations
from fitting.style import (
    COLOURS,
    DASHES,
    FORMATS,
    HELD_OUT,
    MARKS,
    QUIET,
    keyed,
    number,
    panels,
    plain_ticks,
    save,
    shades,
    styled,
)
from fitting.use import allocates, allocations

CAPTIONS = {
    "loss": "Loss against compute by tokens per parameter; lines and bands: the law's mean and its "
    "interval; open marks: held-out runs.",
    "predicted": "Predicted against observed; bars: interval of a new run's value; squares: held "
    "out.",
    "residuals": "Observed over predicted; bars: interval of a new run's value; squares: held out.",
    "profiles": "Profile of every parameter; dashed: 95 % threshold of the profile likelihood.",
    "allocation": "Compute-optimal params, tokens and tokens per parameter; bands: intervals; "
    "dashed: the published law.",
    "distance": "Error beyond the fitted runs against the distance of extrapolation; dots: runs of "
    "the rolling fits; lines: root mean square by distance.",
    "isoflop": "Runs, smooth curves and minima of every budget, and the power law through the "
    "minima; bars: bootstrap within budgets.",
}
# Where a law has no published values of its own, the line of a paper's is that of Chinchilla's.
HOFFMANN = (CHINCHILLA.published["hoffmann rounded"], "Hoffmann et al. 2022")


@styled
def loss_against_compute(
    result: Fitted, held_out: Observations | None = None, most: int = 6, wide: bool = False
):
    """Loss against compute by token multiplier, with the law's curves and their interval.

    Args:
      result: fit of a law in params and tokens.
      held_out: runs that were kept out, drawn as open marks.
      most: at most this many multipliers get a curve; others are grouped with the nearest.

    Returns:
      matplotlib.figure.Figure: x FLOP (6 x params x tokens), y the target; both logarithmic.
    """
    figure, axes = panels(wide=wide, height=2.9 if wide else 2.5)
    axis = axes[0, 0]
    groups = [(result.observations, False)]
    if held_out is not None and len(held_out):
        groups.append((held_out, True))
    every = np.concatenate([_multiplier(obs, result.params) for obs, _ in groups])
    levels = _levels(every, most)
    colours = shades(len(levels))
    flops = np.concatenate([_six(obs, result.params) for obs, _ in groups])
    line = np.geomspace(flops.min() / 1.5, flops.max() * 1.5, 60)
    for index, (colour, level) in enumerate(zip(colours, levels, strict=True)):
        table = {result.params: np.sqrt(line / 6 / level), "tokens": np.sqrt(line * level / 6)}
        band = result.predict(table, new_run=False)
        axis.plot(line, band["prediction"], color=colour, ls=DASHES[index % len(DASHES)])
        if result.intervals:
            axis.fill_between(line, band["low"], band["high"], color=colour, alpha=0.15, lw=0)
        axis.plot([], [], MARKS[index % len(MARKS)], color=colour, label=_short(level))
    for obs, out in groups:
        where = _nearest(_multiplier(obs, result.params), levels)
        size, loss = _six(obs, result.params), obs.column(result.target)
        for index, colour in enumerate(colours):
            paint = {"facecolors": "none", "edgecolors": colour} if out else {"color": colour}
            area, rows = (16 if len(flops) <= 60 else 7), where == index
            mark = MARKS[index % len(MARKS)]
            axis.scatter(size[rows], loss[rows], s=area, zorder=3, marker=mark, lw=0.8, **paint)
    if len(groups) > 1:
        axis.plot([], [], "o", color=QUIET, mfc="none", label="held out")
    axis.set(xscale="log", yscale="log", xlabel=r"training compute $6ND$ (FLOP)")
    axis.set_ylabel(_titled(result))
    plain_ticks(axis.yaxis)
    return keyed(figure, "tokens per parameter")


@styled
def predicted_against_actual(result: Fitted, wide=False):
    """Predicted against observed, with the interval of a new run's value; held-out runs marked.

    Returns:
      matplotlib.figure.Figure: both axes in the target's unit, logarithmic.
    """
    figure, axes = panels(wide=wide, height=3.1)
    axis, ends = axes[0, 0], []
    for table, style in _seen(result):
        place = (table["observed"].to_numpy(float), table["predicted"].to_numpy(float))
        if result.intervals:
            reach = np.abs(table[["low", "high"]].to_numpy(float).T - place[1])
            axis.errorbar(*place, yerr=reach, fmt="none", ecolor=style["bars"], elinewidth=0.7)
        axis.scatter(*place, zorder=3, lw=0, **style["dots"])
        ends += [*place[0], *place[1]]
    low, high = min(ends) / 1.01, max(ends) * 1.01
    axis.plot([low, high], [low, high], color=QUIET, lw=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel=f"observed {_titled(result)}", ylabel="predicted")
    for one in (axis.xaxis, axis.yaxis):
        plain_ticks(one, 5)
    return keyed(figure)


@styled
def residuals(result: Fitted, wide=False):
    """Relative residuals of fitted and held-out runs against the observed value.

    Returns:
      matplotlib.figure.Figure: y in per cent of the prediction; bars are the interval of a new
        run's value.
    """
    figure, axes = panels(wide=wide, height=2.3)
    axis = axes[0, 0]
    axis.axhline(0, color=QUIET, lw=0.8)
    for table, style in _seen(result):
        if result.intervals:
            ends = [100 * (table[end] / table["predicted"] - 1) for end in ("low", "high")]
            axis.vlines(table["observed"], *ends, color=style["bars"], lw=0.7, zorder=1)
        miss = 100 * (table["observed"] / table["predicted"] - 1)
        axis.scatter(table["observed"], miss, zorder=3, lw=0, **style["dots"])
    axis.set(xscale="log", xlabel=f"observed {_titled(result)}", ylabel="residual (%)")
    plain_ticks(axis.xaxis, 5)
    return keyed(figure)


@styled
def profile_likelihood(result: Fitted, wide=True):
    """Profile of every fitted parameter with the 95 % threshold and the verdict.

    Returns:
      matplotlib.figure.Figure: y is the deviance (twice the drop in log-likelihood); a figure that
        says so if the fit has no profiles.
    """
    entries = list(result.profiles.values())
    columns = max(1, min(3 if wide else 2, len(entries)))
    figure, axes = panels(columns, max(1, -(-len(entries) // columns)), wide=wide, height=1.7)
    for axis in axes.ravel()[len(entries) :]:
        axis.axis("off")
    if not entries:
        axes[0, 0].text(0.5, 0.5, f"no profiles: {result.interval_method}", ha="center", wrap=True)
    units = {parameter.name: parameter.unit for parameter in result.law.parameters}
    for axis, entry in zip(axes.ravel(), entries, strict=False):
        shown = entry.deviance <= 12
        axis.plot(entry.values[shown], entry.deviance[shown], marker="o", ms=2.5, color=COLOURS[0])
        axis.axhline(3.84, color=HELD_OUT, lw=0.8, ls="--")
        axis.axvline(result.parameters[entry.name], color=QUIET, lw=0.8)
        axis.set_ylim(-0.4, 12)
        _few_ticks(axis, entry.values[shown])
        axis.set_xlabel(f"${symbol(entry.name)}$, {entry.verdict}{_below(units[entry.name])}")
    for axis in axes[:, 0]:
        axis.set_ylabel("deviance")
    return figure


@styled
def allocation(
    result: Fitted,
    flops: ArrayLike | None = None,
    published: tuple[Mapping[str, float], str] | None = None,
    wide: bool = True,
    **settings: Any,
):
    """N*(C), D*(C) and tokens per parameter, with their intervals and a published line.

    Args:
      result: fit of a law that allocates.
      flops: FLOP; by default from the runs' least compute to 100 times their most.
      published: (parameters of the same law, label); by default the first that the law has, or
        Chinchilla's.
      settings: the law's other predictors.

    Returns:
      matplotlib.figure.Figure: three panels, all axes logarithmic.
    """
    flops = reach(result) if flops is None else flops
    table = allocations(result, flops, **settings)
    other = _published(result, np.asarray(flops, float), published, settings)
    figure, axes = panels(3 if wide else 1, 1 if wide else 3, wide=wide, height=2.2)
    params = f"{result.params or result.law.size} (count)"
    titles = {"params": params, "tokens": "tokens (count)", "tokens_per_param": "tokens / param"}
    for axis, (name, title) in zip(axes.ravel(), titles.items(), strict=True):
        axis.plot(table["flops"], table[name], color=COLOURS[0], label="this fit")
        if result.intervals:
            ends = [table[f"{name}_{end}"].replace(np.inf, np.nan) for end in ("low", "high")]
            axis.fill_between(table["flops"], *ends, color=COLOURS[0], alpha=0.2, lw=0)
        axis.plot(table["flops"], other[name], color=COLOURS[6], ls=DASHES[1], label=other["label"])
        axis.set(xscale="log", yscale="log", xlabel=r"compute $6ND$ (FLOP)", ylabel=title)
        plain_ticks(axis.yaxis)
    return keyed(figure)


def reach(result: Fitted) -> np.ndarray:
    """Budgets from the runs' least compute to 100 times their most, (25,) FLOP."""
    size = _six(result.observations, result.params or result.law.size)
    return np.geomspace(size.min(), 100 * size.max(), 25)


@styled
def error_against_distance(rolled: pd.DataFrame, laws=None, wide=False):
    """Errors of rolling fits against how far beyond their runs they were asked.

    Args:
      rolled: rows of `rolling.extrapolations`; laws: at most seven names, by default the first.

    Returns:
      matplotlib.figure.Figure: x times beyond, y absolute relative error in per cent.
    """
    names = list(laws or dict.fromkeys(rolled["law"]))[: len(COLOURS)]
    figure, axes = panels(wide=wide, height=2.5)
    axis = axes[0, 0]
    for index, name in enumerate(names):
        rows = rolled[(rolled["law"] == name) & (rolled["distance"] > 0)]
        if not len(rows):
            continue
        far, miss = np.exp(rows["distance"]), 100 * np.abs(np.expm1(rows["error"]))
        colour, mark = COLOURS[index], MARKS[index]
        axis.scatter(far, np.maximum(miss, 1e-3), s=5, alpha=0.35, lw=0, color=colour, marker=mark)
        edges = np.geomspace(far.min(), far.max() * 1.0001, 6)
        part = np.clip(np.digitize(far, edges), 1, 5)
        groups = [part == k for k in sorted(set(part))]
        line = [[far[g].median() for g in groups], [np.sqrt(np.mean(miss[g] ** 2)) for g in groups]]
        axis.plot(*line, color=colour, marker=mark, ls=DASHES[index % len(DASHES)], label=name)
    axis.set(xscale="log", yscale="log", xlabel="distance (times beyond the fitted runs)")
    axis.set_ylabel("error (%)")
    return keyed(figure)


@styled
def isoflop_minima(found: IsoFlop, wide=True):
    """Runs, smooth curves and minima of every budget, and the power law through the minima.

    Returns:
      matplotlib.figure.Figure: x params (count) and y nats/token, then FLOP and params.
    """
    figure, axes = panels(2 if wide else 1, 1 if wide else 2, wide=wide, height=2.6)
    curves, minima = axes.ravel()
    colours, table = shades(len(found.curves)), found.budgets
    for index, (colour, curve) in enumerate(zip(colours, found.curves, strict=True)):
        mark = MARKS[index % len(MARKS)]
        curves.scatter(np.exp(curve.size), np.exp(curve.loss), s=8, color=colour, marker=mark, lw=0)
        curves.plot(*found.smooth(curve), lw=0.9, color=colour)
        curves.plot([], [], f"{mark}-", color=colour, label=f"{number(curve.flops, 2)} FLOP")
    cross = {"marker": "x", "s": 22, "color": HELD_OUT, "label": "least loss"}
    curves.scatter(table["params"], table["loss"], zorder=4, **cross)
    curves.set(xscale="log", yscale="log", xlabel=f"{found.params} (count)")
    curves.set_ylabel("loss (nats/token)")
    plain_ticks(curves.yaxis)
    if found.noise > 0:
        ends = (table["params_low"], table["params_high"])
        minima.vlines(table["flops"], *ends, color=QUIET, lw=0.9)
    minima.scatter(table["flops"], table["params"], color=colours, zorder=3, s=14)
    line = np.geomspace(table["flops"].min() / 2, table["flops"].max() * 2, 20)
    power = f"$\\propto C^{{{found.exponent:.3g}}}$"
    minima.plot(line, found.coefficient * line**found.exponent, color=HELD_OUT, label=power)
    minima.set(xscale="log", yscale="log", xlabel="training compute (FLOP)")
    minima.set_ylabel(f"{found.params} at the least loss (count)")
    return keyed(figure)


class Plots:
    """The figures of one fit, each shown by a notebook as it is."""

    def __init__(self, result: Fitted):
        self.result = result

    def loss(self, held_out: Observations | None = None, **settings):
        """`loss_against_compute`."""
        return loss_against_compute(self.result, held_out, **settings)

    def predicted(self, **settings):
        """`predicted_against_actual`."""
        return predicted_against_actual(self.result, **settings)

    def residuals(self, **settings):
        """`residuals`."""
        return residuals(self.result, **settings)

    def profiles(self, **settings):
        """`profile_likelihood`."""
        return profile_likelihood(self.result, **settings)

    def allocation(self, flops=None, **settings):
        """`allocation`."""
        return allocation(self.result, flops, **settings)

    def drawn(self, held_out: Observations | None = None, flops=None) -> dict:
        """{name: Figure} of all that this law has."""
        law, found = self.result.law, {}
        if set(law.predictors) == {"params", "tokens"}:
            found["loss"] = self.loss(held_out)
        found |= {"predicted": self.predicted(), "residuals": self.residuals()}
        found["profiles"] = self.profiles()
        if allocates(law) and set(law.predictors) <= {law.size, "tokens"}:
            found["allocation"] = self.allocation(flops)
        return found

    def save(self, folder, held_out: Observations | None = None, formats=FORMATS) -> list:
        """Writes `drawn` into a folder, each as PNG, PDF and SVG; returns the files."""
        files = (save(one, folder, name, formats) for name, one in self.drawn(held_out).items())
        return [file for written in files for file in written]


def _seen(result: Fitted):
    """(table of observed, predicted, low, high; style) of the fitted and of the held-out runs."""
    band = result.predict(result.observations.frame)
    fitted = result.residuals.reset_index(drop=True).assign(low=band["low"], high=band["high"])
    yield fitted, {"bars": "0.8", "dots": {"s": 9, "color": "0.35", "label": "fitted"}}
    if len(result.held_out):
        dots = {"s": 14, "marker": "s", "color": HELD_OUT, "label": "held out"}
        yield result.held_out, {"bars": HELD_OUT, "dots": dots}


def _published(result: Fitted, flops, published, settings) -> dict:
    """Params, tokens, their ratio and the label of the published line at budgets."""
    law = result.law
    if published is None:
        own = [(v, k) for k, v in law.published.items() if set(law.names) <= set(v)]
        published = (own[0][0], f"published: {own[0][1]}") if own and law.allocation else None
    if published is None:
        law, settings, published = CHINCHILLA, {}, HOFFMANN
    found = law.allocation(published[0], flops, settings)
    ratio = found["tokens"] / found["params"]
    return {**found, "tokens_per_param": ratio, "label": published[1]}


def _few_ticks(axis, values):
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if values.min() > 0 and values.max() / values.min() > 30:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=4))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4))


def _titled(result: Fitted) -> str:
    """The target with its unit."""
    if result.target.startswith(("error", "accuracy")):
        return f"{result.target} (share)"
    return f"{result.target} (nats/token)" if result.target.startswith("loss") else result.target


def _below(unit: str) -> str:
    """A unit on lines of its own, none for 1, its powers as such."""
    if unit == "1":
        return ""
    lines = textwrap.fill(f"({unit})", 20).replace(" x", " ×")
    raised = lambda found: f"$^{{{found[1]}{symbol(found[2])}}}$"
    return "\n" + re.sub(r"\^(-?)(\w+)", raised, lines)


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _multiplier(obs: Observations, params: str) -> np.ndarray:
    return obs.column("tokens") / obs.column(params)


def _six(obs: Observations, params: str) -> np.ndarray:
    return 6 * obs.column("tokens") * obs.column(params)


def _levels(multipliers, most: int) -> np.ndarray:
    levels = np.unique(np.round(np.log(multipliers), 2))
    if len(levels) > most:
        levels = np.linspace(levels[0], levels[-1], most)
    return np.exp(levels)


def _nearest(multipliers, levels) -> np.ndarray:
    return np.argmin(np.abs(np.log(multipliers)[:, None] - np.log(levels)[None]), axis=1)
