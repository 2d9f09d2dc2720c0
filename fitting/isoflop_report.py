"""The isoFLOP approach to a table as a report, with its figure and its bias beside a direct fit."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fitting import figures, style
from fitting.fit import Fit, fit
from fitting.isoflop import IsoFlop, bias, isoflop
from fitting.law import Law
from fitting.laws import law_named
from fitting.observations import Observations
from fitting.tables import aligned
from fitting.use import allocates
from refused import Refused


def isoflop_report(
    table: str | Path,
    params: str | None = None,
    *,
    law: str | Law = "chinchilla",
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    out: str | Path | None = None,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> str:
    """Minima of every compute budget, their exponent, and a law's own optimum beside them.

    Args:
      table: CSV or Parquet path, or `published:NAME[:SUBSET]`.
      params: the count meant.
      law: a law in params and tokens that is fitted beside.
      columns: {name in the file: ours}.
      where: condition on the rows that are taken, as `expression.where` reads it.
      out: folder for budgets.csv, report.md and isoflop as PNG, PDF and SVG.
      level: as in `isoflop`.
      draws: as in `isoflop`.
      seed: as in `isoflop`.

    Returns:
      the report, Markdown.

    Raises:
      Refused: as `Observations.read`, `where` and `isoflop`; a law without an allocation.
    """
    chosen = law_named(law)
    if not allocates(chosen):
        raise Refused("law", chosen.name, "a law that predicts from a size and tokens")
    obs = Observations.read(table, columns, where, (params or "params", "tokens", "flops", "loss"))
    found = isoflop(obs, params, draws=draws, level=level, seed=seed)
    direct = _direct(chosen, obs, found)
    text = [*_lines(found), "", f"## Beside the {chosen.name} law", "", *_beside(found, direct)]
    if obs.notes:
        text += ["", "## Notes", "", *(f"- {note}" for note in obs.notes)]
    report = "\n".join(text) + "\n"
    if out is not None:
        _write(Path(out), found, report)
    return report


def exponent_line(found: IsoFlop) -> str:
    """The exponent of the minima with its interval, or why there is none, one line."""
    line = f"{found.exponent:.4g} over {len(found.budgets)} budgets; "
    if not np.isfinite(found.interval[0]):
        return f"{line}interval: none (no noise to see)"
    low, high = found.interval
    return f"{line}{found.level:.0%} interval {low:.4g} to {high:.4g}, {METHOD}"


METHOD = "by bootstrap within budgets, widened by the scatter of the minima"


def _lines(found: IsoFlop) -> list[str]:
    names = list(found.budgets)
    cells = [[f"{value:.4g}" for value in row] for row in found.budgets.itertuples(index=False)]
    bend = "parabolas" if found.smoothing == 0 else "penalised third derivative"
    text = [f"# isoFLOP: {len(found.budgets)} budgets in {found.params}", ""]
    text += [aligned(names, cells), f"params exponent in compute: {exponent_line(found)}", ""]
    low, high = found.tokens_interval
    told = f" ({low:.4g} to {high:.4g})" if np.isfinite(low) else ""
    text += [f"tokens exponent, by the table's tokens: {found.tokens_exponent:.4g}{told}", ""]
    text += [f"noise between runs {found.noise:.2%} of the loss; smoothing by {bend}, one for all"]
    return text + [f"- left out: {line}" for line in found.left_out]


def _direct(law: Law, obs: Observations, found: IsoFlop) -> Fit | str:
    """A point fit of the law to the same runs, or why there is none."""
    if "tokens" not in obs.frame:
        frame = obs.frame.assign(tokens=obs.frame["flops"] / 6 / obs.frame[found.params])
        obs = Observations(frame, obs.notes)
    try:
        return fit(law, obs, params=found.params, point_only=True)
    except Refused as error:
        return str(error)


def _beside(found: IsoFlop, direct: Fit | str) -> list[str]:
    if isinstance(direct, str):
        return [f"none: {direct}"]
    moved = bias(found, direct.law, direct.parameters)
    logs = np.log(found.budgets["flops"])
    kept = moved["exact"].notna().to_numpy()
    if kept.sum() < 2:
        return [f"- its minimum is inside the sizes of {int(kept.sum())} budgets only"]
    slope = np.polyfit(logs[kept], np.log(moved["exact"][kept]), 1)[0]
    apart = found.budgets["params"].to_numpy()[kept] / moved["exact"].to_numpy()[kept] - 1
    noiseless = moved["params_error"][kept]
    return [
        f"- params exponent of the fitted law along the same budgets: {slope:.4g}",
        f"- params at the minima over the law's: {apart.min():+.1%} to {apart.max():+.1%}",
        f"- bias of this approach for that law, without noise at these sizes: "
        f"{noiseless.min():+.1%} to {noiseless.max():+.1%}",
    ]


def _write(folder: Path, found: IsoFlop, report: str):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused("out", folder, f"a folder that can be made ({error.strerror})") from None
    pd.DataFrame(found.budgets).to_csv(folder / "budgets.csv", index=False)
    (folder / "report.md").write_text(report)
    style.save(figures.isoflop_minima(found), folder, "isoflop")
