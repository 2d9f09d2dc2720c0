"""From a table and names of laws to the page: which laws are fitted, and what is left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fitting.choice import choose, extrapolating
from fitting.choice_report import named_laws
from fitting.explorer.page import explorer
from fitting.fit import Fit, fit
from fitting.formula import formula_law, formula_names
from fitting.law import Law
from fitting.laws import LAWS, needed
from fitting.observations import Observations
from fitting.options import Options
from refused import Refused

MOST = 5  # laws of a page that are chosen by rolling errors: more than these nobody compares
NONE = "none"


def explore(
    table: str | Path | Observations,
    out: str | Path,
    law: str = "auto",
    formulas: Sequence[str] = (),
    options: Options | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
) -> list[str]:
    """Fit laws to a table and write the page in which they are explored.

    Args:
      table: as for `fit_report`.
      out: the page, a file that ends in .html.
      law: names with commas; auto for the best few by rolling errors; none for the runs alone.
      formulas: laws given as text; with them, auto means no others.
      options: as for `fit`.
      columns: as for `fit_report`.
      where: as for `fit_report`.

    Returns:
      lines that say what is in the page and what was left out.

    Raises:
      Refused: as `Observations.read`, `formula_law`, `choose` and `fit`; another file name, a
        folder that is not there.
    """
    file, options = Path(out), options or Options()
    if file.suffix not in (".html", ".htm") or file.is_dir():
        raise Refused("out", out, "a file that ends in .html")
    if not file.parent.is_dir():
        raise Refused("out", out, "a file in a folder that is there")
    reads = [name for text in formulas for name in formula_names(text)]
    if not formulas or law not in ("auto", NONE):
        reads += needed([] if law in ("auto", NONE) else named_laws(law), options.target)
    obs = Observations.read(table, columns, where, reads)
    own = [
        formula_law(text, options.bounds, obs.frame.columns, "formula" + f" {i + 1}" * (i > 0))
        for i, text in enumerate(formulas)
    ]
    named = [] if law == NONE or (own and law == "auto") else law
    laws = own if named == [] else [*own, *named_laws(named)]
    fits, told = ([], []) if law == NONE and not own else judged(laws, obs, options)
    file.write_text(explorer(fits, obs, Path(str(table)).name), "utf-8")
    shown = ", ".join(result.law.name for result in fits) or "no law"
    return [f"{file}: {len(obs)} runs, {shown}", *told]


def judged(laws: list[Law], obs: Observations, options: Options) -> tuple[list[Fit], list[str]]:
    """Fits with their misfits, the least rolling error first, and what was left out and why.

    Args:
      laws: those to fit; none for the best few of all that the table admits.
    """
    choice = choose(laws or "auto", obs, options)
    ranked = choice.ranking
    known = {law.name: law for law in laws} or LAWS
    fits, told = [], [f"left out, {name}: {why}" for name, why in choice.left_out.items()]
    for name in ranked if laws else ranked[:MOST]:
        try:
            result = fit(known[name], obs, options)
        except Refused as error:
            told.append(f"left out, {name}: {error}")
            continue
        fits.append(extrapolating(result, choice.rolled, choice.direction, choice.distance))
    if not fits:
        raise Refused("law", ", ".join(known), "; ".join(told))
    return fits, told
