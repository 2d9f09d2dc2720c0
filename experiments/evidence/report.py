"""Reports: blocks of text, tables and figures, written as Markdown, HTML, CSV and LaTeX."""

import base64
import datetime
import html
import io
from dataclasses import dataclass

import markdown
import pandas as pd
from etils import epath
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.evidence.study import Study
from scaling.environment import environment
from scaling.store import write_atomically


@dataclass(frozen=True)
class Text:
    """A piece of Markdown."""

    markdown: str


@dataclass(frozen=True)
class Table:
    """A table that is shown, and written as `NAME.csv` and `NAME.tex`; columns carry their units.

    `latex` replaces the table's own LaTeX.
    """

    name: str
    frame: pd.DataFrame
    caption: str
    latex: str | None = None


@dataclass(frozen=True)
class Picture:
    """A figure that is shown, and written as `figures/NAME.png`."""

    name: str
    figure: Figure
    caption: str


Block = Text | Table | Picture

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff }
table { border-collapse: collapse; font-size: 14px; margin: .5rem 0; display: block;
        overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
figcaption, .caption { color: #555; font-size: 14px }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: 13px }
"""


def subplots(*shape: int, figsize: tuple[float, float], **settings):
    """Returns a figure and its axes as `plt.subplots` does, without keeping the figure open."""
    figure = Figure(figsize=figsize, layout="tight")
    return figure, figure.subplots(*shape, **settings)


def cell(value) -> str:
    """Writes a table's value for a person: five significant digits, dashes for what is absent."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:.3e}"
    return str(value)


def pipes(frame: pd.DataFrame) -> str:
    """Writes a table as Markdown."""
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + "|".join([" --- "] + [" ---: "] * (len(frame.columns) - 1)) + "|"
    rows = ["| " + " | ".join(map(cell, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join([head, rule, *rows])


def latex(table: Table) -> str:
    """Writes a table as LaTeX (booktabs)."""
    if table.latex is not None:
        return table.latex
    escape = lambda x: "".join(f"\\{c}" if c in "&%$#_{}" else c for c in cell(x))
    lines = [" & ".join(map(escape, row)) + r" \\" for row in table.frame.itertuples(index=False)]
    head = " & ".join(map(escape, table.frame.columns)) + r" \\"
    columns = "l" + "r" * (len(table.frame.columns) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *lines]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}", ""])


def write_report(
    folder: epath.Path, study: Study, config: ConfigDict, blocks: list[Block], absent: int = 0
) -> None:
    """Writes `report.md`, `report.html` (self-contained), and every table and figure beside them.

    `absent` counts the study's runs that the store lacks; the report says so.
    """
    folder = epath.Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    blocks = [Text(f"# {study.name}, preset `{config.preset}`"), *blocks, footer(config, absent)]
    text, page = [], []
    for block in blocks:
        if isinstance(block, Text):
            text.append(block.markdown)
            page.append(markdown.markdown(block.markdown, extensions=["tables", "fenced_code"]))
        elif isinstance(block, Table):
            write_atomically(folder / f"{block.name}.csv", block.frame.to_csv(index=False))
            write_atomically(folder / f"{block.name}.tex", latex(block))
            shown = pipes(block.frame)
            text.append(f"{shown}\n\n*{block.caption}* ([CSV]({block.name}.csv))")
            page.append(markdown.markdown(shown, extensions=["tables"]))
            page.append(f'<p class="caption">{html.escape(block.caption)}</p>')
        else:
            image = png(block.figure)
            file = f"figures/{block.name}.png"
            (folder / file).write_bytes(image)
            text.append(f"![{block.caption}]({file})\n\n*{block.caption}*")
            source = base64.b64encode(image).decode()
            caption = html.escape(block.caption)
            page.append(
                f'<figure><img alt="{caption}" src="data:image/png;base64,{source}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    write_atomically(folder / "report.md", "\n\n".join(text) + "\n")
    title = html.escape(study.name)
    write_atomically(
        folder / "report.html",
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(page) + "\n</body></html>\n",
    )


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


def png(figure: Figure) -> bytes:
    """Draws a figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()
