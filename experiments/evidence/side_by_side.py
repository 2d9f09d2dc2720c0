"""Two studies side by side: runs that are alike by their labels, a law of each, and one figure."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.evidence.claim import Claim, counted, rows
from experiments.evidence.figures import finish, panels
from experiments.evidence.law import identified, law_table
from experiments.evidence.report import Block, Picture, Table, Text
from fitting import Observations, fit
from fitting.style import MARKS, keyed, styled
from refused import Refused
from scaling.labels import label_names, unfolded

ALIKE = ("width", "tokens", "streams", "bits", "batch_tokens")  # With the labels of both.


def side_by_side(
    tables: Mapping[str, pd.DataFrame], law: str, measure: str = "loss"
) -> list[Block]:
    """Returns the blocks that compare two run tables, {name: table}."""
    sound = {
        name: unfolded(table)[lambda t: t["diverged_step"].isna() & t[measure].notna()]
        for name, table in tables.items()
    }
    return [
        Text(f"# {' and '.join(f'`{name}`' for name in tables)}"),
        *by_labels(sound, measure),
        Text(f"## The {law.replace('_', '-')} law, fitted to each"),
        *by_law(sound, law),
        Text("## Every run"),
        Picture(
            "loss_against_compute",
            picture(sound, measure),
            "Held-out loss against training FLOPs, a dot per run.",
        ),
    ]


def by_labels(tables: Mapping[str, pd.DataFrame], measure: str) -> list[Block]:
    """Tables what runs that are alike in all but their seeds score in each study."""
    first, second = tables
    shared = set(label_names(tables[first])) & set(label_names(tables[second]))
    keys = [name for name in label_names(tables[first]) if name in shared] + list(ALIKE)
    one, other = (table.groupby(keys, dropna=False)[measure] for table in tables.values())
    means = pd.concat({first: one.mean(), second: other.mean()}, axis=1, join="inner")
    if not len(means):
        said = f"No run of {first} is like one of {second} in {', '.join(keys)}."
        return [Text(f"## Runs that are alike\n\n{said}")]
    means["difference"] = means[second] - means[first]
    means["seeds"] = pd.concat([one.size(), other.size()], axis=1, join="inner").min(axis=1)
    claim = Claim.of(means["difference"])
    said = (
        f"Of {counted(len(means), 'setting')} that both studies have, {second} minus {first} is "
        f"{claim.said('nats per token', than=first)}. The interval is Student's over settings."
    )
    caption = f"Mean {measure} (nats per token) of runs alike in {', '.join(keys)}."
    shown = means.reset_index().rename(columns=lambda name: str(name))
    return [Text(f"## Runs that are alike\n\n{said}"), Table("alike", shown, caption)]


def by_law(tables: Mapping[str, pd.DataFrame], law: str) -> list[Block]:
    """Fits a law to each study; where its runs do not admit it, a sentence says why."""
    blocks, found = [], {}
    for name, table in tables.items():
        try:
            found[name] = fit(
                law, Observations(table.reset_index(drop=True)), params="params_total"
            )
        except Refused as refused:
            blocks.append(Text(f"The runs of {name} do not give it: {refused}."))
    for name, one in found.items():
        blocks += [Text(f"**{name}**: {identified(one)}"), law_table(f"law_{plain(name)}", one)]
    if len(found) == 2:
        parameters = next(iter(found.values())).parameters
        for parameter in parameters:
            claims = {
                name: Claim(one.parameters[parameter], *one.intervals.get(parameter, (np.nan,) * 2))
                for name, one in found.items()
            }
            caption = f"{parameter} of the law by study, with its 90 % interval."
            blocks.append(
                Table(f"parameter_{parameter}", rows(claims, "study", parameter), caption)
            )
    return blocks


def plain(name: str) -> str:
    """Returns a name as part of a file's."""
    return re.sub(r"\W+", "_", name)


@styled
def picture(tables: Mapping[str, pd.DataFrame], measure: str):
    """Draws the measure over training FLOPs, a colour per study."""
    figure, (axis,) = panels(wide=True)
    for mark, (name, table) in zip(MARKS, tables.items(), strict=False):
        axis.plot(table["flops"], table[measure], mark, label=name)
    finish(axis, "training FLOPs", f"held-out {measure} (nats per token)")
    return keyed(figure)
