"""From a table and a law's name to a printed report, and to files if a folder is named."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fitting import evidence, figures, tables
from fitting.fit import DRAWS, Fit, fit
from fitting.held_out import above_compute, baselines, largest_decile, seed_standard_deviation
from fitting.isoflop import isoflop, isoflop_bias
from fitting.laws import law_named
from fitting.observations import Observations, Refused
from fitting.use import allocate

SPLITS = "largest_decile, above:FRACTION (of the largest compute), or COLUMN>VALUE"


def split(obs: Observations, text: str | None, params: str | None = None):
    """A held-out mask by name: `largest_decile`, `above:0.25`, or `params_total>1e8`.

    Raises:
      Refused: another text, an unknown column, or a split that holds out nothing or everything.
    """
    if text is None:
        return None
    if text == "largest_decile":
        mask = largest_decile(obs, params)
    elif text.startswith("above:"):
        mask = above_compute(obs, _number(text.removeprefix("above:"), text), params)
    elif ">" in text:
        column, _, value = text.partition(">")
        mask = obs.column(column.strip()) > _number(value, text)
    else:
        raise Refused("held_out", text, SPLITS)
    if not mask.any() or mask.all():
        raise Refused("held_out", f"{text} ({int(mask.sum())} of {len(obs)} runs)", "some runs")
    return mask


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refused("held_out", whole, SPLITS) from None


def fit_report(
    law: str,
    table,
    columns: Mapping[str, str] | None = None,
    point_only: bool = False,
    held_out: str | None = None,
    out=None,
    params: str | None = None,
    objective: str = "huber",
    delta: float = 1e-3,
    target: str | None = None,
    draws: int = DRAWS,
    level: float = 0.9,
    flops=(),
    seed: int = 0,
) -> str:
    """Fit a law to a table and report the fit with its evidence.

    Without a named split all runs are fitted, and the tenth with the most compute is predicted by
    a second fit that does not see it.

    Args:
      law: name in `LAWS`; table: CSV or Parquet path, or `published:NAME[:SUBSET]`.
      columns: {name in the file: name in `COLUMNS`}; params: the parameter count the law means.
      held_out: a split as `split` reads it, kept out of the reported fit.
      out: folder for fit.csv, fit.md, fit.tex, residuals.csv, held_out.csv, report.md and figures;
        written only when everything has been computed.
      flops: budgets to allocate, FLOP.
      others: as for `fit`.

    Returns:
      the report, Markdown.

    Raises:
      Refused: as `Observations.read`, `fit` and `split`; nothing is written then.
    """
    chosen = law_named(law)
    obs = Observations.read(table, columns)
    if "params" in chosen.predictors:
        params = obs.params_column(params)
    mask = split(obs, held_out, params)
    options = {"objective": objective, "delta": delta, "params": params, "target": target}
    options |= {"draws": draws, "level": level, "seed": seed}
    result = fit(chosen, obs, held_out=mask, point_only=point_only, **options)
    text = [f"# {chosen.name}: {len(result.observations)} runs", "", tables.as_markdown(result)]
    text += [f"Source of the law: {chosen.source}.", "", "## Convergence", ""]
    text += [f"- {key}: {value}" for key, value in evidence.convergence(result).items()]
    damage = evidence.rounding_damage(result)
    text.append(
        f"- rounding the parameters to 3 digits: objective {damage['objective']:+.2%}, "
        f"{damage['log_likelihood']:.3g} log-likelihood units, predictions moved by up to "
        f"{damage['prediction']:.2%}"
    )
    text += ["", "## Predicted runs that were not fitted", ""]
    tested = (
        result if mask is not None else _extrapolation(chosen, obs, params, point_only, options)
    )
    text += _extrapolation_lines(obs, tested, mask, params, target)
    text += ["", "## Influence", ""]
    moved = evidence.influence(result)
    unit = "bootstrap standard deviations" if result.intervals else "per cent, in log parameters"
    for row in moved.head(5).itertuples():
        text.append(f"- without {row.kind} {row.left_out}: {row.shift:.3g} {unit}")
    text += _spread_lines(obs, params, target or chosen.target)
    if chosen.name == "chinchilla":
        text += _isoflop_lines(result)
    if len(np.atleast_1d(flops)) and len(flops):
        text += ["", "## Compute-optimal allocation", ""]
        best = allocate(result, flops)
        text.append(tables.comparison(list(best), best.to_dict("records")))
        how = "intervals: " if result.intervals else "interval: "
        text.append(f"{how}{result.interval_method}")
    if obs.notes:
        text += ["", "## Notes", "", *(f"- {note}" for note in obs.notes)]
    report = "\n".join(text) + "\n"
    if out is not None:
        _write(Path(out), report, result, obs, mask, moved)
    return report


def _extrapolation(law, obs, params, point_only, options) -> Fit | str:
    try:
        mask = largest_decile(obs, params)
        return fit(law, obs, held_out=mask, point_only=point_only, **options)
    except Refused as error:
        return str(error)


def _extrapolation_lines(obs, tested, mask, params, target) -> list[str]:
    if isinstance(tested, str):
        return [f"none: {tested}"]
    kept = tested.held_out
    what = "the named split" if mask is not None else "the tenth of the runs with the most compute"
    miss = float(np.sqrt(np.mean(np.asarray(kept["relative_error"], float) ** 2)))
    lines = [f"- {what}: {len(kept)} runs, root mean square relative error {miss:.3%}"]
    if tested.intervals:
        inside = (kept["observed"] >= kept["low"]) & (kept["observed"] <= kept["high"])
        lines.append(f"- inside the {tested.level:.0%} interval: {inside.sum()} of {len(kept)}")
    else:
        lines.append(f"- interval: {tested.interval_method}")
    try:
        rows = np.isin(obs.frame["run"], kept["run"])
        other = baselines(obs, rows, params, target or "loss")
        for name in ("nearest_run", "log_linear", "chinchilla_no_floor"):
            size = float(np.sqrt(np.mean(np.asarray(other[name], float) ** 2)))
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


def _isoflop_lines(result: Fit) -> list[str]:
    """The exponent of N* both ways, and what the parabolas make of this law without noise."""
    alpha, beta = result.parameters["alpha"], result.parameters["beta"]
    direct = f"- exponent of N* in compute, from this fit: {beta / (alpha + beta):.4g}"
    lines = ["", "## Beside the isoFLOP approach", "", direct]
    try:
        found = isoflop(result.observations, result.params)
    except Refused as error:
        return [*lines, f"- from isoFLOP parabolas: none, {error}"]
    bias = isoflop_bias(result.parameters, found["budgets"]["flops"])
    low, high = bias["params_error"].min(), bias["params_error"].max()
    return [
        *lines,
        f"- from parabolas over {len(found['budgets'])} budgets: {found['exponent']:.4g}; "
        "interval: none (biased by construction)",
        f"- their bias in N* for this law, without noise, sweeps of x 8: {low:+.1%} to {high:+.1%}",
    ]


def _write(folder: Path, report: str, result: Fit, obs, mask, moved: pd.DataFrame):
    drawn = {
        "predicted.png": figures.predicted_against_actual(result),
        "residuals.png": figures.residuals(result),
        "profiles.png": figures.profile_likelihood(result),
    }
    if set(result.law.predictors) == {"params", "tokens"}:
        kept = obs.only(mask) if mask is not None else None
        drawn["loss.png"] = figures.loss_against_compute(result, kept)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(report)
    (folder / "fit.csv").write_text(tables.as_csv(result))
    (folder / "fit.md").write_text(tables.as_markdown(result))
    (folder / "fit.tex").write_text(tables.as_latex(result))
    result.residuals.to_csv(folder / "residuals.csv", index=False)
    result.held_out.to_csv(folder / "held_out.csv", index=False)
    moved.to_csv(folder / "influence.csv", index=False)
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=150)
