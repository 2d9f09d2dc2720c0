"""The choice of the law in a report: who was judged, what they scored, and what to be warned of."""

import logging

import numpy as np

from fitting import tables, use
from fitting.choice import Choice, admitted, choose, extrapolating
from fitting.fit import Fit
from fitting.held_out import compute
from fitting.law import Law
from fitting.laws import law_named
from fitting.observations import Observations
from fitting.options import Options
from fitting.rolling import PLAIN, rolling
from refused import Refused

ROLLING = "none (each row is one point fit)"
_log = logging.getLogger("fitting")


def named_laws(law) -> list[Law]:
    """The laws that are named: one, several with commas, or none for `auto`."""
    if isinstance(law, Law):
        return [law]
    if law == "auto":
        return []
    return [law_named(name.strip()) for name in str(law).split(",") if name.strip()]


def judged(named: list[Law], obs: Observations, options: Options, flops) -> Choice | str:
    """The choice among the named laws, or for one or none among all that the table admits.

    A point fit of one law is judged alone: scoring the others costs several times the fit.
    """
    distance = None
    if len(flops) and options.held_out is None:
        largest = compute(obs, options.params).max()
        distance = float(np.log(max(np.max(use.budgets(flops)) / largest, 1.0)))
    if len(named) > 1:
        return choose(named, obs, options, distance)
    if not named:
        return choose("auto", obs, options, distance)
    try:
        if options.point_only:
            return choose(named, obs, options, distance)
        others = [law for law in admitted(obs, options) if law.name != named[0].name]
        return choose([*named, *others], obs, options, distance)
    except Refused as error:
        return str(error)


def with_misfit(result: Fit, choice) -> Fit:
    """The fit with the misfit of its rolling errors; as it is where there was no choice."""
    if isinstance(choice, str):
        return result
    return extrapolating(result, choice.rolled, choice.direction, choice.distance)


def choice_lines(chosen: Law, named: list[Law], choice) -> list[str]:
    """Scores, weights and verdicts of all laws, and whether another would have been chosen."""
    if isinstance(choice, str):
        return [f"none: {choice}"]
    cells = [
        [row.law, str(row.parameters), str(row.cuts), _percent(row.score), f"{row.weight:.3g}"]
        + [row.verdict]
        for row in choice.laws.itertuples()
    ]
    mean = f"weighted mean of {len(choice.weights)} fits"
    cells += [[mean, "", "", _percent(choice.mean_score), "1", "least on these rows by make"]]
    cells += [[name, "", "", _percent(value), "", "no law"] for name, value in choice.plain.items()]
    titles = ["law", "parameters", "cuts", "rolling error", "weight", "verdict"]
    lines = [
        f"Fits to the runs of least {choice.direction}, asked for all beyond; errors count by how "
        f"close they are to what is asked, at most {np.exp(choice.distance):.3g} times beyond. "
        "Weights: of the mean with the least rolling error. Verdicts: paired differences, trunks "
        "resampled, 90 %. Those on the later half see the farther half of the runs alone.",
        "",
        tables.aligned(titles, cells),
    ]
    lines += [f"- left out, {name}: {why}" for name, why in choice.left_out.items()]
    if len(choice.ranking) + len(choice.left_out) == 1:
        lines.append("- no other law was judged: --law=auto, or a fit with intervals, judges all")
    verdicts = dict(zip(choice.laws["law"], choice.laws["verdict"], strict=True))
    if len(named) == 1 and choice.name != chosen.name:
        told = {"worse": "predicts better", "cannot be told from it": "cannot be told from it"}
        how = told.get(verdicts.get(chosen.name), "was judged")
        lines.append(f"- by rolling errors {choice.name} would have been chosen; it {how}")
    return lines


def _percent(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3%}"


def warning_lines(result: Fit, choice) -> list[str]:
    """What a reader must know before the numbers."""
    if isinstance(choice, str):
        return []
    told = list(choice.warnings)
    plain = {name: value for name, value in choice.plain.items() if np.isfinite(value)}
    scores = dict(zip(choice.laws["law"], choice.laws["score"], strict=True))
    own = scores.get(result.law.name, np.nan)
    if plain and np.isfinite(own) and min(plain.values()) <= own:
        best = min(plain, key=plain.get)
        said = f"{best} predicts better than {result.law.name}"
        told.append(f"{said} beyond each cut: {plain[best]:.2%} against {own:.2%}")
    for line in told:
        _log.warning(line)
    return [text for line in told for text in (f"**WARNING: {line}.**", "")]


def rolling_lines(law: Law, choice) -> list[str]:
    """Errors of a law at every cut, beside the predictions without a law."""
    if isinstance(choice, str):
        return [f"none: {choice}"]
    rows = [
        [str(row.fitted), str(row.predicted), f"{row.times:.3g}", _percent(row.error)]
        + [_percent(getattr(row, name)) for name in PLAIN]
        for row in rolling(choice.rolled, law.name).itertuples()
    ]
    titles = ["fitted", "predicted", f"{choice.direction}, times", law.name, *PLAIN]
    return [
        f"Runs of least {choice.direction} fitted, all beyond predicted: root mean square log "
        "errors.",
        "",
        tables.aligned(titles, rows),
        f"interval: {ROLLING}",
    ]
