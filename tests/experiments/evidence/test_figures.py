"""Figures: means with their seeds, panels, and the picture of a plan."""

import numpy as np
import pandas as pd

from experiments.evidence.figures import (
    finish,
    intervals,
    means,
    panels,
    per_panel,
    plan_tree,
    shades,
)
from fitting.style import COLUMN, PAGE, keyed
from scaling import plan
from tests.corpora import study_runs
from tests.drawn import faults

FRAME = pd.DataFrame(
    {
        "size": [1, 1, 2, 2, 1, 1, 2, 2],
        "loss": [4.0, 5.0, 2.0, 3.0, 8.0, 9.0, 6.0, 7.0],
        "arm": ["old"] * 4 + ["new"] * 4,
        "tokens": [10, 10, 20, 20] * 2,
    }
)


def test_a_line_goes_through_the_means_and_every_seed_has_a_dot():
    figure, (axis,) = panels()
    colours = means(axis, FRAME, "size", "loss", "arm", seeds=True)
    assert list(colours) == ["old", "new"]  # In the order of the table.
    lines = [bars.lines[0] for bars in axis.containers]
    assert [line.get_marker() for line in lines] == ["o", "s"]  # Told apart without colour too.
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    np.testing.assert_array_equal(lines[0].get_ydata(), [4.5, 2.5])
    dots = [line for line in axis.get_lines() if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [4, 4]
    finish(axis, "size", "loss", ticks=[1, 2])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2"]
    assert [text.get_text() for text in keyed(figure).legends[0].get_texts()] == ["old", "new"]
    assert faults(figure) == []


def test_every_level_has_a_panel_with_its_own_rows():
    figure, axes = per_panel(
        FRAME, "tokens", "loss", ("size", "nats"), "{} tokens".format, x="size", by="arm"
    )
    assert {level: axis.get_title() for level, axis in axes.items()} == {
        10: "10 tokens",
        20: "20 tokens",
    }
    assert axes[10].get_ylabel() == "nats" and len(figure.axes) == 2


def test_panels_beyond_three_go_to_the_next_row_of_a_page():
    figure, row = panels(5)
    assert (figure.get_figwidth(), len(figure.axes), len(row)) == (PAGE, 5, 5)
    assert panels()[0].get_figwidth() == COLUMN and panels(wide=True)[0].get_figwidth() == PAGE
    tops = [axis.get_subplotspec().rowspan.start for axis in row]
    assert tops == [0, 0, 0, 1, 1]


def test_ordered_levels_have_colours_of_their_own():
    found = shades([4, 1, 2, 2])
    assert list(found) == [1, 2, 4] and len({tuple(colour) for colour in found.values()}) == 3


def test_a_plan_is_drawn_with_a_line_per_segment_and_a_dot_per_run(corpus):
    planned = plan(study_runs("wsd", corpus))
    (axis,) = plan_tree(planned).axes
    drawn = [line for line in axis.get_lines() if line.get_linewidth() == 1.5]
    ends = [line for line in axis.get_lines() if line.get_marker() == "o"]
    assert len(drawn) == len(planned.segments) and len(ends) == len(planned.leaves)


def test_bars_reach_from_the_low_to_the_high_end():
    _, (axis,) = panels()
    value, low, high = (np.array(some) for some in ([1.0, 2.0], [0.5, 2.5], [3.0, 3.0]))
    intervals(axis, [1, 2], value, low, high, label="seen")
    (bars,) = axis.collections
    # A value outside its interval has no bar on that side.
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[0.5, 3.0], [2.0, 3.0]]
