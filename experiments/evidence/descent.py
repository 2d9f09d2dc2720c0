"""Coordinate descent over settings on grids, from losses of runs that are trained in rounds."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Grid = Mapping[str, tuple[float, ...]]  # Every setting's values, ascending.
Point = dict[str, float]


@dataclass(frozen=True)
class Descent:
    """How far a descent has come: `point` is where, after `moves`.

    `missing` are the points whose losses it waits for. Without any, every neighbour was run and
    none is better by more than the margin: `excess` says by how much each is worse (nats/token).
    """

    point: Point
    loss: float
    moves: int
    missing: tuple[Point, ...]
    excess: tuple[float, ...]
    edges: tuple[str, ...]

    @property
    def certified(self) -> bool:
        """Whether no single step on the grids is better."""
        return not self.missing


def neighbours(grid: Grid, point: Point) -> Iterator[Point]:
    """Gives the points one step away along one setting."""
    for name, values in grid.items():
        at = values.index(point[name])
        for there in (at - 1, at + 1):
            if 0 <= there < len(values):
                yield point | {name: values[there]}


def descend(
    grid: Grid, start: Point, loss: Callable[[Point], float | None], margin: float
) -> Descent:
    """Goes from a start to the best neighbour while that is better by more than a margin.

    All neighbours are looked at before a step, so that they can be trained together; `loss` gives
    None for a point that is not trained yet and infinity for one that diverged. A point may have
    settings that are not on the grid. (Wen et al. 2025, arXiv:2509.02046, section 3.2, take the
    settings one after the other.)
    """
    point, moves = dict(start), 0
    while True:
        near = [*neighbours(grid, point)]
        missing = tuple(p for p in (point, *near) if loss(p) is None)
        edges = tuple(n for n, values in grid.items() if point[n] in (values[0], values[-1]))
        here = math.nan if loss(point) is None else loss(point)
        if missing:
            return Descent(point, here, moves, missing, (), edges)
        best = min(near, key=loss, default=point)
        if not loss(best) < here - margin:
            excess = tuple(loss(p) - here for p in near)
            return Descent(point, here, moves, (), excess, edges)
        point, moves = best, moves + 1


@dataclass(frozen=True)
class Tuned:
    """An arm's descents by cell (width, tokens per parameter), and the points they end at.

    `first` went over all settings, at the first cell, `rates` over the rate alone, elsewhere.
    `points` has every cell of the arm, once all descents are over.
    """

    first: Descent
    rates: dict[tuple[int, int], Descent] = field(default_factory=dict)
    points: dict[tuple[int, int], Point] = field(default_factory=dict)
