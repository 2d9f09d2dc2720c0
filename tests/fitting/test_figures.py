"""The figures of a fit."""

import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, figures, fit, style, use
from fitting.isoflop import isoflop
from tests.drawn import faults
from tests.fitting.test_isoflop import sweep


def rolled():
    rng = np.random.default_rng(0)
    rows = [
        (law, far, 0.01 * far * rng.normal())
        for law in ("a", "b")
        for far in rng.uniform(0.1, 4, 40)
    ]
    return pd.DataFrame(rows, columns=["law", "distance", "error"])


def every(fitted, wide: bool):
    """Every kind of figure, as wide as a page's text or as a column."""
    held_out, result = fitted
    minima = isoflop(sweep(noise=0.003), "params_total", draws=20)
    return {
        "loss": figures.loss_against_compute(result, held_out, wide=wide),
        "predicted": figures.predicted_against_actual(result, wide=wide),
        "residuals": figures.residuals(result, wide=wide),
        "profiles": figures.profile_likelihood(result, wide=wide),
        "allocation": figures.allocation(result, wide=wide),
        "distance": figures.error_against_distance(rolled(), wide=wide),
        "isoflop": figures.isoflop_minima(minima, wide=wide),
    }


@pytest.fixture(scope="module", params=[False, True], ids=["column", "page"])
def drawn(fitted, request):
    return every(fitted, request.param)


def told(figure) -> list[str]:
    """The labels of a figure's legend."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_figure_has_a_caption_and_none_holds_a_title_or_a_sentence(drawn):
    assert set(drawn) == set(figures.CAPTIONS)
    for figure in drawn.values():
        assert not figure.get_suptitle() and not figure.get_supxlabel()
        for axis in figure.axes:
            assert not axis.get_title() and not axis.texts
            assert axis.get_xlabel() or not axis.axison


def test_axes_are_logarithmic_where_the_law_is_a_power_law(drawn):
    for name in ("loss", "predicted", "allocation", "distance", "isoflop"):
        for axis in drawn[name].axes:
            assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log"), name
    assert "FLOP" in drawn["loss"].axes[0].get_xlabel()
    assert "nats/token" in drawn["loss"].axes[0].get_ylabel()


def test_no_two_texts_of_a_figure_overlap(drawn):
    for name, figure in drawn.items():
        figure.canvas.draw()
        for axis in figure.axes:
            texts = [*axis.get_xticklabels(), axis.xaxis.label]
            texts += [text for legend in figure.legends for text in legend.get_texts()]
            boxes = [t.get_window_extent() for t in texts if t.get_text() and t.get_visible()]
            for place, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[place + 1 :]), name


def test_no_legend_lies_over_what_is_drawn_and_no_word_is_cut(drawn):
    for name, figure in drawn.items():
        assert faults(figure) == [], name
        assert bool(told(figure)) == (name != "profiles")


def test_a_legend_over_a_line_and_words_that_are_cut_are_seen():
    figure, axes = style.panels()
    axes[0, 0].plot([0, 1], [0, 1], label="one")
    axes[0, 0].legend(loc="center")
    assert faults(figure) == ["one: over an axis"]
    axes[0, 0].set_xlabel("words that are wider than a column of a paper is, and so are cut off")
    assert any("words are cut" in fault for fault in faults(figure))
    figure.legend(["a legend's words that are wider than a column of a paper is, by a lot of them"])
    assert [fault for fault in faults(figure) if "cut" in fault]


def test_held_out_runs_are_open_marks(drawn, fitted):
    held_out, _ = fitted
    axis = drawn["loss"].axes[0]
    hollow = [c for c in axis.collections if len(c.get_offsets()) and not len(c.get_facecolors())]
    assert sum(len(c.get_offsets()) for c in hollow) == len(held_out)
    assert "held out" in told(drawn["loss"])


def test_the_allocation_s_lines_are_the_fit_s_and_the_published_law_s(drawn, fitted):
    _, result = fitted
    params, tokens, ratio = drawn["allocation"].axes
    own, published = params.lines
    flops = own.get_xdata()
    assert own.get_ydata() == pytest.approx(use.allocations(result, flops)["params"].to_numpy())
    other = LAWS["over_training"].allocation(result.law.published["c4"], flops, {})
    assert published.get_ydata() == pytest.approx(other["params"])
    assert tokens.lines[0].get_ydata() == pytest.approx(flops / 6 / own.get_ydata())
    assert len(ratio.collections) == 1  # The band.


def test_a_law_without_published_values_is_beside_chinchilla(fitted):
    _, result = fitted
    found = fit("skaling", result.observations.frame, point_only=True, audits=2)
    figure = found.plot.allocation(np.geomspace(1e20, 1e22, 5))
    assert told(figure) == ["this fit", "Hoffmann et al. 2022"]


def test_a_fit_without_intervals_is_drawn_too(bare, tmp_path):
    files = bare.plot.save(tmp_path, formats=("png",))
    assert {file.stem for file in files} == {
        "loss",
        "predicted",
        "residuals",
        "profiles",
        "allocation",
    }
    assert "none (5 runs" in bare.plot.profiles().axes[0].texts[0].get_text()
