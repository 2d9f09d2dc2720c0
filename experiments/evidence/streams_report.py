"""The report on parallel streams: the law, comparisons at equal cost, stages, fewer streams."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.evidence.comparison import best_rates, comparison
from experiments.evidence.report import Block, Picture, Table, Text, subplots
from fitting import Observations, fit
from fitting import tables as write

K = {"Stack-V2-Python": 0.3935, "Pile": 0.3345}  # Figure 2 of the paper.


def named(streams: int) -> str:
    """Names an arm by its streams."""
    return "1 stream" if streams == 1 else f"{streams} streams"


def streams_report(config, found: Mapping[str, pd.DataFrame], decay: float) -> list[Block]:
    """Writes the law, the comparisons at equal cost, the stages, and fewer streams.

    `found` has the finished runs, by their labels, for the question they answer; `decay` is the
    second stage's share of the tokens.
    """
    runs = pd.concat(found.values())["run"].nunique()
    most = named(max(config.streams))
    scratch, staged = found["scratch"], found["staged"]
    stages = pd.concat([scratch[scratch["arm"].isin([most, "1 stream"])], staged])
    return [
        Text(
            f"{runs} runs of the `{config.preset}` preset"
            + (", which proves the machinery, not the law" if config.preset == "cpu" else "")
            + ". Speeds are those of the day's machine; `make bench` compares them fairly."
        ),
        Text("## The law over widths and streams"),
        *law_blocks(found["grid"]),
        Text(f"## Equal parameters and equal FLOPs, width {config.main_width}"),
        *renamed("equal", comparison(scratch, most)),
        Picture(
            "flops",
            flops_picture(scratch),
            "Every arm at its best rate over its training FLOPs; dots are seeds.",
        ),
        Text(f"## Streams from scratch and in a second stage of {100 * decay:g} % of the tokens"),
        *renamed("stages", comparison(stages, most)),
        Text("## Fewer streams at evaluation"),
        *kept_blocks(pd.concat([scratch, staged]), found["kept"], most),
    ]


def renamed(prefix: str, blocks: list[Block]) -> list[Block]:
    """Gives a comparison's tables and figures names of their own."""
    own = lambda block: replace(block, name=f"{prefix}_{block.name}")
    return [block if isinstance(block, Text) else own(block) for block in blocks]


def at_best(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of every arm at its best rate."""
    best = best_rates(table, "loss").set_index("arm")["rate"]
    return table[table["rate"] == table["arm"].map(best)].reset_index(drop=True)


def law_blocks(grid: pd.DataFrame) -> list[Block]:
    """Fits the law to every cell at its best rate, and once more without the largest cell."""
    best = at_best(grid)
    observations = Observations(best)
    found = fit("parscale", observations)
    corner = (best["width"] == best["width"].max()) & (best["streams"] == best["streams"].max())
    without = fit("parscale", observations, held_out=corner.to_numpy())
    same = best[(best["width"] == best["width"].max()) & ~corner]
    nearest = same.loc[same["streams"] == same["streams"].max(), "loss"].mean()
    error = 100 * without.held_out["relative_error"].abs().max()
    naive = 100 * abs(nearest / best.loc[corner, "loss"].mean() - 1)
    low, high = found.intervals["k"]
    published = ", ".join(f"{value:g} ({name})" for name, value in K.items())
    rows = best.groupby(["width", "streams"], as_index=False).agg(
        params_non_embedding=("params_non_embedding", "first"),
        params_total=("params_total", "first"),
        flops=("flops", "first"),
        rate=("rate", "first"),
        seeds=("seed", "nunique"),
        loss=("loss", "mean"),
        bits=("bits_per_byte", "mean"),
    )
    units = {
        "rate": "best rate (× reference)",
        "flops": "training FLOPs",
        "loss": "loss (nats/token)",
        "bits": "bits/byte",
    }
    return [
        Text(
            f"k = {found.parameters['k']:.3g} [{low:.3g}, {high:.3g}], {found.verdicts['k']}; "
            f"published: {published}. {identified(found)} Fitted without the largest width at the "
            f"most streams, the law misses that loss by {error:.2f} %; taking the loss of the same "
            f"width at the next fewer streams misses it by {naive:.2f} %."
        ),
        Table("fit", pd.DataFrame(write.rows(found)), write.caption(found), write.as_latex(found)),
        Table("grid", rows.rename(columns=units), "Every cell at its best rate; means over seeds."),
        Picture(
            "law",
            law_picture(best, found),
            "Every run at its cell's best rate; lines: the law, thinner for more streams.",
        ),
    ]


def identified(found) -> str:
    """Says which parameters the grid does not identify."""
    loose = [name for name, verdict in found.verdicts.items() if verdict != "identified"]
    if not loose:
        return "The grid identifies every parameter."
    return f"The grid does not pin down {', '.join(loose)}."


def kept_blocks(trained: pd.DataFrame, kept: pd.DataFrame, most: str) -> list[Block]:
    """Tables what the trained arms score with fewer streams, at the rate that was best with all."""
    best = best_rates(trained).set_index("arm")
    rows = []
    kept = kept.assign(trained=kept["arm"].str.split(": ").str[0])
    for arm, group in kept.groupby("trained", sort=False):
        chosen = group[group["rate"] == best.loc[arm, "rate"]]
        by_streams = chosen.groupby("streams")["bits_per_byte"].mean()
        some = {f"{fewer} kept": score for fewer, score in by_streams.items()}
        rows.append({"trained": arm, f"all {most}": best.loc[arm, "mean"]} | some)
    plain = best.loc["1 stream", "mean"]
    return [
        Text(
            "The first streams of a trained model, the aggregation's weights renormalised over "
            "them; one kept stream is the backbone without prefix. Held-out bits per byte; a "
            f"model trained with one stream from the start has {plain:.4f}."
        ),
        Table("kept", pd.DataFrame(rows), "Bits per byte by streams kept; means over seeds."),
    ]


def law_picture(best: pd.DataFrame, found) -> Figure:
    """Draws loss against non-embedding parameters, a colour and a line of the law per P.

    Lines are drawn ever thinner, because at k = 0 they coincide.
    """
    figure, axis = subplots(figsize=(6.4, 4.4))
    size = np.geomspace(best["params_non_embedding"].min(), best["params_non_embedding"].max(), 60)
    for index, (p, group) in enumerate(best.groupby("streams")):
        (dots,) = axis.plot(
            group["params_non_embedding"], group["loss"], "o", ms=5, label=named(int(p))
        )
        grid = {"params_non_embedding": size, "streams": np.full(len(size), float(p))}
        axis.plot(
            size, found.law.predict(grid, found.parameters), lw=6 / 2**index, color=dots.get_color()
        )
    axis.set(xscale="log", xlabel="params_non_embedding", ylabel="held-out loss (nats/token)")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def flops_picture(table: pd.DataFrame) -> Figure:
    """Draws every arm at its best rate over its training FLOPs, a dot per seed."""
    best = at_best(table)
    figure, axis = subplots(figsize=(6.8, 4.4))
    kinds = {"longer": "s", "wider": "^", "params": "D", "stream": "o"}
    for arm, group in best.groupby("arm", sort=False):
        scores, flops = group["bits_per_byte"], group["flops"].iloc[0]
        mark = next(mark for word, mark in kinds.items() if word in arm)
        (line,) = axis.plot(flops, scores.mean(), mark, ms=7, label=arm)
        axis.plot(np.full(len(scores), flops), scores, ".", ms=4, color=line.get_color())
    axis.set(xscale="log", xlabel="training FLOPs", ylabel="held-out bits per byte")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
