"""Tables and words for LaTeX: booktabs, mathematics, digits that intervals justify."""

import re

import numpy as np

from fitting import tables
from fitting.columns import unit as column_unit
from fitting.fitted import Fitted
from fitting.summary import digits

MOVED = 1e-3  # relative move of a prediction from which rounded parameters are not enough
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi "
    "omega"
).split()
_PLAIN = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "},
}
_TOKEN = re.compile(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|[A-Za-z]\w*(?:\.\w+)*'?|\*\*|<=|>=|\S)")
_FUNCTIONS = {"log", "exp", "ln", "min", "max", "tanh"}
_LETTERS = {"'": "'", "*": r"\,", "/": "/", "eps": r"\varepsilon", "inf": r"\infty"}
# Words by which a part of a formula is told to be prose.
_PROSE = {"in", "as", "from", "alike", "all", "the", "are", "is", "with", "held", "for", "where"}


def escape(text) -> str:
    """Words as text, whatever they hold."""
    return "".join(_PLAIN.get(letter, letter) for letter in str(text))


def symbol(name: str) -> str:
    """A parameter or column as mathematics, without dollars: `alpha_N` is `\\alpha_{N}`."""
    if "_" in name and column_unit(name) is not None:
        return f"\\mathrm{{{escape(name)}}}"
    prime = "'" if name.endswith("'") else ""
    head, _, rest = name.removesuffix("'").partition("_")
    found = re.fullmatch(r"([A-Za-z]+?)(\d+)", head)
    if found and not rest:
        head, rest = found.groups()
    if head in GREEK:
        shown = f"\\{head}"
    elif head in _LETTERS:
        shown = _LETTERS[head]
    else:
        shown = head if len(head) == 1 else f"\\mathrm{{{escape(head)}}}"
    below = rest.replace("_", ",")
    if below and below not in GREEK:
        below = below if len(below) == 1 or below.isdigit() else f"\\mathrm{{{escape(below)}}}"
    elif below:
        below = f"\\{below}"
    return f"{shown}_{{{below}}}{prime}" if below else shown + prime


def mathematics(text: str) -> str:
    """A formula as mathematics, without dollars; powers take what follows them."""
    found = _TOKEN.findall(text)
    out, place = [], 0
    while place < len(found):
        if found[place] in ("^", "**"):
            inner, place = _exponent(found, place + 1)
            out.append(f"^{{{inner}}}")
            continue
        word = _one(found[place])
        # Words side by side are a product, not one word.
        apart = word.startswith("\\mathrm") and out and out[-1][-1] not in "(+-=/,<>:"
        out.append(rf"\,{word}" if apart else word)
        place += 1
    return " ".join(out).replace(r"\, =", "^{*} =")


def _one(token: str) -> str:
    if token in _FUNCTIONS:
        return f"\\{token}" if token != "tanh" else r"\tanh"
    if re.fullmatch(r"log(2|10)", token):
        return f"\\log_{{{token[3:]}}}"
    if token[0].isalpha():
        return symbol(token)
    if token[0].isdigit():
        front, _, power = token.partition("e")
        if not power:
            return front
        return f"10^{{{int(power)}}}" if front == "1" else f"{front} \\times 10^{{{int(power)}}}"
    return _LETTERS.get(token) or (token if token in "+-=(),<>/.:" else escape(token))


def _exponent(found: list[str], place: int) -> tuple[str, int]:
    """What a power is raised to, and where the rest begins."""
    if place >= len(found):
        return "", place
    if found[place] == "-":
        inner, end = _exponent(found, place + 1)
        return f"-{inner}", end
    called = found[place] in _FUNCTIONS and found[place + 1 : place + 2] == ["("]
    if found[place] != "(" and not called:
        return _one(found[place]), place + 1
    depth, end = 0, place + called
    while end < len(found):
        depth += {"(": 1, ")": -1}.get(found[end], 0)
        end += 1
        if depth == 0:
            break
    if called:
        return mathematics(" ".join(found[place:end])), end
    return mathematics(" ".join(found[place + 1 : end - 1])), end


def formula(text: str) -> str:
    """A law's formula: its equations as mathematics, what is said of them as words."""
    parts = re.split(r"((?:; |, )(?![^()]*\)))", text)
    return "".join(part if i % 2 else _part(part) for i, part in enumerate(parts))


def _part(text: str) -> str:
    prose = set(re.findall(r"[a-z]+", text)) & _PROSE
    return escape(text) if prose or "=" not in text else f"${mathematics(text)}$"


def unit(text: str) -> str:
    """A unit: words, with its powers as mathematics and x as a cross."""
    out = []
    for word in text.split(" "):
        if word == "x":
            out.append(r"$\times$")
        elif "^" in word:
            out.append(f"${mathematics(word)}$")
        else:
            out.append(escape(word))
    return " ".join(out)


def number(value: float, count: int) -> str:
    """A number with so many significant digits, as mathematics."""
    if not np.isfinite(value):
        return r"$\infty$" if value > 0 else "none"
    text = f"{value:#.{count}g}".rstrip(".")
    front, _, power = text.partition("e")
    return f"${front}$" if not power else f"${front} \\times 10^{{{int(power)}}}$"


def as_latex(result: Fitted) -> str:
    """The fit as a table in booktabs, its caption in mathematics.

    Values have the digits that their intervals justify. Where predictions at the fitted runs move
    by more than .1 % with these, a last row has the parameters in full.
    """
    level = f"{result.level:.0%}".replace("%", r"\,\%")
    head = rf"parameter & value & {level} interval & unit & verdict \\"
    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{lrrll}", r"\toprule", head]
    lines.append(r"\midrule")
    for row in tables.rows(result):
        count = digits(row["value"], row["low"], row["high"])
        ends = "none"
        if row["low"] is not None:
            ends = f"{number(row['low'], count)} to {number(row['high'], count)}"
        shown = "" if row["unit"] in ("1", "derived") else unit(row["unit"])
        cells = [f"${symbol(row['parameter'])}$", number(row["value"], count), ends, shown]
        lines.append(" & ".join([*cells, escape(row["verdict"])]) + r" \\")
    if damage(result) > MOVED:
        exact = ", ".join(f"${symbol(n)} = {result.parameters[n]!r}$" for n in result.law.names)
        lines += [r"\midrule", rf"\multicolumn{{5}}{{p{{.9\linewidth}}}}{{in full: {exact}}} \\"]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption(result)}}}", r"\end{table}"]
    return "\n".join([*lines, ""])


def allocation(result: Fitted, table) -> str:
    """The table of `use.allocate` in booktabs."""
    names = {"params": symbol(result.params or result.law.size or "params"), "tokens": "D"}
    names |= {"tokens_per_param": "D/N", "loss": symbol(result.target)}
    titles = [f"${title}$ & interval" for title in names.values()]
    lines = [rf"\begin{{tabular}}{{r{'rr' * len(names)}}}", r"\toprule"]
    lines += [" & ".join(["$6ND$ (FLOP)", *titles]) + r" \\", r"\midrule"]
    for row in table.to_dict("records"):
        cells = [number(row["flops"], 3)]
        for name in names:
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            count = digits(value, low, high)
            ends = "none" if np.isnan(low) else f"{number(low, count)} to {number(high, count)}"
            cells += [number(value, count), ends]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def damage(result: Fitted) -> float:
    """Largest relative move of a prediction at the fitted runs when parameters are rounded."""
    rounded = dict(result.parameters)
    for row in tables.rows(result):
        count = digits(row["value"], row["low"], row["high"])
        rounded[row["parameter"]] = float(f"{row['value']:.{count}g}")
    columns = result.columns(result.observations.frame)
    with np.errstate(all="ignore"):
        moved = result.law.predict(columns, rounded) / result.law.predict(
            columns, result.parameters
        )
    return float(np.max(np.abs(moved - 1)))


def caption(result: Fitted) -> str:
    """The caption of a fit's table: the law as mathematics, the rest as words."""
    rest = tables.caption(result).removeprefix(result.law.formula)
    return formula(result.law.formula) + escape(rest)
