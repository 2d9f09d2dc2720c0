import pytest

from fitting import figures


@pytest.mark.parametrize("name", ["predicted_against_actual", "residuals", "profile_likelihood"])
def test_figures_say_how_intervals_were_made(fitted, bare, name):
    for result, word in ((fitted[1], "trunk bootstrap"), (bare, "none (5 runs")):
        figure = getattr(figures, name)(result)
        assert word in figure.get_supxlabel()
        assert ("bars" in figure.get_supxlabel()) == bool(figure.axes[0].collections[1:])
        assert all(axis.get_xlabel() for axis in figure.axes if axis.axison and axis.lines)


def test_loss_figure_marks_held_out_runs(fitted):
    held_out, result = fitted
    figure = figures.loss_against_compute(result, held_out)
    axis = figure.axes[0]
    assert "FLOP" in axis.get_xlabel() and "nats/token" in axis.get_ylabel()
    assert "open squares" in axis.get_legend().get_title().get_text()
