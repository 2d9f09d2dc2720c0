"""Figures of studies, in the one style of `fitting.style`: panels, means with their seeds, a plan.

Matplotlib is imported where something is drawn, so that a plan starts without it. A picture is
drawn by a function under `styled`, and ends with `keyed`, which puts its legend above the axes.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from fitting import style
from fitting.style import DASHES, MARKS, QUIET, styled
from scaling.plan import Plan

MEANS = {"x", "by", "label", "colours", "mark", "seeds", "error"}  # What `means` is told.
IN_A_ROW = 3  # panels


def panels(count: int = 1, *, wide: bool | None = None, height: float = 2.5, share: bool = False):
    """Returns a figure of a paper that nothing keeps open, and its axes in the order of reading.

    It is as wide as a column where there is one panel, as a page's text for more, or as `wide`
    says; `height` is that of a row in inches; `share` gives all panels one y axis.
    """
    across = min(count, IN_A_ROW)
    rows = -(-count // across)
    wide = count > 1 if wide is None else wide
    figure, axes = style.panels(across, rows, wide=wide, height=height, sharey=share)
    row = axes.ravel()
    for axis in row[count:]:
        axis.remove()
    return figure, row[:count]


def shades(levels: Iterable) -> dict:
    """Gives ordered levels colours from dark to light."""
    levels = sorted(set(levels))
    return dict(zip(levels, style.shades(len(levels)), strict=True))


def means(
    axis,
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    *,
    label: Callable = str,
    colours: dict | None = None,
    mark: str | dict | None = None,
    seeds: bool = False,
    error: str | None = None,
) -> dict:
    """Draws the means of y over x, a line per level of `by`, and returns each level's colour.

    Levels differ by mark and dashes too, or by `mark`, in which a level may have its own. `seeds`
    adds a dot per row, `error` bars: `sem` or `std`.
    """
    used = {}
    for level, group in frame.groupby(by, sort=False):
        at, place = group.groupby(x)[y], len(axis.containers)
        mean, bars = at.mean(), getattr(at, error)() if error else None
        how = dict(capsize=2, elinewidth=0.7, color=colours[level] if colours else None)
        if mark is None:
            how |= dict(marker=MARKS[place % len(MARKS)], ls=DASHES[place % len(DASHES)])
        else:
            how |= dict(fmt=mark[level] if isinstance(mark, dict) else mark)
        line = axis.errorbar(mean.index, mean, bars, label=label(level), **how)[0]
        used[level] = line.get_color()
        if seeds:
            axis.plot(group[x], group[y], ".", ms=3, alpha=0.6, color=line.get_color())
    return used


def intervals(axis, x, value, low, high, **settings) -> None:
    """Draws values as points with bars from `low` to `high`."""
    bars = np.maximum([value - low, high - value], 0)
    axis.errorbar(x, value, bars, **{"fmt": "o", "lw": 0.8} | settings)


def per_panel(
    frame: pd.DataFrame,
    panel: str,
    y: str,
    axes: tuple[str, str],
    title: Callable,
    share: bool = True,
    **settings,
) -> tuple:
    """Draws `means` in a panel per level of a column; returns the figure and its axes by level.

    `axes` has the labels of x and y, `title` names a panel, `settings` are those of `means` and of
    `finish`. The legend is left to `keyed`.
    """
    levels = sorted(frame[panel].unique())
    drawn = {name: settings.pop(name) for name in MEANS & set(settings)}
    figure, row = panels(len(levels), share=share)
    for axis, level in zip(row, levels, strict=True):
        means(axis, frame[frame[panel] == level], y=y, **drawn)
        finish(axis, axes[0], title=title(level), **settings)
    for axis in row[::IN_A_ROW]:
        axis.set_ylabel(axes[1])
    return figure, dict(zip(levels, row, strict=True))


def finish(axis, xlabel: str, ylabel: str = "", *, ticks=None, **settings):
    """Labels an axis whose x is logarithmic.

    `ticks` are shown as plain numbers; "plain" chooses 1, 2 and 5 times powers of ten. `settings`
    are those of matplotlib's `Axes.set`.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axis.set(**{"xscale": "log", "xlabel": xlabel} | settings)
    if ylabel:
        axis.set_ylabel(ylabel)
    if ticks is None and axis.get_xscale() == "log":
        style.plain_ticks(axis.xaxis, 4)
    elif ticks is not None:
        plain = isinstance(ticks, str)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if plain else FixedLocator(ticks))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())


@styled
def plan_tree(plan: Plan):
    """Draws a plan: a line per segment over tokens, branches below their trunk."""
    figure, (axis,) = panels(wide=True, height=max(2.5, 0.07 * len(plan.segments) + 0.6))
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
            dashes = "-" if segment.phase.prefix_closed else ":"
            axis.plot((segment.first_token / 1e6, x), (y, y), ls=dashes, color=colour, lw=1.5)
            if id in plan.leaves:
                axis.plot(x, y, "o", ms=2.5, color=colour)
            for child in children[:-1]:
                height += 1
                axis.plot((x, x), (y, height), color=QUIET, lw=0.6, zorder=0)
                stack.append((child, height))
            stack += [(child, y) for child in children[-1:]]
        height += 2
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.invert_yaxis()
    axis.set_xlabel("tokens (millions)")
    return figure
