"""Draws docs/plan.svg, the picture of a plan, from a study's own plan.

    python docs/picture.py

It is that of `over_training:cpu` at its smallest width and first seed: four runs of different
lengths, trained apart above and as they are planned below. Nothing is trained for it.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from experiments import over_training  # noqa: E402
from scaling import Plan, plan  # noqa: E402

WIDTH, SIDE, ROW = 760, 24, 34
PLATEAU, COOLDOWN, INK, PALE = "#2e7d32", "#f9a825", "#263238", "#90a4ae"


def planned() -> Plan:
    """Plans the four runs; their corpus is a stand-in, since nothing reads it."""
    config = over_training.get_config("cpu")
    config.widths, config.seeds, config.corpus = (24,), (1,), "stand-in:256,code"
    return plan(over_training.study(config).runs)


def text(x: float, y: float, words: str, size: int = 23) -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{INK}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 9) -> str:
    """A stretch of training, or what joins two."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}" stroke-linecap="butt"/>'
    )


def dot(x: float, y: float, words: str = "", branch: bool = False) -> str:
    """Where a run ends, or where runs branch; words after it."""
    fill = f'fill="white" stroke="{INK}" stroke-width="2"' if branch else f'fill="{INK}"'
    mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if branch else 7}" {fill}/>'
    return mark + (text(x + 20, y + 8, words) if words else "")


def drawn(found: Plan) -> str:
    """Returns the picture of a plan of runs with one trunk."""
    runs = sorted(found.runs, key=lambda run: run.tokens)
    ends = [(run.tokens - run.phases[-1].tokens, run.tokens) for run in runs]
    scale = (WIDTH - 2 * SIDE) / runs[-1].tokens
    at = lambda tokens: SIDE + tokens * scale
    apart = sum(run.tokens for run in runs)
    shared = sum(one.run.tokens - one.first_token for one in found.segments.values())
    y = 40
    parts = [text(SIDE, y, f"Four runs, each trained from its start: {apart:,} tokens", 25)]
    for start, end in ends:
        y += ROW
        parts += [line(at(0), y, at(start), y, PLATEAU), line(at(start), y, at(end), y, COOLDOWN)]
        parts.append(dot(at(end), y))
    y += 66
    parts.append(text(SIDE, y, f"The same runs as planned: {shared:,} tokens", 25))
    trunk = y + ROW * (len(runs) + 1)
    for height, (start, end) in zip(range(trunk - ROW * len(runs), trunk, ROW), ends, strict=True):
        parts += [line(at(start), trunk, at(start), height, PALE, 2)]
        parts += [line(at(start), height, at(end), height, COOLDOWN), dot(at(end), height)]
    parts.append(line(at(0), trunk, at(ends[-1][0]), trunk, PLATEAU))
    parts += [dot(at(start), trunk, branch=True) for start, _ in ends]
    return framed([*parts, *legend(trunk + 46)], trunk + 108)


def legend(y: int) -> list[str]:
    """Says what the colours and dots mean."""
    parts = [dot(440, y, "a run ends"), dot(440, y + 36, "runs branch", branch=True)]
    for row, colour, words in ((y, PLATEAU, "warm-up and plateau"), (y + 36, COOLDOWN, "cooldown")):
        parts += [line(SIDE, row, SIDE + 40, row, colour), text(SIDE + 52, row + 8, words)]
    return parts


def framed(parts: list[str], height: int) -> str:
    """Returns a whole SVG on white, which dark pages show as well."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" role="img">',
            "<title>Runs trained apart and as planned</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (HERE / "plan.svg").write_text(drawn(planned()), "utf-8")
