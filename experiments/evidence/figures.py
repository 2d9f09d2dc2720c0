"""How figures look, in one place: panels, colours of ordered levels, means with their seeds.

Matplotlib is imported where something is drawn, so that a plan starts without it.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from scaling.plan import Plan

MEANS = {"x", "by", "label", "colours", "mark", "seeds", "error"}  # What `means` is told.


def panels(count: int = 1, width: float = 6.4, height: float = 4.3, share: bool = False):
    """Returns a figure that nothing keeps open, and its row of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False, sharey=share)[0]


def shades(levels: Iterable) -> dict:
    """Gives ordered levels colours from dark to light."""
    levels = sorted(set(levels))
    return dict(zip(levels, viridis(0.05, 0.85, len(levels)), strict=True))


def viridis(first: float, last: float, count: int) -> np.ndarray:
    """Returns so many colours [count, 4] of a map that grey print and the colour-blind tell apart.

    `first` and `last` lie between 0, dark, and 1, light.
    """
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(first, last, count))


def means(
    axis,
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    *,
    label: Callable = str,
    colours: dict | None = None,
    mark: str | dict = "o-",
    seeds: bool = False,
    error: str | None = None,
) -> dict:
    """Draws the means of y over x, a line per level of `by`, and returns each level's colour.

    `seeds` adds a dot per row, `error` bars: `sem` or `std`. `mark` may differ by level.
    """
    used = {}
    for level, group in frame.groupby(by, sort=False):
        at = group.groupby(x)[y]
        mean, bars = at.mean(), getattr(at, error)() if error else None
        style = dict(ms=4, lw=1.2, capsize=2, color=colours[level] if colours else None)
        fmt = mark[level] if isinstance(mark, dict) else mark
        line = axis.errorbar(mean.index, mean, bars, fmt=fmt, label=label(level), **style)[0]
        used[level] = line.get_color()
        if seeds:
            axis.plot(group[x], group[y], ".", ms=5, alpha=0.6, color=line.get_color())
    return used


def intervals(axis, x, value, low, high, **style) -> None:
    """Draws values as points with bars from `low` to `high`."""
    bars = np.maximum([value - low, high - value], 0)
    axis.errorbar(x, value, bars, fmt="o", lw=1, **style)


def per_panel(
    frame: pd.DataFrame,
    panel: str,
    y: str,
    axes: tuple[str, str],
    title: Callable,
    width: float = 4.4,
    height: float = 3.6,
    legend: str = "best",
    share: bool = True,
    **settings,
) -> tuple:
    """Draws `means` in a panel per level of a column; returns the figure and its axes by level.

    `axes` has the labels of x and y, `settings` those of `means` and of `finish`.
    """
    levels = sorted(frame[panel].unique())
    drawn = {name: settings.pop(name) for name in MEANS & set(settings)}
    figure, row = panels(len(levels), width, height, share)
    for axis, level in zip(row, levels, strict=True):
        means(axis, frame[frame[panel] == level], y=y, **drawn)
        finish(axis, axes[0], title=title(level), legend="", **settings)
    row[0].set_ylabel(axes[1])
    if legend:
        row[-1].legend(fontsize=8, loc=legend)
    return figure, dict(zip(levels, row, strict=True))


def finish(axis, xlabel: str, ylabel: str = "", *, ticks=None, legend: str = "best", **settings):
    """Labels an axis whose x is logarithmic.

    `ticks` are shown as plain numbers; "plain" chooses 1, 2 and 5 times powers of ten. `legend` is
    a place inside, `beside` the axis, or empty.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axis.set(**{"xscale": "log", "xlabel": xlabel} | settings)
    if ylabel:
        axis.set_ylabel(ylabel)
    if ticks is not None:
        plain = isinstance(ticks, str)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if plain else FixedLocator(ticks))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    if legend == "beside":
        axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    elif legend:
        axis.legend(fontsize=8, loc=legend)


def plan_tree(plan: Plan):
    """Draws a plan: a line per segment over tokens, branches below their trunk."""
    figure, (axis,) = panels(width=8, height=max(2.5, 0.14 * len(plan.segments) + 1))
    colours = shades(segment.config.width for segment in plan.segments.values())
    height, ticks = 0, {}
    for root in plan.children.get(None, []):
        ticks[height] = (
            f"width {plan.segments[root].config.width}, seed {plan.segments[root].run.seed}"
        )
        stack = [(root, height)]
        while stack:
            id, y = stack.pop()
            segment, children = plan.segments[id], plan.children.get(id, [])
            x, colour = segment.run.tokens / 1e6, colours[segment.config.width]
            style = "-" if segment.phase.prefix_closed else ":"
            axis.plot((segment.first_token / 1e6, x), (y, y), style, color=colour, lw=1.8)
            if id in plan.leaves:
                axis.plot(x, y, "o", ms=3, color=colour)
            for child in children[:-1]:
                height += 1
                axis.plot((x, x), (y, height), color="0.8", lw=0.8, zorder=0)
                stack.append((child, height))
            stack += [(child, y) for child in children[-1:]]
        height += 2
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("tokens (millions); solid: shared warmup and plateau, dotted: cooldown")
    return figure
