"""From a table and a law's name to a printed report, and to files if a folder is named."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fitting import evidence, figures, tables
from fitting.fit import DRAWS, Fit, fit
from fitting.held_out import (
    BASELINES,
    above_compute,
    baselines,
    largest_decile,
    rolling,
    root_mean_square,
    seed_standard_deviation,
)
from fitting.intervals import quantiles, widen
from fitting.isoflop import isoflop, isoflop_bias
from fitting.laws import law_named
from fitting.observations import PARAMETER_COUNTS, Observations
from fitting.profiles import MEANING
from fitting.use import allocate, as_chinchilla, budgets
from refused import Refused

ROLLING = "none (each row is one point fit)"
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
      out: folder for fit.csv, fit.md, fit.tex, residuals.csv, held_out.csv, rolling.csv,
        influence.csv, report.md and figures; written only when everything has been computed.
      flops: budgets to allocate, FLOP.
      others: as for `fit`.

    Returns:
      the report, Markdown.

    Raises:
      Refused: as `Observations.read`, `fit`, `split` and `allocate`, or `out` is not a folder;
        nothing is written then.
    """
    if out is not None:
        there = next(path for path in (Path(out), *Path(out).parents) if path.exists())
        if not there.is_dir():
            raise Refused("out", out, "a folder")
    chosen = law_named(law)
    if len(flops):  # Whether the law can allocate is known before it is fitted.
        as_chinchilla(chosen.name, dict.fromkeys(chosen.names, 1.0))
        budgets(flops)
    obs = Observations.read(table, columns)
    if "params" in chosen.predictors:
        params = obs.params_column(params)
    elif params is None:  # A law that names its count means that one for compute too.
        params = next((name for name in PARAMETER_COUNTS if name in chosen.predictors), None)
    mask = split(obs, held_out, params)
    options = {"objective": objective, "delta": delta, "params": params, "target": target}
    options |= {"draws": draws, "level": level, "seed": seed}
    result = fit(chosen, obs, held_out=mask, point_only=point_only, **options)
    text = [f"# {chosen.name}: {len(result.observations)} runs", "", tables.as_markdown(result)]
    if result.verdicts:
        text += [f"Verdicts: {MEANING}.", ""]
    text += [f"Source of the law: {chosen.source}.", "", "## Convergence", ""]
    text += [f"- {key}: {value}" for key, value in evidence.convergence(result).items()]
    text += [_rounding_line(evidence.rounding_damage(result))]
    text += ["", "## Predicted runs that were not fitted", ""]
    tested = (
        result if mask is not None else _extrapolation(chosen, obs, params, point_only, options)
    )
    text += _extrapolation_lines(obs, tested, mask, params, target)
    rolled = _rolling(result.observations, chosen, params, target, objective, delta, seed)
    text += ["", "## Rolling extrapolation", "", *_rolling_lines(rolled)]
    moved = evidence.influence(result)
    text += ["", "## Influence", "", f"{_shift(result)}:", ""]
    for row in moved.head(5).itertuples():
        text.append(f"- without {row.kind} {row.left_out}: {row.shift:.3g}")
    text += _spread_lines(obs, params, target or chosen.target)
    if chosen.name == "chinchilla":
        text += _isoflop_lines(result)
    if len(flops):
        text += ["", "## Compute-optimal allocation", "", *_allocation_lines(result, flops)]
    if obs.notes:
        text += ["", "## Notes", "", *(f"- {note}" for note in obs.notes)]
    report = "\n".join(text) + "\n"
    if out is not None:
        _write(Path(out), report, result, obs, mask, tested, rolled, moved)
    return report


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
    for row in allocate(result, flops).to_dict("records"):
        cells = [f"{row['flops']:.4g}"]
        for name in ("params", "tokens", "tokens_per_param", "loss"):
            ends = f"{row[f'{name}_low']:.4g} to {row[f'{name}_high']:.4g}"
            cells += [f"{row[name]:.4g}", ends if result.intervals else "none"]
        rows.append(cells)
    titles = ["FLOP (6 x params x tokens)", result.params or "params", "interval", "tokens"]
    titles += ["interval", "tokens / param", "interval", f"{result.target} (nats/token)"]
    how = f"{result.level:.0%} intervals" if result.intervals else "interval"
    table = tables.aligned([*titles, "interval"], rows)
    return [table, f"{how}: {result.interval_method}"]


def _rolling(obs, law, params, target, objective, delta, seed) -> pd.DataFrame | str:
    try:
        options = {"objective": objective, "delta": delta, "seed": seed, "audits": 8}
        return rolling(law, obs, params, target, **options)
    except Refused as error:
        return str(error)


def _rolling_lines(rolled) -> list[str]:
    if isinstance(rolled, str):
        return [f"none: {rolled}"]
    show = lambda value: "none" if np.isnan(value) else f"{value:.3%}"
    rows = [
        [str(row.fitted), str(row.predicted), f"{row.times:.3g}", show(row.error)]
        + [show(getattr(row, name)) for name in BASELINES]
        for row in rolled.itertuples()
    ]
    titles = ["fitted", "predicted", "compute, times", "law", *BASELINES]
    return [
        "Runs of least compute fitted, the next ones predicted: root mean square relative errors.",
        "",
        tables.aligned(titles, rows),
        f"interval: {ROLLING}",
    ]


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
    miss = root_mean_square(kept["relative_error"])
    lines = [f"- {what}: {len(kept)} runs, root mean square relative error {miss:.3%}"]
    if tested.intervals:
        inside = (kept["observed"] >= kept["low"]) & (kept["observed"] <= kept["high"])
        lines.append(f"- inside the {tested.level:.0%} interval: {inside.sum()} of {len(kept)}")
    else:
        lines.append(f"- interval: {tested.interval_method}")
    try:
        rows = np.isin(obs.frame["run"], kept["run"])
        other = baselines(obs, rows, params, target or "loss")
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


def _isoflop_lines(result: Fit) -> list[str]:
    """The exponent of N* both ways, and what the parabolas make of this law without noise."""
    alpha, beta = result.parameters["alpha"], result.parameters["beta"]
    direct = f"- exponent of N* in compute, from this fit: {beta / (alpha + beta):.4g}"
    if result.draws is None:
        direct += f"; interval: {result.interval_method}"
    else:
        drawn = result.parameter_draws()
        cloud = drawn["beta"] / (drawn["alpha"] + drawn["beta"])
        cloud = widen(cloud, beta / (alpha + beta), result.draws.factor)
        low, high = quantiles(cloud, result.level)
        direct += f" ({result.level:.0%} interval {low:.4g} to {high:.4g}, from the same draws)"
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


def _write(folder: Path, report: str, result: Fit, obs, mask, tested, rolled, moved):
    drawn = {
        "predicted.png": figures.predicted_against_actual(result),
        "residuals.png": figures.residuals(result),
        "profiles.png": figures.profile_likelihood(result),
    }
    if set(result.law.predictors) == {"params", "tokens"}:
        kept = obs.only(mask) if mask is not None else None
        drawn["loss.png"] = figures.loss_against_compute(result, kept)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused("out", folder, f"a folder that can be made ({error.strerror})") from None
    how = tables.caption(result)
    if isinstance(tested, str):
        kept, said = result.held_out, f"none: {tested}"
    else:
        kept, said = tested.held_out, tables.caption(tested)
    steps = rolled if isinstance(rolled, pd.DataFrame) else pd.DataFrame()
    why = f"interval: {ROLLING}" if isinstance(rolled, pd.DataFrame) else f"none: {rolled}"
    files = {
        "residuals.csv": (result.residuals, how, "residual: log observed - log predicted"),
        "held_out.csv": (kept, said, "low, high: of a new run's measured value"),
        "rolling.csv": (steps, "relative errors, root mean square", why),
        "influence.csv": (moved, how, f"shift: {_shift(result)}; refits, interval: none"),
    }
    (folder / "report.md").write_text(report)
    (folder / "fit.csv").write_text(tables.as_csv(result))
    (folder / "fit.md").write_text(tables.as_markdown(result))
    (folder / "fit.tex").write_text(tables.as_latex(result))
    for name, (table, *comments) in files.items():
        (folder / name).write_text(tables.commented(table, *comments))
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=150)
