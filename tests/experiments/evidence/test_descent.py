"""Coordinate descent that is fed with losses in rounds."""

import math

import pytest

from experiments.evidence.descent import descend, neighbours

GRID = {"rate": (0.25, 0.5, 1.0, 2.0, 4.0), "b1": (0.8, 0.9, 0.95)}


def bowl(point) -> float:
    """Lowest at rate 2 and b1 0.95."""
    return 3 + math.log(point["rate"] / 2) ** 2 + 10 * abs(point["b1"] - 0.95)


def rounds(loss, margin=0.003, start=None):
    """Trains what a descent asks for until it asks for nothing; returns it and the rounds."""
    known, count, start = {}, 0, start or {"rate": 0.5, "b1": 0.9}
    key = lambda point: tuple(sorted(point.items()))
    seen = lambda point: known.get(key(point))
    while True:
        found = descend(start, GRID, seen, margin)
        if found.certified:
            return found, count, known
        known.update({key(point): loss(point) for point in found.asked})
        count += 1


def test_a_descent_ends_where_every_neighbour_was_run_and_none_is_better():
    found, count, known = rounds(bowl)
    assert found.point == {"rate": 2.0, "b1": 0.95} and found.loss == 3
    assert found.moves == 3 and count == 4  # The first round has the start's neighbours.
    near = [*neighbours(GRID, found.point)]
    assert len(near) == len(found.excess) == 3 and min(found.excess) > 0
    assert all(tuple(sorted(p.items())) in known for p in near)
    assert found.edges == ("b1",)


def test_a_gain_below_the_margin_is_no_move_and_divergence_is_never_one():
    found, count, _ = rounds(lambda p: 3 - 0.001 * p["rate"])
    assert found.moves == 0 and count == 1 and min(found.excess) == pytest.approx(-0.0005)
    sharp = lambda p: math.inf if p["rate"] >= 1 else bowl(p)
    found, _, _ = rounds(sharp)
    assert found.point["rate"] == 0.5 and math.inf in found.excess


def test_a_start_that_diverged_moves_to_one_that_did_not():
    found, _, _ = rounds(
        lambda p: math.inf if p["rate"] > 2 else bowl(p), start={"rate": 4.0, "b1": 0.95}
    )
    assert found.point == {"rate": 2.0, "b1": 0.95} and found.moves == 1
