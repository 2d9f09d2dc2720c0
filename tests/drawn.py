"""What a reader of a figure would stumble on, found in the figure itself."""

from collections.abc import Iterable

from matplotlib.figure import Figure


def stumbles(blocks: Iterable) -> dict[str, list[str]]:
    """The faults of a report's figures that have any, by their names."""
    figures = {block.name: block.figure for block in blocks if hasattr(block, "figure")}
    assert figures
    return {name: found for name, figure in figures.items() if (found := faults(figure))}


def faults(figure: Figure) -> list[str]:
    """Legends that lie over an axis's data or words, and words cut at the figure's edges.

    All that is drawn of the data lies within its axis, marks at the edge with their whole size.
    """
    figure.canvas.draw()
    renderer, found, parts = figure.canvas.get_renderer(), [], {}
    legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
    for axis in filter(lambda axis: axis.axison, figure.axes):
        parts[axis] = _boxes([axis.xaxis, axis.yaxis, axis.title, *axis.texts], renderer)
    for legend in legends:
        box = legend.get_window_extent(renderer)
        name = ", ".join(text.get_text() for text in legend.get_texts())
        for axis, words in parts.items():
            drawn = _boxes([*axis.collections, *axis.lines, *axis.patches], renderer)
            taken = [axis.get_window_extent(renderer), *words, *drawn]
            if any(one.padded(-0.5).overlaps(box) for one in taken):
                found.append(f"{name}: over an axis")
        if _outside(box, figure):
            found.append(f"{name}: cut")
    for axis, words in parts.items():
        if any(_outside(box, figure) for box in words):
            found.append(f"{axis.get_xlabel()}, {axis.get_ylabel()}: words are cut")
    return found


def _boxes(artists, renderer) -> list:
    boxes = [one.get_tightbbox(renderer) for one in artists if one.get_visible()]
    return [box for box in boxes if box is not None and box.width >= 0 and box.height >= 0]


def _outside(box, figure: Figure) -> bool:
    edge = figure.bbox
    return box.x0 < -1 or box.y0 < -1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1
