"""From a table and a law's name to a printed report, and to files if a folder is named."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fitting import evidence, figures, latex, style, tables, use
from fitting.choice import extrapolating
from fitting.choice_report import (
    ROLLING,
    choice_lines,
    judged,
    named_laws,
    rolling_lines,
    warning_lines,
    with_misfit,
)
from fitting.columns import PARAMETER_COUNTS
from fitting.fit import Fit, fit
from fitting.group_report import chosen_for_groups, group_report
from fitting.held_out import seed_standard_deviation
from fitting.isoflop import bias, isoflop
from fitting.isoflop_report import exponent_line
from fitting.law import Law
from fitting.laws import law_named, needed
from fitting.observations import Observations
from fitting.options import Options
from fitting.profiles import MEANING
from fitting.rolling import BASELINES, PLAIN, baselines, rolling, root_mean_square
from refused import Refused

_log = logging.getLogger("fitting")


def fit_report(
    law: str | Law,
    table: str | Path,
    options: Options | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    flops: Sequence[float] = (),
    ask: Sequence[str] = (),
    by: str | None = None,
    share: Sequence[str] = (),
    where: str | None = None,
    **changes: Any,
) -> str:
    """Fit a law to a table and report the fit with its evidence.

    Without a named split all runs are fitted, and the tenth with the most compute is predicted by
    a second fit that does not see it.

    Args:
      law: a law or its name; `auto`, or several names with commas, chooses by rolling errors.
      table: a file, a folder or `published:NAME[:SUBSET]`, as `Observations.read` takes it.
      options: how the law is fitted.
      changes: fields of `Options` to replace in it.
      columns: {name in the file: name in `COLUMNS`}.
      out: folder for fit.csv, fit.md, fit.tex, residuals.csv, held_out.csv, rolling.csv,
        choice.csv, influence.csv, allocation.csv and .tex, report.md and figures; written only when
        everything is computed.
      flops: budgets to allocate, FLOP.
      ask: questions to the fitted law, `QUESTION,NAME=VALUE,...`.
      by: column of groups to fit one by one.
      share: parameters that they have in common. The report is then `group_report.group_report`'s,
        with groups.csv.
      where: condition on the rows that are taken, as `expression.where` reads it.

    Returns:
      the report, Markdown.

    Raises:
      Refused: as `Observations.read`, `fit`, `split` and `use.ask`, or `out` is not a folder;
        nothing is written then.
    """
    if out is not None:
        there = next(path for path in (Path(out), *Path(out).parents) if path.exists())
        if not there.is_dir():
            raise Refused("out", out, "a folder")
    options = (options or Options()).change(**changes)
    asked = [use.read_question(text) for text in ask]
    named = named_laws(law)
    for one in named:  # Whether the laws can answer is known before they are fitted.
        for name in [*(["allocation"] if len(flops) else []), *(name for name, _ in asked)]:
            use.question(one, name)
    obs = Observations.read(table, columns, where, needed(named, options.target))
    if by is not None:
        one = named[0] if len(named) == 1 else chosen_for_groups(named, obs, by, options)
        return group_report(one, obs, options, by, share, flops, out)
    if len(share):
        raise Refused("share", ", ".join(share), "by, the column of the groups that share")
    if options.params is None:
        options = options.change(params=_count(named, obs))
    if len(flops):
        use.budgets(flops)
    choice = judged(named, obs, options, flops)
    chosen = named[0] if len(named) == 1 else law_named(choice.name)
    result = with_misfit(fit(chosen, obs, options), choice)
    tested = result if options.held_out is not None else _extrapolation(chosen, obs, options)
    moved = evidence.influence(result)
    answers = [(name, settings, use.ask(result, name, **settings)) for name, settings in asked]
    text = _fit_lines(result, choice)
    text += ["", "## Predicted runs that were not fitted", ""]
    text += _extrapolation_lines(obs, tested, options, choice)
    text += ["", "## Choice of the law", "", *choice_lines(chosen, named, choice)]
    text += ["", "## Rolling extrapolation", "", *rolling_lines(chosen, choice)]
    text += ["", "## Influence", "", f"{_shift(result)}:", ""]
    for row in moved.head(5).itertuples():
        text.append(f"- without {row.kind} {row.left_out}: {row.shift:.3g}")
    text += _spread_lines(obs, options.params, result.target)
    text += _contradiction_lines(result)
    if "exponent" in chosen.uses:
        text += _isoflop_lines(result)
    if len(flops):
        text += ["", "## Compute-optimal allocation", "", *_allocation_lines(result, flops)]
    text += _answer_lines(result, answers)
    if obs.notes:
        text += ["", "## Notes", "", *(f"- {note}" for note in obs.notes)]
    report = "\n".join(text) + "\n"
    if out is not None:
        rolled = choice if isinstance(choice, str) else rolling(choice.rolled, chosen.name)
        _write(Path(out), report, result, obs, tested, rolled, moved, choice, flops)
    return report


def _count(named: list[Law], obs: Observations) -> str | None:
    """The parameter count that the laws mean; one that names its count means that for compute."""
    if any("params" in law.predictors for law in named):
        return obs.params_column()
    sizes = {law.size for law in named} - {None}
    if len(sizes) == 1:
        return sizes.pop()
    present = [name for name in PARAMETER_COUNTS if name in obs.frame]
    if len(present) > 1 and not named:
        return obs.params_column()  # Refused: which count all laws mean has to be said.
    return present[0] if len(present) == 1 else None


def _fit_lines(result: Fit, choice) -> list[str]:
    law = result.law
    text = [f"# {law.name}: {len(result.observations)} runs", ""]
    text += [*warning_lines(result, choice), tables.as_markdown(result)]
    if result.misfit is not None:
        text += [f"Predictions carry an {result.misfit.caption()}.", ""]
    if result.verdicts:
        text += [f"Verdicts: {MEANING}.", ""]
    if set(result.verdicts.values()) - {"identified"} and law.identified_by:
        text += [f"The parameters are told apart by {law.identified_by}.", ""]
    text += [f"Source of the law: {law.source}.", "", "## Convergence", ""]
    text += [f"- {key}: {value}" for key, value in evidence.convergence(result).items()]
    return [*text, _rounding_line(evidence.rounding_damage(result))]


def _rounding_line(damage) -> str:
    """What three digits cost; the objective's rise has no ratio where the residuals are zero."""
    rise = f"{damage['objective']:+.2%}" if np.isfinite(damage["objective"]) else "raised from zero"
    return (
        f"- rounding the parameters to 3 digits: objective {rise}, "
        f"{damage['log_likelihood']:.3g} log-likelihood units lost, predictions moved by up to "
        f"{damage['prediction']:.2%}"
    )


def _shift(result: Fit) -> str:
    unit = "its bootstrap standard deviations" if result.intervals else "per cent"
    return f"Largest move of a parameter when the fit is made without some runs, in {unit}"


def _allocation_lines(result: Fit, flops) -> list[str]:
    rows = []
    for row in use.allocate(result, flops).to_dict("records"):
        cells = [f"{row['flops']:.4g}"]
        for name in ("params", "tokens", "tokens_per_param", "loss"):
            ends = f"{row[f'{name}_low']:.4g} to {row[f'{name}_high']:.4g}"
            cells += [f"{row[name]:.4g}", ends if result.intervals else "none"]
        rows.append(cells)
    titles = ["FLOP (6 x params x tokens)", result.params or "params", "interval", "tokens"]
    titles += ["interval", "tokens / param", "interval", f"{result.target} (nats/token)"]
    how = f"{result.level:.0%} intervals" if result.intervals else "interval"
    table = tables.aligned([*titles, "interval"], rows)
    told = [use.beyond(result, float(budget)) for budget in flops]
    warned = [text for line in told if line for text in (f"**WARNING: {line}.**", "")]
    return [*warned, table, f"{how}: {result.interval_method}"]


def _answer_lines(result: Fit, answers) -> list[str]:
    if not answers:
        known = use.questions(result.law)
        told = "; ".join(",".join([name, *asked.settings]) for name, asked in known.items())
        return ["", f"Questions that --ask puts to this law, with a value for each name: {told}."]
    text = ["", "## Answers", ""]
    for name, settings, found in answers:
        given = ", ".join(f"{key} = {value:g}" for key, value in settings.items())
        text += [f"{name}{f' at {given}' if given else ''}: {use.question(result.law, name).about}"]
        cells = []
        for row in found.itertuples():
            ends = "none" if np.isnan(row.low) else f"{row.low:.4g} to {row.high:.4g}"
            reached = "" if np.isnan(row.reachable) else f"{row.reachable:.0%}"
            cells.append([row.output, f"{row.value:.4g}", ends, row.unit, reached])
        titles = ["answer", "value", "interval", "unit", "draws that reach it"]
        text += ["", tables.aligned(titles, cells)]
    return text


def _extrapolation(law, obs, options: Options) -> Fit | str:
    try:
        return extrapolating(fit(law, obs, options, held_out="largest_decile"))
    except Refused as error:
        return str(error)


def _extrapolation_lines(obs, tested, options: Options, choice) -> list[str]:
    if isinstance(tested, str):
        return [f"none: {tested}"]
    kept = tested.held_out
    what = (
        "the named split"
        if options.held_out is not None
        else "the tenth of the runs with the most compute"
    )
    miss = root_mean_square(kept["relative_error"])
    lines = [f"- {what}: {len(kept)} runs, root mean square relative error {miss:.3%}"]
    if tested.intervals:
        inside = (kept["observed"] >= kept["low"]) & (kept["observed"] <= kept["high"])
        lines.append(f"- inside the {tested.level:.0%} interval: {inside.sum()} of {len(kept)}")
    else:
        lines.append(f"- interval: {tested.interval_method}")
    if options.held_out is not None and not isinstance(choice, str):
        kept_rows = obs.frame[np.isin(obs.frame["run"], kept["run"])]
        mean = choice.predict(kept_rows, tested.level)
        missed = root_mean_square(mean["prediction"].to_numpy() / kept["observed"] - 1)
        lines.append(f"- weighted mean of {', '.join(choice.weights)}: {missed:.3%}")
    try:
        rows = np.isin(obs.frame["run"], kept["run"])
        other = baselines(obs, rows, options.params, tested.target)
        for name in BASELINES:
            size = root_mean_square(other[name])
            lines.append(f"- baseline {name}: {'none' if np.isnan(size) else f'{size:.3%}'}")
    except Refused as error:
        lines.append(f"- baselines: none, {error}")
    return lines


def _spread_lines(obs, params, target) -> list[str]:
    if "tokens" not in obs.frame or target not in obs.frame:
        return []
    try:
        spread, degrees = seed_standard_deviation(obs, params, target)
    except Refused:
        return []
    if spread is None:
        return ["", "Standard deviation between seeds: none, no replicated runs."]
    line = f"Standard deviation between seeds: {spread:.3g} ({degrees} degrees of freedom)."
    return ["", line]


def _contradiction_lines(result: Fit) -> list[str]:
    found = evidence.contradictions(result)
    if not found:
        return []
    told = "rows with equal predictors contradict each other: groups in one table (--by=COLUMN)?"
    _log.warning(told)
    return ["", "## Rows that contradict each other", "", f"**WARNING: {told}**", ""] + [
        f"- {line}" for line in found
    ]


def _isoflop_lines(result: Fit) -> list[str]:
    """The exponent of N* both ways, and what the minima make of this law without noise."""
    own = use.ask(result, "exponent").iloc[0]
    direct = f"- exponent of N* in compute, from this fit: {own['value']:.4g}"
    if result.draws is None:
        direct += f"; interval: {result.interval_method}"
    else:
        ends = f"{own['low']:.4g} to {own['high']:.4g}"
        direct += f" ({result.level:.0%} interval {ends}, from the same draws)"
    lines = ["", "## Beside the isoFLOP approach", "", direct]
    try:
        found = isoflop(result.observations, result.params)
    except Refused as error:
        return [*lines, f"- from minima of budgets: none, {error}"]
    lines.append(f"- from minima of budgets: {exponent_line(found)}")
    moved = bias(found, result.law, result.parameters)["params_error"]
    if not moved.notna().any():
        return lines
    said = f"without noise at these sizes: {moved.min():+.1%} to {moved.max():+.1%}"
    return [*lines, f"- their bias in N* for this law, {said}"]


def _figures(result: Fit, obs, choice, flops) -> dict:
    """{name: Figure} of all that can be drawn."""
    rows = obs.frame["run"].isin(result.held_out["run"]) if len(result.held_out) else None
    drawn = result.plot.drawn(obs.only(rows) if rows is not None else None, _budgets(flops))
    if not isinstance(choice, str) and (choice.rolled["distance"] > 0).any():
        names = [*PLAIN, *choice.ranking]
        drawn["distance"] = figures.error_against_distance(choice.rolled, names)
    return drawn


def _budgets(flops):
    """A line of budgets that holds those asked about; None for the runs' own."""
    if not len(flops):
        return None
    return np.geomspace(min(flops) / 10, max(flops) * 10, 25)


def _figure_lines(drawn) -> list[str]:
    lines = [
        "",
        "## Figures",
        "",
        "Each as PDF, SVG and PNG, with axes and legends only.",
        "",
    ]
    return [*lines, *(f"- {name}: {figures.CAPTIONS[name]}" for name in drawn)]


def _allocated(result: Fit, flops) -> pd.DataFrame | None:
    """The allocation at the budgets asked about, or along the runs' own and beyond."""
    law = result.law
    if not use.allocates(law) or not set(law.predictors) <= {law.size, "tokens"}:
        return None
    return use.allocations(result, flops if len(flops) else figures.reach(result))


def _write(folder: Path, report: str, result: Fit, obs, tested, rolled, moved, choice, flops):
    drawn = _figures(result, obs, choice, flops)
    report += "\n".join([*_figure_lines(drawn), ""])
    table = _allocated(result, flops)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused("out", folder, f"a folder that can be made ({error.strerror})") from None
    how = tables.caption(result)
    if isinstance(tested, str):
        kept, said = result.held_out, f"none: {tested}"
    else:
        kept, said = tested.held_out, tables.caption(tested)
    judged = pd.DataFrame() if isinstance(choice, str) else choice.laws
    steps = rolled if isinstance(rolled, pd.DataFrame) else pd.DataFrame()
    why = f"interval: {ROLLING}" if isinstance(rolled, pd.DataFrame) else f"none: {rolled}"
    files = {
        "residuals.csv": (result.residuals, how, "residual: log observed - log predicted"),
        "held_out.csv": (kept, said, "low, high: of a new run's measured value"),
        "rolling.csv": (steps, "relative errors, root mean square", why),
        "choice.csv": (judged, "rolling errors of every law, log; weights of their mean", why),
        "influence.csv": (moved, how, f"shift: {_shift(result)}; refits, interval: none"),
    }
    (folder / "report.md").write_text(report)
    (folder / "fit.csv").write_text(tables.as_csv(result))
    (folder / "fit.md").write_text(tables.as_markdown(result))
    (folder / "fit.tex").write_text(latex.as_latex(result))
    if table is not None:
        files["allocation.csv"] = (table, how, "6 x params x tokens = flops; FLOP and counts")
        (folder / "allocation.tex").write_text(latex.allocation(result, table))
    for name, (table, *comments) in files.items():
        (folder / name).write_text(tables.commented(table, *comments))
    for name, figure in drawn.items():
        style.save(figure, folder, name)
