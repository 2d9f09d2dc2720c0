"""Laws in reports: a fit's table, what it leaves open, and its errors on runs it has not seen."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

import models
from experiments.evidence.claim import Claim, counted, listed
from experiments.evidence.report import Table
from experiments.evidence.study import Study
from fitting import Fit, Observations, baselines, fit, latex
from fitting import tables as write
from fitting.columns import PARAMETER_COUNTS
from fitting.fit import FEWEST_LEVELS
from fitting.laws import law_named
from scaling import Run
from scaling.labels import joined, label_sets

# The nearest run's loss, a straight line in log compute, and the Chinchilla law with E = 0.
BASELINES = {
    "nearest_run": "nearest run",
    "log_linear": "log-linear in compute",
    "chinchilla_no_floor": "Chinchilla with E = 0",
}


def foreseen(study: Study) -> list[str]:
    """Says which laws of a study's report its runs cannot give, before they are trained."""
    if study.laws is None:
        return []
    table, said = planned_table(study), {}
    for law, params, mask in study.laws(table):
        law = law_named(law)
        fitted, most = table[np.asarray(mask, bool)], len(law.parameters) + 2
        columns = [params if name == "params" else name for name in law.predictors]
        levels = {name: fitted[name].nunique() for name in columns if name in fitted}
        few = [f"{n} of {name}" for name, n in levels.items() if n < FEWEST_LEVELS]
        if few:
            why = f"{listed(few)}, where {FEWEST_LEVELS} different values of each are needed"
        elif len(fitted) < most:
            why = f"{counted(len(fitted), 'run')} to fit, where {most} are needed"
        else:
            continue
        said[f"the {law.name.replace('_', '-')} law cannot be fitted to these runs: {why}"] = None
    return [f"{line}; the report will say so" for line in said]


def planned_table(study: Study) -> pd.DataFrame:
    """Returns the columns of a study's run table that are known before training."""
    rows = []
    for run, sets in zip(*labelled_runs(study), strict=True):
        accounts = models.count(run.model_at(-1))
        rows.append(
            {name: joined(sets, name) for labels in sets for name in labels}
            | {"seed": run.seed, "width": run.model_at(-1).width, "tokens": run.tokens}
            | {name: getattr(accounts, name) for name in PARAMETER_COUNTS}
            | {"flops": run.flops(), "flops_6nd": 6.0 * accounts.params_total * run.tokens}
        )
    return pd.DataFrame(rows)


def labelled_runs(study: Study) -> tuple[list[Run], list[tuple]]:
    """Returns a study's runs, each once, and their label sets."""
    runs = {item.run.identity: item.run for item in study.runs}
    sets = label_sets(study.runs)
    return list(runs.values()), [sets[id] for id in runs]


def law_table(name: str, found: Fit) -> Table:
    """Shows a fit's parameters with intervals and verdicts."""
    return Table(
        name, pd.DataFrame(write.rows(found)), write.caption(found), latex.as_latex(found), found
    )


def parameter(found: Fit, name: str, than: float = 0.0) -> Claim:
    """Claims a fitted parameter, compared with a value."""
    return Claim(found.parameters[name], *found.intervals.get(name, (np.nan,) * 2), than=than)


def identified(*fits: Fit) -> str:
    """Says which parameters the runs pin down, and which values are not to be quoted."""
    said = []
    for found in fits:
        loose = [f"{name} ({v})" for name, v in found.verdicts.items() if v != "identified"]
        known = [name for name, v in found.verdicts.items() if v == "identified"]
        name = found.law.name.replace("_", "-")
        said.append(
            f"Of the {name} law the runs identify {listed(known)}; **not to be quoted**: "
            f"{listed(loose)}."
        )
    return " ".join(said)


def held_out(
    obs: Observations, mask: np.ndarray, laws: Mapping[str, str], params: str
) -> tuple[dict[str, Fit], dict[str, np.ndarray]]:
    """Fits laws, by the names they are shown under, without the runs of a mask.

    Returns:
      the fits, and absolute relative errors on those runs by law and by baseline.
    """
    fits = {name: fit(law, obs, held_out=mask, params=params) for name, law in laws.items()}
    errors = {name: found.held_out["relative_error"].to_numpy() for name, found in fits.items()}
    naive = baselines(obs, mask, params=params)
    errors |= {shown: naive[name].to_numpy() for name, shown in BASELINES.items()}
    return fits, {name: np.abs(values) for name, values in errors.items()}


def summarised(errors: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Returns the median and the worst of absolute relative errors by prediction."""
    rows = [
        {
            "prediction": name,
            "median error (%)": 100 * np.median(values),
            "worst (%)": 100 * np.max(values),
        }
        for name, values in errors.items()
    ]
    return pd.DataFrame(rows)


def against_others(errors: Mapping[str, np.ndarray], law: str, margin: float = 0.0) -> str:
    """Says how a law's median error stands to that of every other prediction.

    Those within a margin of it, relative errors both, are not resolved.
    """
    median = {name: np.median(values) for name, values in errors.items()}
    mine = median.pop(law)
    kinds = {"lower than": [], "higher than": [], "not resolved from": []}
    for name, value in median.items():
        side = "lower than" if mine < value - margin else "higher than"
        near = margin and abs(mine - value) <= margin
        kinds["not resolved from" if near else side].append(f"{name} ({100 * value:.2f} %)")
    said = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names)
    return f"its median error is {100 * mine:.2f} %, {said}"
