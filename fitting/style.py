"""How figures look, in one place: sizes, fonts, colours and files, for a paper by default.

Matplotlib is imported where something is drawn, so that a plan or a fit starts without it.
"""

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

# Widths of a column and of a page's text, inches, as in the styles of ICML and NeurIPS.
COLUMN, PAGE = 3.3, 6.75
FORMATS = ("png", "pdf", "svg")
# Okabe and Ito 2008: colours that the colour-blind tell apart, ordered so that neighbours differ in
# grey too; marks and dashes tell them apart without any colour.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), (0, (1, 2.5)))
HELD_OUT, INK, QUIET = COLOURS[6], "0.15", "0.6"

PAPER = {
    **{"font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "legend.fontsize": 7},
    **{"xtick.labelsize": 7, "ytick.labelsize": 7, "legend.title_fontsize": 7},
    **{"legend.frameon": False, "legend.handlelength": 1.6, "legend.borderaxespad": 0.3},
    **{"axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3.5},
    **{"xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4},
    **{"ytick.minor.width": 0.4, "axes.edgecolor": INK, "axes.labelcolor": INK},
    **{"axes.prop_cycle": f"cycler('color', {list(COLOURS)})"},
    **{"xtick.color": INK, "ytick.color": INK, "text.color": INK, "mathtext.fontset": "dejavusans"},
}
# TrueType: publishers refuse Type 3 fonts. Letters of an SVG are shapes, the same everywhere.
FILES = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "espalier"}


def styled(draw):
    """Has a function draw its figure in the paper's style."""

    @functools.wraps(draw)
    def drawn(*args, **settings):
        from matplotlib import rc_context

        with rc_context(PAPER):
            return draw(*args, **settings)

    return drawn


def panels(
    columns: int = 1, rows: int = 1, *, wide: bool = False, height: float = 2.4, **settings: Any
):
    """A figure that nothing keeps open, and its axes (rows, columns).

    Args:
      wide: two columns of a paper rather than one.
      height: of a row, inches.
      settings: of matplotlib's `subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows."""

        def _repr_png_(self):
            return as_bytes(self, "png", dpi=150)

    figure = Shown(figsize=(PAGE if wide else COLUMN, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def keyed(figure: Any, title: str = "") -> Any:
    """Gives a figure one legend of all its labels, above the axes, where nothing is drawn.

    It has as many columns as the figure's width holds; the figure grows by its height, so that the
    axes keep theirs. `title` is the legend's. Returns the figure.
    """
    told = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            told.setdefault(label, handle)
    for rows in range(1, len(told) + 1):
        columns = -(-len(told) // rows)
        # Matplotlib fills columns; a reader reads rows.
        places = [i for column in range(columns) for i in range(column, len(told), columns)]
        labels = [list(told)[place] for place in places]
        how = {"ncols": columns, "loc": "outside upper center", "title": title or None}
        legend = figure.legend([told[label] for label in labels], labels, columnspacing=1.2, **how)
        box = legend.get_window_extent(figure.canvas.get_renderer())
        # Letters are wider where they are drawn in few pixels.
        if box.width <= 0.93 * figure.bbox.width or columns == 1:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            break
        legend.remove()
    return figure


def shades(count: int) -> list:
    """So many colours from dark to light for ordered levels: light ones are dark enough to see."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.82, max(count, 1))]


def as_bytes(figure, kind: str, dpi: int = 300, **settings) -> bytes:
    """A figure as a PNG, PDF or SVG file, the same bytes every time; settings of `savefig`."""
    from matplotlib import rc_context

    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    stream = io.BytesIO()
    with rc_context(PAPER | FILES):  # Ticks are made when they are drawn.
        figure.savefig(stream, format=kind, dpi=dpi, metadata=undated[kind], **settings)
    return stream.getvalue()


def save(figure, folder: str | Path, name: str, formats=FORMATS) -> list[Path]:
    """Writes a figure as `NAME.png`, `NAME.pdf` and `NAME.svg`; returns the files."""
    files = [Path(folder) / f"{name}.{kind}" for kind in formats]
    for file, kind in zip(files, formats, strict=True):
        file.write_bytes(as_bytes(figure, kind))
    return files


def number(value: float, digits: int = 10) -> str:
    """A number as a figure shows it, from a million on with a power of ten."""
    front, power = f"{value:.{digits - 1}e}".split("e")
    if abs(int(power)) < 6:
        return f"{float(f'{value:.{digits}g}'):.10g}"
    front = "" if float(front) == 1 else f"{float(front):.{digits}g} \\times "
    return f"${front}10^{{{int(power)}}}$"


def plain_ticks(axis, most: int = 6):
    """Ticks of a logarithmic axis as plain numbers where it spans less than two decades."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    if low <= 0 or high / low > 60:
        return
    steps = [front * 10.0**power for power in range(-8, 13) for front in (1, 2, 2.5, 5)]
    step = next((s for s in steps if np.floor(high / s) - np.ceil(low / s) + 1 <= most), None)
    if step is None:
        return
    places = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    if len(places) < 2:
        return
    axis.set_major_locator(FixedLocator(places[places > 0]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
