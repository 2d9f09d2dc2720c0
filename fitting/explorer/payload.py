"""What the explorer's page is given: runs, fits with all their draws, and the sliders' ranges."""

import base64
import json

import numpy as np
import pandas as pd

from fitting import use
from fitting.columns import PARAMETER_COUNTS, unit
from fitting.explorer import trace
from fitting.fit import Fit
from fitting.held_out import IDS, OUTCOMES
from fitting.intervals import scatter
from fitting.observations import Observations
from refused import Refused

# How far sliders reach beyond the runs, in factors: counts are what one extrapolates in.
_COUNTS = (*PARAMETER_COUNTS, "tokens", "unique_tokens", "flops", "tokens_qat", "tokens_fp")
_BEYOND, _BEYOND_BUDGET, _BELOW, _OTHERWISE = 1e3, 1e4, 10.0, 4.0
MOST_LEVELS = 24  # values of a label that can still be told apart in a list


def payload(fits: list[Fit], obs: Observations | None, title: str) -> dict:
    """All that the page computes from and shows, as JSON values; arrays as `packed`.

    Args:
      fits: of laws of one target; obs: the runs that are drawn; title: of the page.

    Raises:
      Refused: neither fits nor runs, fits of different targets, a law whose formula is more than
        arithmetic.
    """
    if obs is None and not fits:
        raise Refused("explorer", "neither fits nor runs", "one of them")
    targets = {result.target for result in fits} or {"loss"}
    if len(targets) > 1:
        raise Refused("explorer", ", ".join(sorted(targets)), "fits of one target")
    obs = fits[0].observations if obs is None else obs
    names = variables(fits, obs)
    target = targets.pop()
    return {
        "title": title,
        "target": target,
        "targetUnit": unit(target) or "",
        "variables": [_slider(name, fits, obs) for name in names],
        "budget": _budget(fits, obs),
        "laws": [_law(result, names) for result in fits],
        "points": _points(obs, names, target, fits),
        "labels": _labels(obs, names, target),
    }


def packed(values) -> dict:
    """Numbers as base64 of little-endian doubles: exact, and half as long as digits."""
    return {"f64": base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()}


def variables(fits: list[Fit], obs: Observations) -> list[str]:
    """The columns that sliders move: all that the laws predict from and misfits are placed by."""
    names = [column(result, name) for result in fits for name in result.law.predictors]
    for result in fits:
        if result.misfit is not None and not _placed(result, names):
            counts = [result.misfit.params, *PARAMETER_COUNTS]
            count = next((name for name in counts if name in obs.frame), None)
            names += ["flops"] if "flops" in obs.frame else [count, "tokens"]
    return [name for name in dict.fromkeys(names) if name in _known(fits, obs)]


def column(result: Fit, predictor: str) -> str:
    """The table's column of a law's predictor."""
    return result.params if predictor == "params" and result.params else predictor


def _known(fits, obs) -> set[str]:
    every = [obs, *(result.observations for result in fits)]
    return {name for one in every for name in one.frame}


def _placed(result: Fit, names) -> str | None:
    try:
        return trace.place(result.misfit.direction, result.misfit.params, names)
    except Refused:
        return None


def _values(name: str, fits, obs) -> np.ndarray:
    """All values of a column, in the runs and in what was fitted."""
    every = [obs, *(result.observations for result in fits)]
    found = [pd.to_numeric(one.frame[name]).to_numpy(float) for one in every if name in one.frame]
    values = np.concatenate(found)
    return values[np.isfinite(values)]


def _slider(name: str, fits, obs) -> dict:
    values = _values(name, fits, obs)
    low, high = float(values.min()), float(values.max())
    log = low > 0
    if log:
        count = name in _COUNTS
        ends = [low / (_BELOW if count else 2.0), high * (_BEYOND if count else _OTHERWISE)]
    else:
        ends = [min(0.0, low), 2 * high if high > 0 else 1.0]
    start = float(np.exp(np.mean(np.log([low, high])))) if log else (low + high) / 2
    told = {"name": name, "unit": unit(name) or "", "log": log, "count": name in _COUNTS}
    return told | {"low": low, "high": high, "min": ends[0], "max": ends[1], "start": start}


def _sizes(fits, obs) -> tuple[np.ndarray, str] | None:
    """6 x params x tokens of every run and the count meant; None without both."""
    counts = [result.params or result.law.size for result in fits]
    counts = [name for name in [*counts, *PARAMETER_COUNTS] if name in obs.frame]
    if not counts or "tokens" not in obs.frame:
        return None
    return 6 * obs.column(counts[0]) * obs.column("tokens"), counts[0]


def _compute(fits, obs) -> np.ndarray | None:
    found = _sizes(fits, obs)
    if found is not None:
        return found[0]
    return obs.column("flops") if "flops" in obs.frame else None


def _budget(fits, obs) -> dict | None:
    """The slider of the compute budget; None where no law allocates one."""
    if not any(use.allocates(result.law) for result in fits):
        return None
    own = [result.observations for result in fits if use.allocates(result.law)]
    found = [values for one in (obs, *own) if (values := _compute(fits, one)) is not None]
    flops = np.concatenate(found) if found else np.array([1e18, 1e21])
    low, high = float(flops.min()), float(flops.max())
    ends = {"min": low / _BELOW, "max": high * _BEYOND_BUDGET}
    return {"low": low, "high": high, **ends, "start": high * 10}


def _law(result: Fit, names: list[str]) -> dict:
    law, columns = result.law, [column(result, name) for name in result.law.predictors]
    allocates = use.allocates(law) and law.size is not None
    told = {
        "name": law.name,
        "formula": law.formula,
        "source": law.source,
        "how": result.interval_method,
        "level": result.level,
        "linear": result.objective == "least_squares",
        "predictors": columns,
        "parameters": _parameters(result),
        "predict": trace.prediction(law),
        "closed": trace.allocation(law),
        "slope": None,
        "allocation": None,
        "flops": law.predictors.index("flops") if "flops" in law.predictors else -1,
        "best": packed([result.parameters[name] for name in law.names]),
        "draws": packed([]),
        "noise": packed([]),
        "normals": packed([]),
        "factor": 1.0,
        "misfit": _misfit(result, names),
    }
    if allocates:
        place = {"size": law.predictors.index(law.size), "tokens": law.predictors.index("tokens")}
        told |= {"allocation": place, "slope": None if law.allocation else trace.slope(law)}
    if result.draws is not None:
        drawn = result.parameter_draws()
        points = np.stack([drawn[name] for name in law.names], axis=1)
        count = len(points)
        told |= {"draws": packed(points), "factor": result.draws.factor}
        told["noise"] = packed(scatter(result.draws, (count, 1), 0))
        told["normals"] = packed(np.random.default_rng([0, 1]).normal(size=count))
    return told


def _parameters(result: Fit) -> list[dict]:
    units = {parameter.name: parameter.unit for parameter in result.law.parameters}
    out = []
    for name, value in result.parameters.items():
        low, high = result.intervals.get(name, (None, None))
        said = {"unit": units.get(name, "derived"), "verdict": result.verdicts.get(name, "")}
        out.append({"name": name, "value": value, "low": low, "high": high, **said})
    return out


def _misfit(result: Fit, names: list[str]) -> dict | None:
    """The misfit, whose place is read from the columns that sliders move; None without one."""
    place = result.misfit and _placed(result, names)
    if not place:
        return None
    found = result.misfit
    tested = found.tested if found.cuts else 0.0
    how = {"slope": found.slope, "end": found.end, "direction": found.direction}
    return how | {"tested": tested, "place": place, "caption": found.caption()}


def _points(obs, names, target: str, fits) -> dict:
    out = {name: packed(_column(obs, name)) for name in names if name in obs.frame}
    compute = _compute(fits, obs)
    if compute is not None:
        out["compute"] = packed(compute)
    loss = _column(obs, target) if target in obs.frame else np.full(len(obs), np.nan)
    return {"run": [str(run) for run in obs.frame["run"]], "values": out, "target": packed(loss)}


def _column(obs, name: str) -> np.ndarray:
    return pd.to_numeric(obs.frame[name], errors="coerce").to_numpy(float)


def _labels(obs, names, target: str) -> list[dict]:
    """Columns that runs can be coloured and filtered by: few values, and no outcome or predictor
    that moves freely.
    """
    out = []
    for name in obs.frame:
        if name in IDS and name not in ("trunk", "seed"):
            continue
        values = obs.frame[name].astype(object).where(obs.frame[name].notna(), "none")
        text = values.map(_shown)
        levels = text.drop_duplicates().tolist()
        if not 2 <= len(levels) <= MOST_LEVELS or name == target:
            continue
        if str(name).startswith(OUTCOMES) and len(levels) > len(obs) / 2:
            continue
        if all(isinstance(value, int | float | np.number) for value in values):
            levels = [_shown(value) for value in sorted(set(values))]
        codes = {level: place for place, level in enumerate(levels)}
        out.append({"name": str(name), "levels": levels, "codes": [codes[v] for v in text]})
    # Words first: a study's own arms rather than its sizes; ids of runs that belong together last.
    words = {label["name"]: any(_word(level) for level in label["levels"]) for label in out}
    return sorted(out, key=lambda label: (label["name"] in IDS, not words[label["name"]]))


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _word(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return True
    return False


def as_json(told: dict) -> str:
    """JSON that may stand inside a script element of a page."""
    text = json.dumps(told, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
