"""Figures as files of a paper."""

import re

import pytest
from matplotlib.colors import to_rgb

from fitting import style


def luminance(colour) -> float:
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def drawn():
    figure, axes = style.panels()
    axes[0, 0].plot([1, 2], [3, 4], label="one")
    axes[0, 0].set_xlabel("words")
    return figure


def test_files_hold_their_fonts_as_truetype_and_are_the_same_each_time(tmp_path):
    files = style.save(drawn(), tmp_path, "one")
    assert [file.suffix for file in files] == [".png", ".pdf", ".svg"]
    text = files[1].read_bytes()
    assert b"/FontFile2" in text and b"/Type3" not in text
    (tmp_path / "again").mkdir()
    for file, same in zip(files, style.save(drawn(), tmp_path / "again", "one"), strict=True):
        assert file.read_bytes() == same.read_bytes()
    assert "<text" not in files[2].read_text() and files[2].read_text().count("<path") > 4


def test_widths_are_those_of_a_column_and_of_a_page():
    assert style.panels()[0].get_figwidth() == style.COLUMN
    assert style.panels(2, wide=True)[0].get_figwidth() == style.PAGE


def test_neighbouring_colours_differ_in_grey_or_by_mark_and_dash():
    shades = [luminance(colour) for colour in style.shades(6)]
    assert all(second - first > 0.05 for first, second in zip(shades, shades[1:], strict=False))
    assert shades[-1] < 0.8
    for first, second in zip(style.COLOURS, style.COLOURS[1:], strict=False):
        assert abs(luminance(first) - luminance(second)) > 0.1
    assert len(set(style.MARKS[:7])) == len(style.COLOURS) and len(set(map(str, style.DASHES))) == 6


@pytest.mark.parametrize(("low", "high"), [(2.0, 4.0), (1.7, 6.2), (0.31, 0.33)])
def test_short_logarithmic_axes_have_plain_numbers(low, high):
    figure, axes = style.panels()
    axes[0, 0].set(yscale="log", ylim=(low, high))
    style.plain_ticks(axes[0, 0].yaxis)
    figure.canvas.draw()
    told = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert 2 <= len(told) <= 6 and all(re.fullmatch(r"\d+(\.\d+)?", text) for text in told)


def test_numbers_from_a_million_on_are_powers_of_ten():
    told = [style.number(value, 2) for value in (0.25, 64e3, 1e18, 3.2e19, 2e-7)]
    assert told == ["0.25", "64000", "$10^{18}$", r"$3.2 \times 10^{19}$", r"$2 \times 10^{-7}$"]
    assert style.number(2.5e6) == r"$2.5 \times 10^{6}$"


@style.styled
def told(names, wide: bool):
    figure, axes = style.panels(wide=wide)
    for name in names:
        axes[0, 0].plot([0, 1], [0, 1], label=name)
    return style.keyed(figure)


def test_a_legend_has_as_many_columns_as_its_figure_holds_and_reads_in_rows():
    names = [f"the run of number {index}" for index in range(5)]
    for wide, rows in ((True, [names[:3], names[3:]]), (False, [names[:2], names[2:4], names[4:]])):
        figure = told(names, wide)
        figure.canvas.draw()
        by_row = {}
        for text in figure.legends[0].get_texts():
            place = text.get_window_extent()
            by_row.setdefault(round(-place.y0), []).append((place.x0, text.get_text()))
        assert [[name for _, name in sorted(by_row[y])] for y in sorted(by_row)] == rows
        assert figure.get_figheight() > 2.4


def test_a_notebook_shows_a_figure():
    assert drawn()._repr_png_().startswith(b"\x89PNG")
