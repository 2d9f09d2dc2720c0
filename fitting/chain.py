"""Downstream accuracy or error predicted through the loss: a loss law, then a link."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fitting.choice import Choice, choose, extrapolating
from fitting.fit import Fit, fit
from fitting.held_out import compute
from fitting.intervals import quantiles, scatter, widen
from fitting.law import Law
from fitting.laws import law_named, needed
from fitting.observations import Observations, read_frame
from fitting.options import Options
from fitting.tables import aligned
from refused import Refused

_ZERO_LOSS = 1e-9  # stands for a loss of zero, which no table of runs may hold
_DRAWS = 2000  # of a choice's loss
_CUTS, _FARTHEST = (0.4, 0.5, 0.6, 0.7, 0.8), 0.5  # of the runs; the far half beyond a cut counts
_WITHIN = 0.6826894921370859  # of a normal distribution, one standard deviation each way
LINK = {"objective": "least_squares", "audits": 8}


@dataclass(frozen=True)
class Chain:
    """A fit of the loss, or a choice among laws of it, and a fit of the link behind it.

    beyond: misfit of the link below the least loss that it was fitted to, as in `link_misfit`.
    """

    loss: Fit | Choice
    link: Fit
    beyond: float = 0.0

    def predict(self, frame) -> pd.DataFrame:
        """Prediction for each row of a table with the predictors of the loss law."""
        return chain(self.loss, self.link, frame, self.beyond)


def chain(
    loss_fit: Fit | Choice, link_fit: Fit, frame: pd.DataFrame | Mapping, beyond: float = 0.0
) -> pd.DataFrame:
    """The link's target predicted from the loss that a loss law predicts.

    Args:
      loss_fit: fit of a law of the loss, or a choice, whose weighted mean is taken.
      link_fit: fit of any law that predicts from `loss` alone.
      frame: table with the predictors of the loss law.
      beyond: as `link_misfit` gives it.

    Returns:
      DataFrame(loss, prediction, low, high). The interval is for a new run's value: draws of both
      fits are paired as independent, each with its scatter, the loss with its misfit where it
      carries one. NaN ends if either fit has no draws. Shares are held between 0 and 1.

    Raises:
      Refused: a link that needs more than the loss.
    """
    if link_fit.law.predictors != ("loss",):
        raise Refused("link", link_fit.law.name, "a law that predicts from loss alone")
    loss, losses = _losses(loss_fit, frame, 0 if link_fit.draws is None else _DRAWS)
    out = pd.DataFrame({"loss": loss})
    out["prediction"] = _held(link_fit, link_fit.law.predict({"loss": loss}, link_fit.parameters))
    low = high = np.full(len(loss), np.nan)
    if losses is not None and link_fit.draws is not None:
        cloud = _linked(link_fit, losses, out["prediction"].to_numpy(), beyond)
        low, high = quantiles(cloud, link_fit.level)
    return out.assign(low=low, high=high)


def anchored(obs: Observations, target: str, ceiling: float = 1.0) -> Observations:
    """The runs and one more at a loss of zero, where the target is at its ceiling.

    Source: Bhagia et al. 2024 (arXiv:2412.04403), who add the ideal point before they fit.
    """
    row = {"run": "anchor", "trunk": "anchor", "loss": _ZERO_LOSS, target: ceiling}
    frame = pd.concat([obs.frame, pd.DataFrame([row])], ignore_index=True)
    return Observations(frame, obs.notes)


def fit_chain(
    losses: Observations,
    links: Observations,
    *,
    loss_law: str | Law = "chinchilla",
    link: str | Law = "downstream_sigmoid",
    chance: float | None = None,
    ceiling: float | None = 1.0,
    distance: float | None = None,
    loss_options: Options | None = None,
    link_options: Options | None = None,
) -> Chain:
    """Fit both steps of a chain.

    Args:
      losses: runs with the predictors of the loss law and `loss`.
      links: runs or checkpoints with `loss` and the link's target, `trunk` naming their run.
      loss_law: a law, a name, or "auto" for the one chosen by rolling extrapolation on `losses`.
      link: a law that predicts from loss alone, or its name.
      chance: held as the floor of the sigmoid.
      ceiling: of the anchor at zero loss, None for no anchor.
      distance: log distance beyond the losses that the choice asks about.
      loss_options: how the loss law is fitted.
      link_options: how the link is fitted, by least squares unless said.

    Raises:
      Refused: as `fit` and `choose`; a chance for a link without a floor.
    """
    link = law_named(link)
    if link.predictors != ("loss",):
        raise Refused("link", link.name, "a law that predicts from loss alone")
    loss_options = loss_options or Options()
    link_options = link_options or Options(**LINK)
    if chance is not None:
        if "floor" not in link.names:
            raise Refused("chance", chance, f"a link with a floor; {link.name} has none")
        if not 0 <= chance < 1:
            raise Refused("chance", chance, "a share from 0 to below 1")
        link_options = link_options.change(fixed={**link_options.fixed, "floor": chance})
    target = link_options.target or link.target
    first = _loss_fit(loss_law, losses, loss_options, distance)
    if ceiling is not None:
        links = anchored(links, target, ceiling)
    second = fit(link, links, link_options)
    beyond = 0.0 if second.draws is None else link_misfit(second)
    return Chain(first, second, beyond)


def link_misfit(result: Fit) -> float:
    """What a link that is a little wrong costs for each unit of loss below its runs.

    The link is fitted to the runs above a loss and asked for those below, cut by cut; the error, in
    log odds for shares and in log else, is taken to grow in proportion to the distance, with a
    slope as random as at these cuts.

    Returns:
      standard deviation of that slope, 0 where no cut can be fitted.
    """
    frame = result.observations.frame
    loss, anchor = frame["loss"].to_numpy(float), frame["run"].to_numpy() == "anchor"
    options = Options(
        objective=result.objective, target=result.target, fixed=result.fixed, audits=2
    ).change(point_only=True)
    slopes = []
    for share in _CUTS:
        cut = np.quantile(loss[~anchor], 1 - share)
        seen = anchor | (loss >= cut)
        below = ~seen & (loss <= np.quantile(loss[~seen], _FARTHEST)) if (~seen).any() else ~seen
        if not below.any():
            continue
        try:
            part = fit(result.law, result.observations.only(seen), options)
        except Refused:
            continue
        found = part.law.predict({"loss": loss[below]}, part.parameters)
        true = frame[result.target].to_numpy(float)[below]
        error = _scale(result, found) - _scale(result, true)
        slopes.append(np.mean(error) / np.mean(cut - loss[below]))
    return float(np.sqrt(np.mean(np.square(slopes)))) if slopes else 0.0


def _scale(result: Fit, values) -> np.ndarray:
    """Log odds of shares, logarithms of other targets."""
    if not _shares(result):
        return np.log(values)
    inside = np.clip(values, 1e-6, 1 - 1e-6)
    return np.log(inside / (1 - inside))


def _shares(result: Fit) -> bool:
    return result.target.startswith(("accuracy", "error"))


def chain_report(
    losses: str | Path,
    links: str | Path,
    targets: str | Path,
    *,
    by: str | None = None,
    chance: float | Mapping | None = None,
    where: str | None = None,
    columns: Mapping[str, str] | None = None,
    **how: Any,
) -> str:
    """The chain from three tables to predictions, a set of them for each value of `by`.

    Args:
      losses: table (path) as in `fit_chain`.
      links: table (path) as in `fit_chain`.
      targets: table (path) as in `chain`; it may hold the true value of the link's target, with
        which the prediction is then compared.
      by: a column of all three, such as the task.
      chance: a number, or {value of `by`: number}.
      where: condition on the rows of `losses`.
      columns: {name in some of the files: ours}.
      how: of `fit_chain`; the choice of the loss law asks about the distance of the targets.

    Returns:
      Markdown: one row for each target, and the mean relative error where the truth is known.
    """
    link = law_named(how.get("link", "downstream_sigmoid"))
    loss_law = how.get("loss_law", "chinchilla")
    reads = needed([] if loss_law == "auto" else [law_named(loss_law)])
    named = _named(columns or {}, losses, links, targets)
    tables = [
        Observations.read(losses, named[0], where, reads),
        Observations.read(links, named[1], needs=("loss", link.target)),
        Observations.read(targets, named[2], needs=reads[:-1]),
    ]
    groups = [None] if by is None else list(dict.fromkeys(tables[2].frame[by]))
    rows = []
    for group in groups:
        runs, checks, asked = (_part(table, by, group) for table in tables)
        floor = chance.get(group) if isinstance(chance, Mapping) else chance
        far = {"distance": beyond(runs, asked, how.get("loss_options"))}
        found = fit_chain(runs, checks, chance=floor, **far | how)
        table = found.predict(asked.frame)
        table.insert(0, "run", asked.frame["run"].to_numpy())
        table.insert(0, by or "group", str(group))
        if link.target in asked.frame:
            table["true"] = asked.column(link.target)
        rows.append(
            table.assign(
                law=found.loss.name if isinstance(found.loss, Choice) else found.loss.law.name
            )
        )
    return report_lines(pd.concat(rows, ignore_index=True))


def _named(columns: Mapping[str, str], *tables) -> list[dict[str, str]]:
    """What columns are said to be, for each table of the columns that it has."""
    if not columns:
        return [{} for _ in tables]
    names = [set(map(str, read_frame(table))) for table in tables]
    for theirs in columns:
        if not any(theirs in known for known in names):
            raise Refused("columns", theirs, "a column of one of the tables")
    return [{t: ours for t, ours in columns.items() if t in known} for known in names]


def beyond(runs: Observations, targets: Observations, options: Options | None) -> float | None:
    """Log compute of the largest target over that of the largest run; None where unknown."""
    params = options.params if options else None
    try:
        return max(float(np.log(compute(targets, params).max() / compute(runs, params).max())), 0.0)
    except Refused:
        return None


def report_lines(table: pd.DataFrame) -> str:
    """Predictions as Markdown, with their mean relative error where `true` is a column."""
    cells = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        for row in table.itertuples(index=False)
    ]
    text = aligned(list(table), cells)
    if "true" in table:
        miss = np.abs(table["prediction"] / table["true"] - 1)
        text += f"\nmean relative error {miss.mean():.2%} of {len(miss)}"
        if table["low"].notna().all():
            inside = (table["low"] <= table["true"]) & (table["true"] <= table["high"])
            text += f"; {int(inside.sum())} inside their interval"
    return text + "\n"


def _part(table: Observations, by: str | None, group) -> Observations:
    if by is None:
        return table
    if by not in table.frame:
        raise Refused("by", by, f"one of {', '.join(map(str, table.frame))}")
    return table.only((table.frame[by] == group).to_numpy())


def _loss_fit(law, losses: Observations, options: Options, distance) -> Fit | Choice:
    if isinstance(law, str) and law == "auto":
        return choose(law, losses, options, distance=distance)
    found = fit(law, losses, options)
    return found if found.draws is None else extrapolating(found)


def _losses(result: Fit | Choice, frame, draws: int):
    """(prediction (rows,), draws of a new run's loss (draws, rows) or None)."""
    rng = np.random.default_rng([0, 1])
    if isinstance(result, Choice):
        found = result.predict(frame, level=_WITHIN)
        mean = found["prediction"].to_numpy()
        spread = np.log(found["high"] / mean).to_numpy()  # one standard deviation
        if not draws or not np.all(np.isfinite(spread)):
            return mean, None
        return mean, mean * np.exp(spread * rng.normal(size=(draws, len(mean))))
    columns = result.columns(frame)
    mean = np.atleast_1d(result.law.predict(columns, result.parameters))
    if result.draws is None or not draws:
        return mean, None
    with np.errstate(all="ignore"):
        cloud = result.law.predict(columns, result.parameter_draws())
    cloud = widen(cloud, mean, result.draws.factor)
    noise = scatter(result.draws, cloud.shape, 0)
    cloud = cloud + noise if result.objective == "least_squares" else cloud * np.exp(noise)
    if result.misfit is not None:
        cloud = cloud * np.exp(result.misfit.scale(frame) * rng.normal(size=cloud.shape))
    return mean, np.maximum(cloud, _ZERO_LOSS)


def _linked(result: Fit, losses, mean, beyond: float) -> np.ndarray:
    """Draws of the link's target at drawn losses, (draws, rows)."""
    drawn = result.parameter_draws()
    order = np.random.default_rng(0).permutation(len(next(iter(drawn.values()))))
    count = min(len(losses), len(order))
    picked = {name: values[order[:count]] for name, values in drawn.items()}
    with np.errstate(all="ignore"):
        cloud = result.law.predict({"loss": losses[:count]}, picked)
    cloud = widen(cloud, mean, result.draws.factor)
    if beyond > 0:
        cloud = _moved(result, cloud, losses[:count], beyond)
    noise = scatter(result.draws, cloud.shape, 1)
    cloud = cloud + noise if result.objective == "least_squares" else cloud * np.exp(noise)
    return _held(result, cloud)


def _moved(result: Fit, cloud, losses, beyond: float) -> np.ndarray:
    """Draws with the misfit of the link at losses below those that it was fitted to."""
    frame = result.observations.frame
    least = frame["loss"][frame["run"] != "anchor"].min()
    slope = beyond * np.random.default_rng([0, 2]).normal(size=(len(cloud), 1))
    moved = _scale(result, cloud) + slope * np.maximum(least - losses, 0.0)
    return 1 / (1 + np.exp(-moved)) if _shares(result) else np.exp(moved)


def _held(result: Fit, values) -> np.ndarray:
    """Shares between 0 and 1: links without a floor or a ceiling run beyond both."""
    return np.clip(values, 0.0, 1.0) if _shares(result) else values
