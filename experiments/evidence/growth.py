"""Growth: the loss's jump at each growth, and the compute that growing saves.

Figures and tables of `experiments/tokenformer_growth.py`, whose runs have the labels `growth` (so
far), `kind` (of the growth just made, else none) and `steps` (since the last).
"""

import numpy as np
import pandas as pd

from experiments.evidence.claim import Claim
from experiments.evidence.comparison import at_best, best_rates
from experiments.evidence.figures import finish, panels
from experiments.evidence.report import Picture, Table
from fitting.style import COLOURS, INK, QUIET, keyed, styled

SCRATCH, BASELINE = "scratch", "Transformer"
# How each way to grow adds rows.
GROWN = {"grown, exact": "zero keys, τ kept", "grown, as published": "random keys, τ = √n"}
EXACT, PUBLISHED = GROWN


def scratch(budget: float) -> str:
    """Names training from scratch at a multiple of the grown run's compute."""
    return SCRATCH if budget == 1 else f"{SCRATCH} × {budget:g}"


def jumps(seen: pd.DataFrame, rows: tuple[int, ...]) -> Table:
    """Tables the jump of the held-out loss at each growth by kind, with intervals over seeds."""
    on, losses = ["arm", "growth", "seed"], ["loss", "bits_per_byte"]
    way, after = seen[seen["kind"].isna()], seen[seen["kind"].notna()].set_index([*on, "kind"])
    last = way[way["steps"] == way.groupby(on)["steps"].transform("max")]
    before = last.assign(growth=last["growth"] + 1).set_index(on)[losses]
    change = (after[losses] - before.reindex(after.index.droplevel("kind")).to_numpy()).dropna()
    table = []
    for (stage, arm, kind), jump in change.groupby(["growth", "arm", "kind"], sort=False):
        if stage == 1 and arm == PUBLISHED:
            continue  # Before the first growth the arms are one.
        row = {"rows": f"{rows[int(stage) - 1]} → {rows[int(stage)]}"}
        row |= {"grown before": "not" if stage == 1 else arm.removeprefix("grown, ")}
        row |= {"new rows": kind} | Claim.of(jump["loss"]).columns("jump (nats/token)")
        table.append(row | {"jump (bits/byte)": jump["bits_per_byte"].mean()})
    return Table(
        "jumps",
        pd.DataFrame(table),
        "Jump of the held-out loss right after each growth, before any step, at the middle rate; "
        "mean and 90 % interval over seeds.",
    )


def saved(ends: pd.DataFrame, budgets: tuple[float, ...]) -> tuple[dict[str, Claim], Table]:
    """Claims the compute that growth saves against training from scratch to the same loss.

    Scratch's loss, at each budget's best rate, is interpolated in the logarithm of compute, seed by
    seed; a loss beyond the budgets tried counts as the nearest of them.
    """
    loss = at_best(ends, "loss").pivot(index="seed", columns="arm", values="loss")
    flops = ends.groupby("arm")["flops"].first()
    some = [scratch(budget) for budget in sorted(budgets, reverse=True)]
    claims, rows = {}, []
    for arm in GROWN:
        pairs = zip(loss[arm], loss[some].to_numpy(), strict=True)
        equal = np.exp([np.interp(end, points, np.log(flops[some])) for end, points in pairs])
        claim = claims[arm] = Claim.of(100 * (1 - flops[arm] / equal))
        row = {"arm": arm} | claim.columns("compute saved (%)") | {"seeds": claim.count}
        row["seeds beyond the budgets"] = (~loss[arm].between(loss[some[0]], loss[some[-1]])).sum()
        rows.append(row | {"resolved": "yes" if claim.verdict in ("lower", "higher") else "no"})
    caption = (
        "Compute saved against training from scratch to the same held-out loss, interpolated "
        "between scratch's budgets."
    )
    return claims, Table("saved", pd.DataFrame(rows), caption)


def losses(ends: pd.DataFrame) -> Table:
    """Tables what each arm costs and reaches at its best rate."""
    best = best_rates(ends, "loss").set_index("arm")
    first = ends.groupby("arm", sort=False)[["flops", "tokens"]].first()
    first.columns = ["training FLOPs", "tokens"]
    reference = ends[ends["rate"] == 1].groupby("arm")["learning_rate"].first()
    first["best peak rate"] = best["rate"] * reference
    first[["loss (nats/token)", "sd over seeds"]] = best[["mean", "sd"]]
    first["edge of the sweep"] = np.where(best["edge"], "yes", "no")
    caption = "Every arm and every budget from scratch at its own best rate; loss in nats/token."
    return Table("losses", first.reset_index(), caption)


@styled
def along(config, seen: pd.DataFrame, ends: pd.DataFrame) -> Picture:
    """Draws held-out loss over compute from the first growth on, and scratch's cooled ends."""
    figure, (axis,) = panels(wide=True, height=3.0)
    middle = ends[ends["rate"] == 1].groupby("arm")[["flops", "loss"]].mean()
    for (arm, kind), color in zip(GROWN.items(), COLOURS, strict=False):
        way = seen[(seen["arm"] == arm) & (seen["kind"].isna() | (seen["kind"] == kind))]
        mean = way.groupby(["growth", "steps"])[["flops", "loss"]].mean()
        mean = mean.loc[(0, config.steps[0]) :]
        axis.plot(mean["flops"], mean["loss"], ".-", color=color, label=f"{arm}: before cooling")
        cooled = np.stack([mean.iloc[-1], middle.loc[arm]]).T
        axis.plot(*cooled, "--", color=color)
        axis.plot(*cooled[:, 1], "o", color=color, label=f"{arm}: cooled")
        if arm == EXACT:
            mark_growths(axis, config.rows, mean.xs(0, level="steps")["flops"])
    scratched = middle.loc[[scratch(budget) for budget in sorted(config.budgets)]]
    axis.plot(scratched["flops"], scratched["loss"], "s-", color=INK, label=f"{SCRATCH}: cooled")
    finish(axis, "training FLOPs", "held-out loss (nats/token)", xscale="linear")
    return Picture(
        "along",
        keyed(figure),
        "Held-out loss from the first growth on, at each arm's reference rate; means over seeds. "
        "Dotted lines mark growth, by rows of the attention; the points right before and after it "
        "share their compute.",
    )


def mark_growths(axis, rows: tuple[int, ...], flops: pd.Series) -> None:
    """Marks the compute at which each growth happens."""
    for before, after, at in zip(rows, rows[1:], flops, strict=False):
        axis.axvline(at, color=QUIET, lw=0.8, ls=":")
        place = dict(transform=axis.get_xaxis_transform(), fontsize=7, ha="center")
        axis.text(at, 1.01, f"{before} → {after}", **place)
