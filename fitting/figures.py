"""Figures of a fit; each returns a matplotlib Figure, and says how its intervals were made."""

import textwrap

import numpy as np

from fitting.fit import Fit
from fitting.isoflop import IsoFlop
from fitting.observations import Observations


def _axes(width: float = 6.4, height: float = 4.6, columns: int = 1, rows: int = 1):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _footer(figure, result: Fit, what: str, first: str = ""):
    how = result.interval_method
    text = f"{first}{result.level:.0%} {what}: {how}" if result.intervals else f"interval: {how}"
    wide = int(figure.get_figwidth() * 15)
    figure.supxlabel("\n".join(textwrap.wrap(text, wide)), fontsize=7, color="0.35")


def _colours(count: int):
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.05, 0.85, max(count, 1))]


def loss_against_compute(result: Fit, held_out: Observations | None = None, most: int = 8):
    """Loss against compute by token multiplier, with the law's curves and their interval.

    Args:
      result: fit of a law in params and tokens.
      held_out: runs that were kept out, drawn as open squares.
      most: at most this many multipliers get a curve; others are grouped with the nearest.

    Returns:
      matplotlib.figure.Figure: x FLOP (6 x params x tokens), y nats/token.
    """
    figure, axes = _axes()
    axis = axes[0, 0]
    groups = [(result.observations, False)]
    if held_out is not None and len(held_out):
        groups.append((held_out, True))
    every = np.concatenate([_multiplier(obs, result.params) for obs, _ in groups])
    levels = _levels(every, most)
    colours = _colours(len(levels))
    flops = np.concatenate([_six(obs, result.params) for obs, _ in groups])
    line = np.geomspace(flops.min() / 1.5, flops.max() * 1.5, 60)
    for colour, level in zip(colours, levels, strict=True):
        params, tokens = np.sqrt(line / 6 / level), np.sqrt(line * level / 6)
        table = {result.params: params, "tokens": tokens}
        band = result.predict(table, new_run=False)
        axis.plot(
            line,
            band["prediction"],
            color=colour,
            lw=1.2,
            label=f"{float(f'{level:.2g}'):g}",
        )
        if result.intervals:
            axis.fill_between(line, band["low"], band["high"], color=colour, alpha=0.15, lw=0)
    for obs, out in groups:
        where = _nearest(_multiplier(obs, result.params), levels)
        style = {"marker": "s", "facecolors": "none"} if out else {"marker": "o"}
        size, loss = _six(obs, result.params), obs.column(result.target)
        for index, colour in enumerate(colours):
            rows = where == index
            paint = {"edgecolors": colour} if out else {"color": colour}
            area = 22 if len(flops) <= 60 else 12
            axis.scatter(size[rows], loss[rows], s=area, zorder=3, **style, **paint)
    axis.set(xscale="log", xlabel="training compute, 6 x params x tokens (FLOP)")
    axis.set_ylabel(f"{result.target} (nats/token)")
    axis.set_title(f"{result.law.name}: loss against compute", fontsize=10)
    title = "tokens per parameter (nearest)" + "\n(open squares: held out)" * (len(groups) > 1)
    axis.legend(title=title, fontsize=8, title_fontsize=8, frameon=False)
    _footer(figure, result, "intervals of the law's mean")
    return figure


def predicted_against_actual(result: Fit):
    """Predicted against observed, with the interval of a new run's value; held-out runs marked.

    Returns:
      matplotlib.figure.Figure: both axes in the target's unit.
    """
    figure, axes = _axes(5.2, 5.0)
    axis = axes[0, 0]
    table, kept = result.residuals, result.held_out
    if result.intervals:
        band = result.predict(result.observations.frame)
        reach = np.abs(np.stack([band["low"], band["high"]]) - band["prediction"].to_numpy())
        where = (table["observed"], table["predicted"])
        axis.errorbar(*where, yerr=reach, fmt="none", ecolor="0.8", elinewidth=1, zorder=1)
    axis.scatter(table["observed"], table["predicted"], s=16, color="0.45", label="fitted")
    ends = [table["observed"], table["predicted"]]
    if len(kept):
        ends += [kept["observed"], kept["predicted"]]
        place = (kept["observed"].to_numpy(), kept["predicted"].to_numpy())
        if result.intervals:
            reach = np.abs(np.stack([kept["low"], kept["high"]]) - place[1])
            axis.errorbar(*place, yerr=reach, fmt="none", ecolor="C3", elinewidth=1)
        axis.scatter(*place, s=28, marker="s", color="C3", label="held out", zorder=3)
    low, high = min(map(np.min, ends)), max(map(np.max, ends))
    pad = 0.04 * (high - low)
    axis.plot([low - pad, high + pad], [low - pad, high + pad], color="0.7", lw=1, zorder=0)
    what = _unit(result)
    axis.set(xlabel=f"observed {result.target} ({what})", ylabel=f"predicted ({what})")
    axis.set_title(f"{result.law.name}: predicted against actual", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    _footer(figure, result, "intervals of a new run (bars)")
    return figure


def residuals(result: Fit):
    """Relative residuals of fitted and held-out runs against the observed value.

    Returns:
      matplotlib.figure.Figure: y in per cent of the prediction; bars are the interval of a new
        run's value.
    """
    figure, axes = _axes(6.4, 3.6)
    axis = axes[0, 0]
    table, kept = result.residuals, result.held_out
    axis.axhline(0, color="0.7", lw=1)
    if result.intervals:
        band = result.predict(result.observations.frame)
        for frame, seen, colour in ((band, table, "0.8"), (kept, kept, "C3")):
            if not len(frame):
                continue
            centre = frame["prediction" if frame is band else "predicted"]
            ends = [100 * (frame[end] / centre - 1) for end in ("low", "high")]
            axis.vlines(seen["observed"], *ends, color=colour, lw=1, zorder=1)
    share = 100 * np.expm1(table["residual"])
    axis.scatter(table["observed"], share, s=16, color="0.45", label="fitted")
    if len(kept):
        miss = 100 * (kept["observed"] / kept["predicted"] - 1)
        axis.scatter(kept["observed"], miss, s=28, marker="s", color="C3", label="held out")
        axis.legend(fontsize=8, frameon=False)
    what = _unit(result)
    axis.set(xlabel=f"observed {result.target} ({what})", ylabel="observed / predicted - 1 (%)")
    axis.set_title(f"{result.law.name}: residuals", fontsize=10)
    _footer(figure, result, "intervals of a new run (bars)")
    return figure


def profile_likelihood(result: Fit):
    """Profile of every fitted parameter with the 95 % threshold and the verdict.

    Returns:
      matplotlib.figure.Figure: y is the deviance (twice the drop in log-likelihood); a figure that
        says so if the fit has no profiles.
    """
    entries = list(result.profiles.values())
    columns = max(1, min(3, len(entries)))
    rows = max(1, -(-len(entries) // columns))
    figure, axes = _axes(3.1 * columns + 0.4, 2.7 * rows + 0.5, columns, rows)
    for axis in axes.ravel()[len(entries) :]:
        axis.axis("off")
    if not entries:
        why = "\n".join(textwrap.wrap(f"profiles: {result.interval_method}", 40))
        axes[0, 0].text(0.5, 0.5, why, ha="center", fontsize=8)
    units = {parameter.name: parameter for parameter in result.law.parameters}
    for axis, entry in zip(axes.ravel(), entries, strict=False):
        shown = entry.deviance <= 12
        axis.plot(entry.values[shown], entry.deviance[shown], marker="o", ms=3, lw=1, color="C0")
        axis.axhline(3.84, color="C3", lw=0.8, ls="--")
        axis.axvline(result.parameters[entry.name], color="0.6", lw=0.8)
        axis.set_ylim(-0.4, 12)
        reach = entry.values[shown]
        if reach.min() > 0 and reach.max() / reach.min() > 30:
            axis.set_xscale("log")
        _few_ticks(axis)
        unit = units[entry.name].unit
        axis.set_xlabel(f"{entry.name}" + ("" if unit == "1" else f" ({unit})"), fontsize=7.5)
        axis.set_title(f"{entry.name}: {entry.verdict}", fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("deviance", fontsize=8)
    dashed = "dashed: 95 % threshold of the profile likelihood; "
    _footer(figure, result, "intervals of the tables", dashed)
    return figure


def isoflop_minima(found: IsoFlop):
    """Runs, smooth curves and minima of every budget, and the power law through the minima.

    Returns:
      matplotlib.figure.Figure: x params (count) and y nats/token on the left, FLOP and params on
        the right.
    """
    figure, axes = _axes(9.6, 4.4, columns=2)
    left, right = axes[0]
    colours = _colours(len(found.curves))
    table = found.budgets
    for colour, curve in zip(colours, found.curves, strict=True):
        left.scatter(np.exp(curve.size), np.exp(curve.loss), s=12, color=colour)
        left.plot(*found.smooth(curve), lw=1, color=colour, label=f"{curve.flops:.2g}")
    left.scatter(table["params"], table["loss"], marker="x", s=40, color="C3", zorder=4)
    left.set(xscale="log", xlabel=f"{found.params} (count)", ylabel="loss (nats/token)")
    left.legend(title="FLOP", fontsize=7, title_fontsize=7, frameon=False)
    if found.noise > 0:
        ends = (table["params_low"], table["params_high"])
        right.vlines(table["flops"], *ends, color="0.6", lw=1)
    right.scatter(table["flops"], table["params"], color=colours, zorder=3)
    line = np.geomspace(table["flops"].min() / 2, table["flops"].max() * 2, 20)
    right.plot(line, found.coefficient * line**found.exponent, color="C3", lw=1)
    right.set(xscale="log", yscale="log", xlabel="training compute (FLOP)")
    right.set_ylabel(f"{found.params} at the least loss (count)")
    low, high = found.interval
    told = f", {found.level:.0%} interval {low:.3g} to {high:.3g}" if found.noise > 0 else ""
    right.set_title(f"params = c x FLOP^{found.exponent:.3g}{told}", fontsize=9)
    how = f"{found.level:.0%} intervals (bars): bootstrap within budgets"
    how = how if found.noise > 0 else "interval: none (no noise to see)"
    figure.supxlabel("; ".join((how, *found.left_out)), fontsize=7, color="0.35")
    return figure


def _few_ticks(axis):
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if axis.get_xscale() == "log":
        axis.xaxis.set_major_locator(LogLocator(numticks=4))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4))


def _unit(result: Fit) -> str:
    if result.target.startswith("error."):
        return "fraction wrong"
    return "nats/token" if result.target.startswith("loss") else "ratio"


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
