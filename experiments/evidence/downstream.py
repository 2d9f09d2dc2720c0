"""Downstream tasks in a report: which say something, and how well a law predicts their accuracy."""

import math

import numpy as np
import pandas as pd

from experiments.evidence.report import Block, Table, Text
from fitting import Observations
from fitting.chain import LINK, fit_chain
from fitting.options import Options
from refused import Refused

PREFIX = "accuracy."
ABOVE, ITEMS = 3.0, 500  # Standard errors above chance of the largest model, and items, at least.


def downstream(runs: pd.DataFrame, mask: np.ndarray, law: str, params: str) -> list[Block]:
    """Returns the blocks about the tasks that runs were asked; none where they were asked none.

    A law of the loss and a link from the loss to accuracy are fitted without the runs of a mask
    and asked for those (`fitting.chain`), task by task. A task is kept where the model of the most
    compute is `ABOVE` standard errors above chance on `ITEMS` items or more.
    """
    names = [name.removeprefix(PREFIX) for name in runs if name.startswith(PREFIX)]
    asked = runs[[f"{PREFIX}{name}" for name in names]].notna().all(axis=1).to_numpy()
    if not names or not (asked & mask).any():
        return []
    runs, mask = runs[asked], mask[asked]
    found = [judged(runs, mask, name, law, params) for name in names]
    kept = [row for row in found if row["kept"] == "yes"]
    lost = ", ".join(row["task"] for row in found if row["kept"] == "no") or "none"
    return [
        Text("## Downstream: accuracy through the loss"),
        Text(
            f"{len(kept)} of {len(found)} tasks are kept: the model of the most compute is at "
            f"least {ABOVE:g} standard errors above chance on {ITEMS} items or more. Not kept: "
            f"{lost}. Of those kept, the law of the loss and the link behind it were fitted "
            f"without {mask.sum()} runs, whose accuracy they predict; the baseline is the accuracy "
            "of the fitted run with the nearest compute."
        ),
        Table("downstream", pd.DataFrame(found), "Errors in points of accuracy (%), on the mean."),
    ]


def judged(runs: pd.DataFrame, mask: np.ndarray, name: str, law: str, params: str) -> dict:
    """Returns one task's row: what the largest model makes of it, and what was predicted."""
    value = lambda metric: runs[f"{metric}.{name}"].to_numpy(float)
    largest = int(np.argmax(runs["flops"].to_numpy(float)))
    items, chance, best = (value(m)[largest] for m in ("items", "chance", "accuracy"))
    spread = chance * (1 - chance) if chance else best * (1 - best)
    error = math.sqrt(spread / items)
    above = (best - chance) / error if error else 0.0
    row = {
        "task": name,
        "items": int(items),
        "chance (%)": 100 * chance,
        "largest model (%)": 100 * best,
        "standard errors above chance": above,
        "kept": "yes" if above >= ABOVE and items >= ITEMS else "no",
    }
    blank = dict.fromkeys(("law's error", "baseline's error", "inside interval"))
    return row | (predicted(runs, mask, name, law, params) if row["kept"] == "yes" else blank)


def predicted(runs: pd.DataFrame, mask: np.ndarray, name: str, law: str, params: str) -> dict:
    """Returns how far predictions of the runs of a mask are from what they did."""
    frame = runs.assign(accuracy=runs[f"{PREFIX}{name}"])
    known = Observations(frame[~mask].reset_index(drop=True))
    asked, chance = frame[mask], float(frame[f"chance.{name}"].iloc[0])
    true, flops = asked["accuracy"].to_numpy(float), frame["flops"].to_numpy(float)
    near = np.abs(np.log(flops[mask][:, None] / flops[~mask])).argmin(axis=1)
    base = np.abs(frame["accuracy"].to_numpy(float)[~mask][near] - true).mean()
    row = {"law's error": None, "baseline's error": 100 * base, "inside interval": None}
    try:
        found = fit_chain(
            known,
            known,
            loss_law=law,
            chance=chance,
            loss_options=Options(params=params),
            link_options=Options(**LINK),
        ).predict(asked)
    except Refused:  # Too few runs for the law or the link.
        return row
    inside = ((found["low"] <= true) & (true <= found["high"])).sum()
    miss = np.abs(found["prediction"].to_numpy() - true).mean()
    return row | {"law's error": 100 * miss, "inside interval": f"{inside} of {len(true)}"}
