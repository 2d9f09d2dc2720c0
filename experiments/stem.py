"""Is a table per token worth its parameters in place of a feed-forward's up-projection?

Command    espalier run --config=experiments/stem.py:cpu
Cost       cpu: 10 CPU-minutes; gpu: not run, see
           `espalier plan`; published: `espalier plan` with a corpus of a 128,256-token vocabulary
           as --config.corpus=FOLDER
Compared   STEM (arXiv:2601.10639): at 1B parameters and 1T tokens, tables in 5 of 16 layers take
           validation perplexity from 13.19 to 12.64 (−4.2 %; read off the released figure) at
           1.41B active and 6.67B total parameters; against dense of as many total parameters, or
           by wall-clock, nothing was published.
Answer     cpu: at equal active params and FLOPs STEM is lower by 0.07 to 0.10 bits per byte, and
           more tables help up to a half of the layers; at equal total params it is level with
           dense at a third of the layers and higher by 0.03 and 0.05 beyond, where dense takes 5
           and 8 times the FLOPs. Half the rows were read 8 times or less.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import models
from data import Corpus, Mixture, Reader, load
from experiments.evidence.comparison import best_rates, comparison, differences
from experiments.evidence.report import Block, Picture, Table, Text, subplots
from experiments.evidence.study import Results, Study, preset
from models import ModelConfig, Stem, ladder
from models.ladder import learning_rate
from scaling import AdamW, Data, Evaluation, Labelled, Recipe, Run, sweep, unfolded, wsd
from scaling.plan import order
from scaling.speed import measure

# The `cpu` rates: a pilot of one seed on 128,000 tokens at 0.5, 1 and 2 put the optima between 1.1
# and 1.9; three seeds at 0.75, 1.5 and 3 put four of them at 0.75, so 0.375 was added.
PRESETS = {
    "cpu": dict(
        width=16,
        depth=4,  # The fewest layers of which a third and a half differ.
        ff_width=0,  # 0: the usual multiple of the width.
        kv_heads=0,  # 0: as many as heads.
        layers=("third", "half", "all_but_first"),
        match_active=True,
        table_init="xavier",
        lazy=True,
        rates=(0.375, 0.75, 1.5, 3.0),
        seeds=3,
        tokens=163_840,
        batch_tokens=512,
        context=64,
        warmup_tokens=25 * 1024,
        evaluation_tokens=16_384,
        corpus="wheels-bpe4096",
        mixture="code=1",
        dtype="float32",
        repeat=False,
    ),
    "gpu": dict(
        width=256,
        depth=8,
        ff_width=0,
        kv_heads=0,
        layers=("third", "half", "all_but_first"),
        match_active=True,
        table_init="xavier",
        lazy=True,
        rates=(0.5, 1.0, 2.0),
        seeds=3,
        tokens=32_768_000,
        batch_tokens=32_768,
        context=256,
        warmup_tokens=50 * 32_768,
        evaluation_tokens=131_072,
        corpus="wheels-bpe4096",
        mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
        dtype="bfloat16",
        repeat=True,
    ),
    # The released 1B model's shape, where STEM keeps the dense width F; its peak rate was 4e-4.
    "published": dict(
        width=2048,
        depth=16,
        ff_width=8192,
        kv_heads=8,
        layers=("third",),
        match_active=False,
        table_init="xavier",
        lazy=False,
        rates=(0.5, 1.0, 2.0),
        seeds=3,
        tokens=999_999_668_224,
        batch_tokens=2_097_152,
        context=4096,
        warmup_tokens=1000 * 2_097_152,
        evaluation_tokens=1_048_576,
        corpus="",
        mixture="code=1",
        dtype="bfloat16",
        repeat=False,
    ),
}

DENSE = "dense"
NAMES = {"third": "STEM 1/3", "half": "STEM 1/2", "all_but_first": "STEM all but first"}
SEEN = (0, 1, 10, 100, 1000, 10_000)  # Edges of the classes of rows by tokens seen.


def get_config(name: str = "cpu"):
    """Returns a preset's configuration."""
    return preset(name, PRESETS)


def study(config) -> Study:
    """Builds every arm at every rate with every seed."""
    corpus = load(config.corpus)
    mixture = Mixture.parse(config.mixture)
    return Study(
        name="stem",
        corpus=corpus,
        runs=all_runs(config, corpus),
        evaluation=Evaluation(config.evaluation_tokens, domains=mixture.names),
        report=report,
        repeat=config.repeat,
        published={"perplexity, 1B, 1T tokens": "13.19 → 12.64 (arXiv:2601.10639's repository)"},
    )


def all_runs(config, corpus: Corpus) -> tuple[Labelled, ...]:
    """Returns the runs: each arm around the ladder's rate for its own width."""
    data = Data.of(corpus, Mixture.parse(config.mixture))
    phases = wsd(config.tokens, config.batch_tokens, config.warmup_tokens)

    def builder(model: ModelConfig):
        def build(multiple: float, seed: int) -> Run:
            optimizer = AdamW.at(float(f"{multiple * learning_rate(model.width):.3g}"))
            return Run(model, data, optimizer, seed, phases)

        return build

    built = {name: builder(model) for name, model in arms(config, corpus.vocabulary).items()}
    return sweep(built, config.rates, range(config.seeds))


def arms(config, vocabulary: int) -> dict[str, ModelConfig]:
    """Returns the models: dense, STEM at its active params, and dense at STEM's total params."""
    shape = {"ff_width": config.ff_width or None, "kv_heads": config.kv_heads or None}
    shape |= {name: config[name] for name in ("depth", "context", "dtype")}
    dense = ladder(config.width, config.tokens, vocabulary=vocabulary, **shape).model
    found = {DENSE: dense}
    for layers in config.layers:
        model = replace(dense, feed_forward=Stem(layers, config.table_init, config.lazy))
        if config.match_active:
            model = fitted(model, "params_active", models.count(dense).params_active)
        found[NAMES[layers]] = model
    for layers in config.layers:
        total = models.count(found[NAMES[layers]]).params_total
        found[counterpart(NAMES[layers])] = with_total(dense, total)
    return found


def counterpart(arm: str) -> str:
    """Names the dense arm with a STEM arm's total params."""
    return f"dense, total of {arm.removeprefix('STEM ')}"


def fitted(model: ModelConfig, column: str, target: int) -> ModelConfig:
    """Sets the feed-forward's width, in which counts are linear, to bring one to a target."""
    one, two = (getattr(models.count(replace(model, ff_width=width)), column) for width in (1, 2))
    return replace(model, ff_width=max(1, 1 + round((target - one) / (two - one))))


def with_total(dense: ModelConfig, target: int) -> ModelConfig:
    """Widens a dense model until it has so many params in all.

    The width comes as near as the model's proportions allow, the feed-forward does the rest.
    """
    ratio = dense.inner_width / dense.width

    def wide(width: int) -> ModelConfig:
        head = max(2, width // dense.heads // 2 * 2)
        return replace(dense, width=width, head_size=head, ff_width=round(ratio * width))

    low, high = dense.width, 16 * dense.width
    while high - low > 2:  # Params grow with the width: halve the interval of even widths.
        middle = (low + high) // 4 * 2
        more = models.count(wide(middle)).params_total > target
        low, high = (low, middle) if more else (middle, high)
    nearest = min(map(wide, (low, high)), key=lambda m: abs(models.count(m).params_total - target))
    return fitted(nearest, "params_total", target)


def report(results: Results) -> list[Block]:
    """Writes the verdicts at equal active and equal total params, the costs, and rows' reading."""
    config = results.config
    table = unfolded(results.runs)
    stems = [NAMES[layers] for layers in config.layers]
    first = table[table["arm"].isin([DENSE, *stems])]
    matched = "as many active params" if config.match_active else "the same width"
    made = all_runs(config, results.corpus)
    run = next(item.run for item in made if item.labels["arm"] == stems[0])
    return [
        Text(scale(config)),
        Text(f"## Against dense of {matched}"),
        *comparison(first, DENSE),
        Text("## Against dense of as many params in all"),
        *against_total(table, stems),
        Text("## What it costs"),
        Table(
            "cost",
            cost(table, arms(config, results.corpus.vocabulary), config.batch_tokens),
            "Per token of training, timed one after the other when this report was written; ratios "
            "are to dense, and no surer than the machine was quiet.",
        ),
        Picture("params", picture(table, stems), "Held-out bits per byte at the best rate."),
        Text("## How often a row is read"),
        *reading(results.corpus, run, config),
    ]


def scale(config) -> str:
    """Says what a preset can and cannot tell."""
    small = (
        "The `cpu` preset proves the machinery, not the architecture: a width of "
        f"{config.width}, {config.tokens / 1e3:,.0f} thousand tokens. At this size almost all "
        "params are token tables with or without STEM, and tables are read far less often than "
        "at published scales."
    )
    return small if config.preset == "cpu" else "Far below the published scale of 1T tokens."


def against_total(table: pd.DataFrame, stems: list[str]) -> list[Block]:
    """Compares each STEM arm with the dense arm of its total params."""
    rows, lines = [], []
    best = best_rates(table).set_index("arm")
    costs = table.groupby("arm")[["params_total", "flops"]].first()
    for arm in stems:
        dense = counterpart(arm)
        if not {arm, dense} <= set(best.index) or best.loc[[arm, dense], "rate"].isna().any():
            lines.append(f"- **{arm}**: not trained, or diverged at every rate.")
            continue
        paired = differences(table[table["arm"].isin([arm, dense])], dense).iloc[0]
        flops = costs.loc[dense, "flops"] / costs.loc[arm, "flops"]
        rows.append(
            {
                "arm": arm,
                "params_total": costs.loc[arm, "params_total"],
                "dense params_total": costs.loc[dense, "params_total"],
                "FLOPs, dense over STEM": flops,
                "best rate": best.loc[arm, "rate"],
                "dense best rate": best.loc[dense, "rate"],
                "difference (bits per byte)": paired["difference"],
                "90 % low": paired["low"],
                "90 % high": paired["high"],
                "verdict": paired["verdict"],
            }
        )
        lines.append(
            f"- **{arm}**: {paired['difference']:+.4f} bits per byte "
            f"[{paired['low']:+.4f}, {paired['high']:+.4f}], {paired['verdict']}; dense took "
            f"{flops:.1f} times the FLOPs."
        )
    edges = [arm for arm in map(counterpart, stems) if arm in best.index and best.loc[arm, "edge"]]
    note = f" The best rate of {', '.join(edges)} is at the edge of the sweep." if edges else ""
    head = (
        "Each STEM arm against a wider dense model of its total params, both at their best "
        f"learning rates, 90 % intervals paired by seed; below zero STEM is better.{note}"
    )
    return [
        Text("\n".join([head, "", *lines])),
        Table("total", pd.DataFrame(rows), "STEM against dense of as many params in all."),
    ]


def cost(table: pd.DataFrame, built: dict[str, ModelConfig], batch_tokens: int) -> pd.DataFrame:
    """Returns params, FLOPs and measured time per token of every arm.

    Speeds in the store were measured while the machine did other things too, now more, now less;
    here the arms are timed one after the other, each at the best of four.
    """
    speed = {
        arm: measure(Recipe(model=built[arm], optimizer=AdamW(learning_rate=1e-3)), batch_tokens)
        for arm in table["arm"].unique()
    }
    first = table.groupby("arm", sort=False).first()
    return pd.DataFrame(
        {
            "arm": first.index,
            "params_total": first["params_total"].to_numpy(),
            "params_active": first["params_active"].to_numpy(),
            "FLOP ratio": (first["flops"] / first.loc[DENSE, "flops"]).to_numpy(),
            "time ratio": [speed[DENSE] / speed[arm] for arm in first.index],
            "tokens/s": [round(speed[arm]) for arm in first.index],
        }
    )


def rows_read(corpus: Corpus, run: Run) -> np.ndarray:
    """Returns how many input tokens a run reads of each row [V]."""
    seen = np.zeros(corpus.vocabulary, np.int64)
    for index, phase in enumerate(run.phases):
        sequences = phase.batch_tokens // run.model_at(index).context
        reader = Reader(corpus, order(corpus, run), index, sequences)
        for begin in range(0, phase.steps, 256):
            windows = reader.read(min(256, phase.steps - begin))
            seen += np.bincount(windows[..., :-1].ravel(), minlength=len(seen))
    return seen


def reading(corpus: Corpus, run: Run, config) -> list[Block]:
    """Says how the training tokens fall on the tables' rows, and the held-out tokens with them."""
    seen = rows_read(corpus, run)
    held_out = Evaluation(config.evaluation_tokens, domains=run.data.mixture.names).held_out(
        corpus, config.context
    )
    tokens = np.concatenate([held_out.windows(name)[:, :-1].ravel() for name in held_out.names])
    asked = np.bincount(tokens, minlength=len(seen))
    rows = []
    for low, high in zip(SEEN, (*SEEN[1:], np.inf), strict=True):
        here = (seen >= low) & (seen < high)
        name = "never" if high == 1 else f"{low:,} or more" if np.isinf(high) else None
        rows.append(
            {
                "tokens seen per row": name or f"{low:,} to {high - 1:,}",
                "rows": int(here.sum()),
                "of training tokens (%)": 100 * seen[here].sum() / seen.sum(),
                "of held-out tokens (%)": 100 * asked[here].sum() / asked.sum(),
            }
        )
    quartiles = np.percentile(seen, (25, 50, 75))
    mean = seen.mean()
    said = (
        f"A row sees {mean:,.0f} tokens in the mean and {quartiles[1]:,.0f} in the median "
        f"(quartiles {quartiles[0]:,.0f} and {quartiles[2]:,.0f}): tokens, not params, are what a "
        "table lacks, and every table of a model sees the same ones."
    )
    return [Text(said), Table("rows", pd.DataFrame(rows), "Rows of a table by tokens seen.")]


def picture(table: pd.DataFrame, stems: list[str]) -> Figure:
    """Draws bits per byte at the best rate over active and over total params."""
    best = best_rates(table).set_index("arm")
    costs = table.groupby("arm", sort=False)[["params_active", "params_total"]].first()
    dense = [arm for arm in costs.index if arm not in stems]
    figure, axes = subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axis, column in zip(axes, costs.columns, strict=True):
        line = costs.loc[dense, column].sort_values()
        error = dict(capsize=3, ms=6)
        axis.errorbar(line, best.loc[line.index, "mean"], best.loc[line.index, "sd"], fmt="o-",
                      color="0.4", label="dense", **error)  # fmt: skip
        for arm in stems:
            axis.errorbar(costs.loc[arm, column], best.loc[arm, "mean"], best.loc[arm, "sd"],
                          fmt="s", label=arm, **error)  # fmt: skip
        axis.set(xscale="log", xlabel=column)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1e6:g}M"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(np.unique(np.round(costs[column] / 1e6, 2)) * 1e6)
        axis.tick_params(axis="x", labelrotation=45)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out bits per byte (mean, sd over seeds)")
    axes[1].legend(fontsize=9)
    return figure
