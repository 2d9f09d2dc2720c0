"""A law by groups as a report: parameters, what sharing costs, and each group's speed-up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fitting import tables, use
from fitting.choice import choose
from fitting.fit import Fit
from fitting.groups import Groups, by_group, group_labels, partly_pooled
from fitting.held_out import compute
from fitting.law import Law
from fitting.laws import law_named
from fitting.observations import Observations
from fitting.options import Options
from fitting.rolling import root_mean_square
from refused import Refused


def group_report(
    law: Law,
    obs: Observations,
    options: Options,
    by: str,
    share: Sequence[str] = (),
    flops: Sequence[float] = (),
    out: str | Path | None = None,
) -> str:
    """Fit a law to each group of a table, with some parameters in common, and report it.

    Args:
      law: the law.
      obs: runs.
      options: how it is fitted.
      by: column of the groups.
      share: parameters in common.
      flops: budgets to allocate for each group, FLOP.
      out: folder for groups.csv and report.md.

    Returns:
      the report, Markdown: parameters, AICc of sharing none, these and all, held-out errors of each
      group where a split is named, and the speed-up of each group over the first.
    """
    groups = by_group(law, obs, by, share, options)
    joint, table = groups.joint, groups.parameters()
    cells = [
        [row.group, row.parameter, f"{row.value:.6g}", _ends(row.low, row.high)]
        for row in table.itertuples()
    ]
    text = [f"# {law.name} by {by}: {', '.join(groups.names)}", ""]
    text += [tables.aligned(["group", "parameter", "value", "interval"], cells)]
    text += [tables.caption(joint), "", "## What sharing costs", ""]
    cells = [
        [row.shared, str(row.parameters), f"{row.objective:.6g}", f"{row.delta_aicc:.4g}"]
        for row in groups.evidence.itertuples()
    ]
    text += [tables.aligned(["shared", "parameters", "objective", "AICc over the best"], cells)]
    if len(joint.held_out):
        text += ["## Predicted runs that were not fitted", "", *_held_out_lines(groups, obs)]
    text += _pooling_lines(groups)
    text += _speed_lines(groups)
    for name in groups.names if len(flops) else ():
        found = use.allocate(groups.of(name), flops)
        text += ["", f"Compute-optimal allocation of {name}:", "", _allocation(found)]
    report = "\n".join(text) + "\n"
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(report)
        (folder / "groups.csv").write_text(tables.commented(table, tables.caption(joint)))
    return report


def chosen_for_groups(laws: Sequence[str], obs: Observations, by: str, options: Options) -> Law:
    """The law with the least rolling error on average over the groups, of those judged in each.

    Args:
      laws: candidates, none for all that the table admits.
      by: column of the groups.
    """
    labels, names = group_labels(obs, by)
    scores = []
    for name in names:
        rows = obs.only(labels == name)
        found = choose(laws or "auto", rows, options.change(held_out=None))
        scores.append(found.laws.set_index("law")["score"][found.ranking])
    together = pd.concat(scores, axis=1, join="inner").mean(axis=1).dropna()
    if not len(together):
        accepted = f"one that rolling fits can judge in each group of {by}; name it"
        raise Refused("law", "auto", accepted)
    return law_named(together.idxmin())


def _ends(low: float, high: float) -> str:
    return "none" if np.isnan(low) else f"{low:.6g} to {high:.6g}"


def _held_out_lines(groups: Groups, obs: Observations) -> list[str]:
    kept = groups.joint.held_out
    owners = obs.frame.set_index("run")[groups.column].loc[kept["run"]].map(str).to_numpy()
    lines = []
    for name in dict.fromkeys(owners):
        own = kept[owners == name]
        miss = root_mean_square(own["relative_error"])
        lines.append(f"- {name}: {len(own)} runs, root mean square relative error {miss:.3%}")
    return lines


def _pooling_lines(groups: Groups) -> list[str]:
    """How far the groups differ, and what partial pooling makes of each one's parameters."""
    try:
        table, pooled = partly_pooled(groups.fits)
    except Refused as error:
        return ["", f"Partial pooling: none, {error}"]
    cells = [
        [row.parameter, f"{row.mean:.4g}", f"{row.between:.3g}", f"{row.within:.3g}"]
        + [f"{row.p_same:.2g}", *(f"{pooled[name][row.parameter]:.4g}" for name in groups.names)]
        for row in table.itertuples()
    ]
    titles = ["parameter", "mean", "between groups", "within", "p if all are one"]
    told = "Each group's own fit, drawn towards the mean by as much as the groups agree (in log):"
    return ["", "## Partial pooling", "", told, "", tables.aligned([*titles, *groups.names], cells)]


def _speed_lines(groups: Groups) -> list[str]:
    """Compute that the first group needs for another's loss, over the other's compute."""
    if not use.allocates(groups.fits[groups.names[0]].law):
        return []
    fits = {name: groups.of(name) for name in groups.names}
    try:
        flops = min(_largest(result) for result in fits.values())
        first = fits[groups.names[0]]
        rows = []
        for name, result in list(fits.items())[1:]:
            found = use.speed_up(first, result, flops)
            rows.append([name, f"{found['value']:.4g}", _ends(found["low"], found["high"])])
    except (Refused, KeyError):  # A law that also needs settings which no group has.
        return []
    titles = ["group", f"speed-up over {groups.names[0]}", "interval"]
    at = f"At {flops:.4g} FLOP, the largest that every group has, allocated optimally:"
    return ["", "## Effective speed-up", "", at, "", tables.aligned(titles, rows)]


def _largest(result: Fit) -> float:
    return float(np.max(compute(result.observations, result.params or result.law.size)))


def _allocation(found) -> str:
    titles = ["FLOP", "params", "interval", "tokens", "interval", "tokens / param", "loss"]
    rows = [
        [f"{row.flops:.4g}", f"{row.params:.4g}", _ends(row.params_low, row.params_high)]
        + [f"{row.tokens:.4g}", _ends(row.tokens_low, row.tokens_high)]
        + [f"{row.tokens_per_param:.4g}", f"{row.loss:.4g}"]
        for row in found.itertuples()
    ]
    return tables.aligned(titles, rows)
