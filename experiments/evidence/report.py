"""Reports: blocks of text, tables and figures, written as Markdown, HTML, CSV and LaTeX."""

import base64
import datetime
import html
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
from etils import epath
from ml_collections import ConfigDict

from experiments.evidence.study import Study
from refused import Refused
from scaling.environment import environment
from scaling.files import write_atomically

if TYPE_CHECKING:  # A plan starts without it.
    from matplotlib.figure import Figure

    from fitting import Fit


@dataclass(frozen=True)
class Text:
    """A piece of Markdown."""

    markdown: str


@dataclass(frozen=True)
class Table:
    """A table that is shown, and written as `NAME.csv` and `NAME.tex`; columns carry their units.

    `latex` replaces the table's own LaTeX; `fit` is the fit that it shows, which the report's
    explorer has too.
    """

    name: str
    frame: pd.DataFrame
    caption: str
    latex: str | None = None
    fit: "Fit | None" = None


@dataclass(frozen=True)
class Picture:
    """A figure that is shown, and written as `figures/NAME.png`, with PDF and SVG beside it."""

    name: str
    figure: "Figure"
    caption: str


@dataclass(frozen=True)
class Page:
    """A page of its own, written as `NAME.html` and linked."""

    name: str
    html: str
    caption: str


Block = Text | Table | Picture | Page

# Without it a phone shows the page as wide as a desk's, at 40 % of its size.
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
ON_A_PAGE = 140  # pixels of a page for an inch of a figure: a full page's figure fills it
ON_A_PHONE = 600  # pixels up to which a figure can be read at a phone's width; others scroll there
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff; overflow-wrap: anywhere }
table { border-collapse: collapse; font-size: 14px; margin: .5rem 0; display: block;
        overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left }
figure { margin: 1rem 0; overflow-x: auto }
img { max-width: 100%; height: auto }
.wide img { max-width: max(100%, 36rem) }
figcaption { position: sticky; left: 0 }
figcaption, .caption { color: #555; font-size: 14px }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: 13px }
"""


def cell(value) -> str:
    """Writes a table's value for a person: five significant digits, dashes for what is absent."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.3e}"
    return str(value)


def safe(text: str) -> str:
    """Escapes what Markdown takes for HTML or a link; code is shown as it is by itself."""
    parts = re.split(r"(`+[^`]+`+)", text)
    parts[::2] = [part.replace("<", "&lt;").replace("](", r"]\(") for part in parts[::2]]
    return "".join(parts)


def pipes(frame: pd.DataFrame) -> str:
    """Writes a table as Markdown."""
    shown = lambda row: " | ".join(safe(cell(x)).replace("|", r"\|") for x in row)
    rule = "|" + "|".join([" --- "] + [" ---: "] * (len(frame.columns) - 1)) + "|"
    rows = [f"| {shown(row)} |" for row in frame.itertuples(index=False)]
    return "\n".join([f"| {shown(frame.columns)} |", rule, *rows])


def latex(table: Table) -> str:
    """Writes a table as LaTeX (booktabs)."""
    if table.latex is not None:
        return table.latex
    from fitting.latex import escape  # A plan starts without it.

    shown = lambda row: " & ".join(escape(cell(x)) for x in row) + r" \\"
    lines = [shown(row) for row in table.frame.itertuples(index=False)]
    head = shown(table.frame.columns)
    columns = "l" + "r" * (len(table.frame.columns) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *lines]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}", ""])


def write_report(
    folder: epath.Path,
    study: Study,
    config: ConfigDict,
    blocks: list[Block],
    absent: int = 0,
    runs: pd.DataFrame | None = None,
) -> None:
    """Writes a study's report, which says how many runs, `absent`, the store lacks.

    With its table of runs it links a page in which these and the report's fits are explored.
    """
    title = Text(f"# {study.name}, preset `{config.preset}`")
    touched = [] if runs is None else [explored(study.name, blocks, runs)]
    write_blocks(folder, study.name, [title, *blocks, *touched, footer(config, absent)])


def explored(name: str, blocks: list[Block], runs: pd.DataFrame) -> Block:
    """Returns the page of a study's runs and of the fits that its tables show."""
    from fitting import Observations
    from fitting.explorer import explorer

    shown = {b.name: b.fit for b in blocks if isinstance(b, Table) and b.fit is not None}
    target = next((found.target for found in shown.values()), None)
    laws = [found.law.name for found in shown.values()]
    fits = [
        # A law that is fitted twice goes by the names of its tables.
        found if laws.count(found.law.name) == 1 else replace(found, law=replace(found.law, name=t))
        for t, found in shown.items()
        if found.target == target
    ]
    try:
        page = explorer(fits, Observations(runs), f"{name}: runs and laws")
    except Refused as error:
        return Text(f"There is no page to explore the runs in: {error}.")
    return Page("explorer", page, "Explore the runs and the laws")


def write_blocks(folder: epath.Path, title: str, blocks: list[Block]) -> None:
    """Writes `report.md`, `report.html` (self-contained), and tables and figures beside them."""
    folder = epath.Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    written = [write_block(folder, block) for block in blocks]
    text, body = ("\n\n".join(parts) for parts in zip(*written, strict=True))
    write_atomically(folder / "report.md", text + "\n")
    write_atomically(folder / "report.html", page(title, body))


def write_block(folder: epath.Path, block: Block) -> tuple[str, str]:
    """Writes a block's own files, and returns it as Markdown and as HTML."""
    if isinstance(block, Text):
        text = safe(block.markdown)
        return text, rendered(text)
    caption = html.escape(block.caption)
    if isinstance(block, Page):
        write_atomically(folder / f"{block.name}.html", block.html)
        link = f'<p><a href="{block.name}.html">{caption}</a></p>'
        return f"[{safe(block.caption)}]({block.name}.html)", link
    if isinstance(block, Table):
        from fitting.tables import as_words

        write_atomically(folder / f"{block.name}.csv", as_words(block.frame).to_csv(index=False))
        write_atomically(folder / f"{block.name}.tex", latex(block))
        shown = pipes(block.frame)
        text = f"{shown}\n\n*{safe(block.caption)}* ([CSV]({block.name}.csv))"
        return text, f'{rendered(shown)}\n<p class="caption">{caption}</p>'
    from fitting.style import as_bytes

    file = f"figures/{block.name}.png"
    image, *others = (as_bytes(block.figure, kind) for kind in ("png", "pdf", "svg"))
    (folder / file).write_bytes(image)
    for kind, text in zip(("pdf", "svg"), others, strict=True):
        (folder / f"figures/{block.name}.{kind}").write_bytes(text)
    source = base64.b64encode(image).decode()
    width = round(ON_A_PAGE * block.figure.get_figwidth())
    kind = ' class="wide"' * (width > ON_A_PHONE)
    return (
        f"![{safe(block.caption)}]({file})\n\n*{safe(block.caption)}*",
        f'<figure{kind}><img alt="{caption}" width="{width}" src="data:image/png;base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>",
    )


def rendered(text: str) -> str:
    """Turns Markdown into HTML in which raw HTML is text."""
    import markdown  # Here, since a plan writes no page.

    writer = markdown.Markdown(extensions=["tables", "fenced_code"])
    writer.preprocessors.deregister("html_block")
    writer.inlinePatterns.deregister("html")
    return writer.convert(text)


def page(title: str, body: str) -> str:
    """Wraps HTML into a page of its own."""
    head = (
        f'<meta charset="utf-8">{VIEWPORT}<title>{html.escape(title)}</title><style>{STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def footer(config: ConfigDict, absent: int) -> Text:
    """Says where, when and from which configuration the report was made."""
    here = environment()
    made = f"{here['device']} × {here['devices']}, {here['cpus']} visible CPUs, jax {here['jax']}"
    date = datetime.date.today().isoformat()
    commit = f", commit {here['commit'][:12]}" if here["commit"] else ""
    missing = (
        f"\n\n**{absent} runs are not in the store and not in this report.**" if absent else ""
    )
    values = "\n".join(f"{name} = {config[name]}" for name in sorted(config))
    return Text(
        f"---\n\nWritten on {date}, {made}{commit}.{missing}\n\nConfiguration:\n\n"
        f"```\n{values}\n```"
    )
