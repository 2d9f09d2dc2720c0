"""Coordinate descent over settings on grids, from losses of runs that are trained in rounds."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Grid = Mapping[str, tuple[float, ...]]  # Every setting's values, ascending.
Point = dict[str, float]
Cell = tuple[int, ...]  # Where an arm is tuned, such as (width, tokens per parameter).


@dataclass(frozen=True)
class Descent:
    """How far a descent has come: `point` is where, after `moves`; `asked` are all points seen.

    It is certified once all of these are trained: every neighbour was run and none is better by
    more than the margin. `excess` says by how much each is worse (nats/token). `edges` are settings
    at an end of their grid.
    """

    point: Point
    loss: float
    moves: int
    asked: tuple[Point, ...]
    certified: bool
    excess: tuple[float, ...]
    edges: tuple[str, ...]


def neighbours(grid: Grid, point: Point) -> Iterator[Point]:
    """Gives the points one step away along one setting."""
    for name, values in grid.items():
        at = values.index(point[name])
        for there in (at - 1, at + 1):
            if 0 <= there < len(values):
                yield point | {name: values[there]}


def descend(
    start: Point, grid: Grid, loss: Callable[[Point], float | None], margin: float
) -> Descent:
    """Goes from a start to the best neighbour while that is better by more than a margin.

    All neighbours are looked at before a step, so that they can be trained together; `loss` gives
    None for a point that is not trained yet and infinity for one that diverged. A point may have
    settings that are not on the grid. (Wen et al. 2025, arXiv:2509.02046, section 3.2, take the
    settings one after the other.)
    """
    point, moves, asked = dict(start), 0, []
    while True:
        near = [*neighbours(grid, point)]
        asked += [p for p in (point, *near) if p not in asked]
        edges = tuple(n for n, values in grid.items() if point[n] in (values[0], values[-1]))
        here, losses = loss(point), [loss(p) for p in near]
        if here is None or None in losses:
            here = math.nan if here is None else here
            return Descent(point, here, moves, tuple(asked), False, (), edges)
        least = min(losses, default=here)
        if not least < here - margin:
            excess = tuple(one - here for one in losses)
            return Descent(point, here, moves, tuple(asked), True, excess, edges)
        point, moves = near[losses.index(least)], moves + 1


@dataclass(frozen=True)
class Tuned:
    """An arm's descents: `first` over all settings at the first cell, `others` over some elsewhere.

    `points` has where they ended, by cell, once all are certified.
    """

    first: Descent
    others: dict[Cell, Descent] = field(default_factory=dict)
    points: dict[Cell, Point] = field(default_factory=dict)


def tune(
    descent: Callable[[Cell, Point, Grid], Descent],
    cells: Sequence[Cell],
    start: Point,
    grid: Grid,
    sensitive: Iterable[str],
) -> Tuned:
    """Descends over all settings at the first cell, then over the sensitive ones at the others.

    `descent` follows one from a start, as far as losses go. (Wen et al. 2025, arXiv:2509.02046,
    section 3.2, phases I and II.)
    """
    first = descent(cells[0], start, grid)
    if not first.certified:
        return Tuned(first)
    some = {name: grid[name] for name in sensitive}
    others = {cell: descent(cell, first.point, some) for cell in cells[1:]}
    if not all(found.certified for found in others.values()):
        return Tuned(first, others)
    return Tuned(first, others, {cells[0]: first.point} | {c: d.point for c, d in others.items()})


def power_law(
    known: Mapping[Cell, float], sizes: Callable[[Cell], Sequence[float]], cells: Iterable[Cell]
) -> dict[Cell, float]:
    """Extends a setting to further cells as a power of each of their sizes.

    By least squares in logarithms over the known cells (phase III there).
    """
    terms = lambda cell: np.array([1.0, *np.log(sizes(cell))])
    values = np.log([*known.values()])
    law = np.linalg.lstsq(np.stack([terms(cell) for cell in known]), values, rcond=None)[0]
    return {cell: float(np.exp(terms(cell) @ law)) for cell in cells}
