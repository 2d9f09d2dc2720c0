"""One law for several groups of runs: each on its own, with some parameters shared, or as one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from fitting.evidence import akaike
from fitting.fit import Fit, fit, problem_of
from fitting.law import Law
from fitting.laws import law_named
from fitting.observations import Observations
from fitting.options import Options
from refused import Refused

GROUP = "group"  # predictor of a law of several groups: the number of a row's group
_NOISE = 0.2  # of the starts of the joint fit about the fits of the groups


@dataclass(frozen=True)
class Groups:
    """One law fitted to groups of runs.

    column: what tells them apart; names: of the groups, in order; share: parameters in common;
    joint: the fit of all groups together; fits: {group: Fit}, each on its own runs; evidence:
    DataFrame(shared, parameters, objective, aicc, delta_aicc), best first.
    """

    column: str
    names: tuple[str, ...]
    share: tuple[str, ...]
    joint: Fit
    fits: Mapping[str, Fit]
    evidence: pd.DataFrame

    def parameters(self) -> pd.DataFrame:
        """DataFrame(group, parameter, value, low, high) of the joint fit; "all" where shared."""
        rows = []
        for name in self.joint.law.names:
            own, _, group = name.partition("[")
            low, high = self.joint.intervals.get(name, (np.nan, np.nan))
            cells = {"group": group.rstrip("]") or "all", "parameter": own}
            rows.append(cells | {"value": self.joint.parameters[name], "low": low, "high": high})
        return pd.DataFrame(rows)

    def of(self, group: str) -> Fit:
        """The fit of one group, with the parameters and draws that the joint fit gives it."""
        law, code = self.fits[group].law, self.names.index(group)
        places = [
            self.joint.law.names.index(name if name in self.share else f"{name}[{group}]")
            for name in law.names
        ]
        values = {
            name: self.joint.parameters[self.joint.law.names[place]]
            for name, place in zip(law.names, places, strict=True)
        }
        draws = self.joint.draws
        if draws is not None:
            draws = replace(draws, points=draws.points[:, places])
        observations = self.joint.observations
        rows = observations.frame[GROUP] == code
        return replace(
            self.joint,
            law=law,
            parameters=values | (law.derived(values) if law.derived else {}),
            draws=draws,
            intervals={},
            optimum=replace(self.joint.optimum, point=self.joint.optimum.point[places]),
            observations=observations.only(rows),
        )


def partly_pooled(fits: Mapping[str, Fit]) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Each group's parameters drawn towards the mean of all, by as much as the groups agree.

    Groups are draws from a normal distribution in search coordinates, independent between
    parameters, its variance by moments (DerSimonian and Laird 1986); the estimate of a group is the
    posterior mean given its own fit and the covariance of that (empirical Bayes; Morris 1983).

    Args:
      fits: {group: Fit} of one law, each with intervals.

    Returns:
      DataFrame(parameter, mean, between: standard deviation between groups in log, within: typical
      error of a group's own, p_same: chance of such differences between groups that are one), and
      {group: {parameter: value}}.

    Raises:
      Refused: a fit without intervals.
    """
    for result in fits.values():
        result.parameter_draws()  # Refuses a fit without them.
    first = next(iter(fits.values()))
    law, free = first.law, problem_of(first).free
    own = np.stack([result.optimum.point[free] for result in fits.values()])
    errors = [np.cov(result.draws.points[:, free].T) for result in fits.values()]
    errors = np.stack([np.atleast_2d(error) for error in errors])
    precision = 1 / np.maximum(np.stack([np.diag(error) for error in errors]), 1e-12)
    centre = np.sum(precision * own, axis=0) / precision.sum(axis=0)
    excess = np.sum(precision * (own - centre) ** 2, axis=0)
    scale = precision.sum(axis=0) - np.sum(precision**2, axis=0) / precision.sum(axis=0)
    between = np.maximum(excess - (len(own) - 1), 0) / np.maximum(scale, 1e-300)
    weight = 1 / (1 / precision + between)
    centre = np.sum(weight * own, axis=0) / weight.sum(axis=0)
    pooled, spread = {}, np.diag(between)
    for name, point, error in zip(fits, own, errors, strict=True):
        moved = point - error @ np.linalg.pinv(error + spread) @ (point - centre)
        whole = fits[name].optimum.point.copy()
        whole[free] = moved
        pooled[name] = {
            p.name: float(p.from_search(x)) for p, x in zip(law.parameters, whole, strict=True)
        }
    rows = []
    for place, index in enumerate(np.flatnonzero(free)):
        parameter = law.parameters[index]
        row = {"parameter": parameter.name, "mean": float(parameter.from_search(centre[place]))}
        row |= {"between": float(np.sqrt(between[place]))}
        row |= {"within": float(np.sqrt(np.mean(1 / precision[:, place])))}
        rows.append(row | {"p_same": float(chdtrc(len(own) - 1, excess[place]))})
    return pd.DataFrame(rows), pooled


def joint_law(
    law: Law,
    names: Sequence[str],
    share: Iterable[str],
    starts: Mapping[str, Mapping] | None = None,
) -> Law:
    """A law of several groups, `<parameter>[<group>]` for each, once for those in `share`.

    Args:
      names: of the groups; a row's number in them is the predictor `group`.
      starts: {group: {parameter: value}}, where the search begins.

    Raises:
      Refused: a shared parameter that the law lacks.
    """
    for name in share:
        if name not in law.names:
            raise Refused("share", name, f"parameters of {law.name}: {', '.join(law.names)}")
    parameters, owner = [], []
    for parameter in law.parameters:
        for group in [None] if parameter.name in share else names:
            label = parameter.name if group is None else f"{parameter.name}[{group}]"
            parameters.append(replace(parameter, name=label))
            owner.append((parameter.name, group))
    shapes = [place for place, parameter in enumerate(parameters) if not parameter.linear]

    def terms(columns, *shape):
        by_owner = {owner[place]: value for place, value in zip(shapes, shape, strict=True)}
        masks, found = [], []
        for code, group in enumerate(names):
            own = [
                by_owner.get((p.name, None), by_owner.get((p.name, group)))
                for p in law.parameters
                if not p.linear
            ]
            with np.errstate(all="ignore"):
                found.append(law.terms(columns, *own))
            masks.append(columns[GROUP] == code)

        def total(place):
            parts = zip(masks, found, strict=True)
            return sum(np.where(mask, group_terms[place], 0.0) for mask, group_terms in parts)

        out = []
        for place, parameter in enumerate(law.parameters[: law.linear_count]):
            if parameter.name in share:
                out.append(total(place))
            else:
                out += [np.where(m, t[place], 0.0) for m, t in zip(masks, found, strict=True)]
        return (*out, total(law.linear_count)) if len(found[0]) > law.linear_count else tuple(out)

    def first(columns, target, count, rng):
        rows = []
        for place in shapes:
            name, group = owner[place]
            parameter = parameters[place]
            given = [starts[g][name] for g in names] if group is None else [starts[group][name]]
            middle = np.mean([parameter.to_search(value) for value in given])
            noise = _NOISE * rng.normal(size=count) * (np.arange(count) > 0)
            moved = middle + noise * (1.0 if parameter.positive else max(abs(middle), 0.1))
            rows.append(parameter.from_search(moved))
        return np.stack(rows, axis=1) if rows else np.zeros((count, 0))

    return Law(
        name=f"{law.name} by group",
        formula=f"{law.formula}, for each of {', '.join(names)}; shared: {', '.join(share) or '-'}",
        predictors=(*law.predictors, GROUP),
        parameters=tuple(parameters),
        terms=terms,
        starts=first if starts and set(share) != set(law.names) else None,
        link=law.link,
        target=law.target,
        source=law.source,
        constants=law.constants,
        codes=(*law.codes, GROUP),
        identified_by=law.identified_by,
    )


def group_labels(obs: Observations, column: str) -> tuple[pd.Series, tuple[str, ...]]:
    """The group of each row as text, and the groups in the order in which they come.

    Raises:
      Refused: no such column, an empty cell, or fewer than two groups.
    """
    if column not in obs.frame:
        raise Refused("by", column, f"one of {', '.join(map(str, obs.frame))}")
    if obs.frame[column].isna().any():
        raise Refused(column, "an empty value", "a group in each row")
    labels = obs.frame[column].map(lambda v: f"{v:g}" if isinstance(v, float) else str(v))
    names = tuple(dict.fromkeys(labels))
    if len(names) < 2:
        raise Refused("by", f"{column} with {len(names)} group", "two groups or more")
    return labels, names


def by_group(
    law: str | Law,
    obs: Observations,
    column: str,
    share: Sequence[str] = (),
    options: Options | None = None,
    **changes: Any,
) -> Groups:
    """Fit a law to each group of runs, with some parameters in common.

    Args:
      law: a `Law` or a name.
      obs: runs.
      column: what tells the groups apart, text or numbers.
      share: names of parameters in common.
      options: as for `fit`.
      changes: as for `fit`.

    Raises:
      Refused: no such column, fewer than two groups, or as `fit`, naming the group.
    """
    law = law_named(law)
    options = (options or Options()).change(**changes)
    labels, names = group_labels(obs, column)
    share = tuple(share)
    joint_law(law, names, share)  # Refuses what cannot be shared before anything is fitted.
    fits = {}
    for name in names:
        try:
            fits[name] = fit(law, obs.only(labels == name), options)
        except Refused as error:
            raise Refused(f"{column} {name}", error.field, str(error)) from None
    coded = obs.frame.assign(**{GROUP: labels.map(names.index).to_numpy(float)})
    coded = Observations(coded, obs.notes)
    starts = {name: found.parameters for name, found in fits.items()}
    joint = fit(joint_law(law, names, share, starts), coded, options)
    others = {
        "none": () if share else None,
        ", ".join(share): None,
        "all": law.names if set(share) != set(law.names) else None,
    }
    found = {", ".join(share) or "none": joint}
    for label, shared in others.items():
        if shared is not None:
            other = joint_law(law, names, shared, starts)
            found[label] = fit(other, coded, options, point_only=True)
    return Groups(column, names, share, joint, fits, _evidence(found))


def _evidence(found: Mapping[str, Fit]) -> pd.DataFrame:
    rows = [
        {
            "shared": label,
            "parameters": len(result.law.names) - len(result.fixed),
            "objective": result.optimum.objective,
            "aicc": akaike(result),
        }
        for label, result in found.items()
    ]
    table = pd.DataFrame(rows).sort_values("aicc", kind="stable").reset_index(drop=True)
    return table.assign(delta_aicc=table["aicc"] - table["aicc"].min())
