"""A fit as a table: CSV or Markdown, with intervals and how they were made; LaTeX is `latex`."""

import csv
import io

from fitting.fitted import Fitted

_FORMULA = tuple("=+-@\t\r")  # How a spreadsheet's formulas begin.
HEADER = ("parameter", "value", "low", "high", "unit", "verdict")


def rows(result: Fitted) -> list[dict]:
    """One dict per parameter with the keys of `HEADER`; low and high are None without intervals."""
    units = {parameter.name: parameter.unit for parameter in result.law.parameters}
    bounds = {parameter.name: parameter.high for parameter in result.law.parameters}
    out = []
    for name, value in result.parameters.items():
        low, high = result.intervals.get(name, (None, None))
        verdict = result.verdicts.get(name, "fixed" if name in result.fixed else "")
        if high is not None and high >= 0.999 * bounds.get(name, float("inf")):
            verdict += ", upper end at a bound"
        cells = (name, value, low, high, units.get(name, "derived"), verdict)
        out.append(dict(zip(HEADER, cells, strict=True)))
    return out


def caption(result: Fitted) -> str:
    """One line: law, objective, runs, intervals and how they were made or why there are none."""
    count = len(result.observations)
    kept = len(result.held_out)
    text = f"{result.law.formula}; {_objective(result)}; {count} runs"
    text += f", {kept} held out" if kept else ""
    if result.params:
        text += f"; params = {result.params}"
    if result.intervals:
        return f"{text}; {result.level:.0%} intervals: {result.interval_method}"
    return f"{text}; interval: {result.interval_method}"


def as_csv(result: Fitted) -> str:
    """Full-precision CSV; the caption is a # comment line."""
    out = io.StringIO()
    out.write(f"# {caption(result)}\n")
    writer = csv.DictWriter(out, HEADER, lineterminator="\n")
    writer.writeheader()
    for row in rows(result):
        writer.writerow({key: repr(v) if isinstance(v, float) else v for key, v in row.items()})
    return out.getvalue()


def as_markdown(result: Fitted, digits: int = 6) -> str:
    """Markdown table, then the caption."""
    titles = ("parameter", "value", "interval", "unit", "verdict")
    cells = [_cells(row, digits) for row in rows(result)]
    return f"{aligned(titles, cells)}\n{caption(result)}\n"


def aligned(titles, cells) -> str:
    """A Markdown table whose columns also line up in a terminal; cells are texts."""
    lines = [list(titles), *map(list, cells)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(titles))]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([text[0], rule, *text[1:], ""])


def comparison(names: list[str], table: list[dict], how: str = "markdown") -> str:
    """A list of dicts with the same keys as Markdown, CSV or LaTeX text.

    Args:
      names: columns, in order; table: the rows; numbers are printed with 7 digits (all in CSV).
      how: "markdown", "csv" or "latex".
    """
    if how == "csv":
        lines = [
            [repr(r[n]) if isinstance(r[n], float) else str(r[n]) for n in names] for r in table
        ]
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([names, *lines])
        return out.getvalue()
    cells = [[_number(row[name], 7) for name in names] for row in table]
    if how == "markdown":
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells]) + "\n"
    body = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in [names, *cells]]
    top = [rf"\begin{{tabular}}{{{'l' * len(names)}}}"]
    return "\n".join([*top, *body, r"\end{tabular}", ""])


def commented(table, *comments: str) -> str:
    """A DataFrame as CSV under comment lines that say what it is and how intervals were made."""
    return "".join(f"# {line}\n" for line in comments) + as_words(table).to_csv(index=False)


def as_words(table):
    """A DataFrame whose words no spreadsheet takes for a formula: an apostrophe stands before those
    that begin like one, such as a run called `=1+1`. Numbers stay as they are.
    """

    def word(value):
        return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value

    names = {name: table[name] for name in table if table[name].dtype.kind not in "fiub"}
    words = {name: column.astype(object).map(word) for name, column in names.items()}
    return table.assign(**words).rename(columns=word)


def _objective(result: Fitted) -> str:
    text = f"objective {result.objective}"
    text += f", delta {result.delta:g}" if result.objective == "huber" else ""
    text += f" {result.quantile:g}" if result.objective == "quantile" else ""
    return text + (f", overestimates count {result.over:g} times" if result.over != 1 else "")


def _number(value, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _cells(row: dict, digits: int) -> list[str]:
    low, high = row["low"], row["high"]
    interval = "none" if low is None else f"{_number(low, digits)} to {_number(high, digits)}"
    return [row["parameter"], _number(row["value"], digits), interval, row["unit"], row["verdict"]]


def _escape(text: str) -> str:
    for raw, safe in (("\\", r"\textbackslash "), ("_", r"\_"), ("%", r"\%"), ("&", r"\&")):
        text = text.replace(raw, safe)
    for raw, safe in (("^", r"\textasciicircum{}"), ("#", r"\#"), ("$", r"\$"), ("*", r"$*$")):
        text = text.replace(raw, safe)
    return text
