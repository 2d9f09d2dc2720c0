"""Parallel streams: the law over widths and streams, arms at equal cost, fewer streams kept.

Figures and tables of `experiments/parscale.py`.
"""

import numpy as np
import pandas as pd

from experiments.evidence.claim import counted
from experiments.evidence.comparison import at_best, best_rates
from experiments.evidence.figures import finish, means, panels
from experiments.evidence.law import identified, law_table, parameter
from experiments.evidence.report import Block, Picture, Table, Text
from fitting import Fit, Observations, fit
from fitting.style import keyed, styled

K = {"Stack-V2-Python": 0.3935, "Pile": 0.3345}  # Figure 2 of arXiv:2505.10475.
SHOWN = {
    "rate": "best rate (× reference)",
    "flops": "training FLOPs",
    "loss": "loss (nats/token)",
    "bits_per_byte": "bits/byte",
}
MARKS = {"longer": "s", "wider": "^", "params": "D", "stream": "o"}  # By a word in an arm's name.


def law_blocks(grid: pd.DataFrame) -> list[Block]:
    """Fits the law to every cell at its best rate, and once more without the largest cell."""
    best = at_best(grid, "loss").sort_values(["width", "streams", "seed"], ignore_index=True)
    found = fit("parscale", Observations(best))
    widest = best["width"] == best["width"].max()
    corner = widest & (best["streams"] == best["streams"].max())
    without = fit("parscale", Observations(best), held_out=corner.to_numpy())
    error = 100 * without.held_out["relative_error"].abs().max()
    next_fewer = best[widest & ~corner].groupby("streams")["loss"].mean().iloc[-1]
    naive = 100 * abs(next_fewer / best.loc[corner, "loss"].mean() - 1)
    k = parameter(found, "k")
    first = dict.fromkeys(("params_non_embedding", "params_total", "flops", "rate"), "first")
    how = first | {"seed": "nunique", "loss": "mean", "bits_per_byte": "mean"}
    rows = best.groupby(["width", "streams"], as_index=False).agg(how)
    return [
        Text(
            f"k = {k.value:.3g} [{k.low:.3g}, {k.high:.3g}], {found.verdicts['k']}; published: "
            + ", ".join(f"{value:g} ({name})" for name, value in K.items())
            + f". {identified(found)} Fitted without the largest width at the most streams, the "
            f"law misses that loss by {error:.2f} %; taking the loss of the same width at the next "
            f"fewer streams misses it by {naive:.2f} %."
        ),
        law_table("fit", found),
        Table(
            "grid",
            rows.rename(columns=SHOWN | {"seed": "seeds"}),
            "Every cell at its best rate; means over seeds.",
        ),
        Picture(
            "law",
            law_picture(best, found),
            "Every run at its cell's best rate; lines: the law, thinner for more streams.",
        ),
    ]


def kept_table(trained: pd.DataFrame, kept: pd.DataFrame, most: str) -> Table:
    """Tables what the trained arms score with fewer streams, at the rate that was best with all."""
    best, rows = best_rates(trained).set_index("arm"), []
    for arm, group in kept.groupby(kept["arm"].str.split(": ").str[0], sort=False):
        chosen = group[group["rate"] == best.loc[arm, "rate"]]
        by_streams = chosen.groupby("streams")["bits_per_byte"].mean()
        some = {f"{fewer} kept": score for fewer, score in by_streams.items()}
        rows.append({"trained": arm, f"all {most}": best.loc[arm, "mean"]} | some)
    return Table("kept", pd.DataFrame(rows), "Bits per byte by streams kept; means over seeds.")


@styled
def law_picture(best: pd.DataFrame, found: Fit):
    """Draws loss against non-embedding parameters, a colour and a line of the law per P.

    Lines are drawn ever thinner, because at k = 0 they coincide.
    """
    figure, (axis,) = panels()
    size = np.geomspace(best["params_non_embedding"].min(), best["params_non_embedding"].max(), 60)
    for index, (p, group) in enumerate(best.groupby("streams")):
        x, y = group["params_non_embedding"], group["loss"]
        (dots,) = axis.plot(x, y, "o", label=counted(p, "stream"))
        line = {"params_non_embedding": size, "streams": np.full(len(size), float(p))}
        law = found.law.predict(line, found.parameters)
        axis.plot(size, law, lw=4 / 2**index, color=dots.get_color())
    finish(axis, "params_non_embedding", "held-out loss (nats/token)")
    return keyed(figure)


@styled
def flops_picture(table: pd.DataFrame):
    """Draws every arm at its best rate over its training FLOPs, a dot per seed."""
    figure, (axis,) = panels(wide=True)
    for arm, group in at_best(table, "loss").groupby("arm", sort=False):
        mark = next(mark for word, mark in MARKS.items() if word in arm)
        means(axis, group, "flops", "bits_per_byte", "arm", mark=mark, seeds=True)
    finish(axis, "training FLOPs", "held-out bits per byte")
    return keyed(figure)
