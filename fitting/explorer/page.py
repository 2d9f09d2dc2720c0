"""The explorer: one page that holds runs, laws and all that draws them, and needs no network.

The chart library is uPlot 1.6.32 (MIT, its licence beside it), chosen for 50 kB, no dependencies,
logarithmic axes and a canvas that draws 5,000 runs at once; Grafana's charts are built on it.
"""

import html
import re
from pathlib import Path

from fitting.explorer.payload import as_json, payload
from fitting.fit import Fit
from fitting.observations import Observations

HERE = Path(__file__).parent
SCRIPTS = ("numbers.js", "format.js", "state.js", "charts.js", "view.js")


def explorer(fits: list[Fit], obs: Observations | None = None, title: str = "") -> str:
    """A page of HTML in which runs and laws are looked at, compared and asked.

    Args:
      fits: of laws of one target, the first one shown first; none shows the runs alone.
      obs: the runs that are drawn, those of the first fit by default; title: of the page.

    Raises:
      Refused: as `payload`.
    """
    told = payload(fits, obs, title or "Scaling laws")
    functions = ",".join(_functions(law) for law in told["laws"])
    parts = {
        "TITLE": html.escape(told["title"]),
        "STYLE": _text("uplot/uPlot.min.css") + _text("page.css"),
        "LICENCE": html.escape(_text("uplot/LICENSE")),
        "DATA": as_json(told),
        "LIBRARY": _text("uplot/uPlot.iife.min.js"),
        "SCRIPT": f"const FUNCTIONS=[{functions}];\n" + "\n".join(map(_text, SCRIPTS)),
    }
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], _text("page.html"))


def _functions(law: dict) -> str:
    """The functions of one law, taken out of its data: a page runs no text as code."""
    place = law["misfit"].pop("place") if law["misfit"] else "null"
    parts = {name: law.pop(name) or "null" for name in ("predict", "closed", "slope")}
    return "{" + ",".join(f"{k}:{text}" for k, text in (parts | {"place": place}).items()) + "}"


def _text(name: str) -> str:
    return (HERE / name).read_text("utf-8")
