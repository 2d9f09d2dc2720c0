"""Is a table per token worth its parameters in place of a feed-forward's up-projection?

Command    espalier run --config=experiments/stem.py:cpu
Cost       cpu: 10 CPU-minutes; gpu: not run; published: `espalier plan` with a corpus of a
           128,256-token vocabulary as --config.corpus=FOLDER
Compared   STEM (arXiv:2601.10639): at 1B parameters and 1T tokens, tables in 5 of 16 layers take
           validation perplexity from 13.19 to 12.64 (−4.2 %; read off the released figure) at
           1.41B active and 6.67B total parameters; nothing against dense of as many in total.
Answer     `cpu`: at equal active params and FLOPs STEM is lower by 0.07 to 0.10 bits per byte, more
           tables help up to a half of the layers; at equal total params it is level with dense at
           a third of the layers and higher by 0.03 and 0.05 beyond, where dense takes 5 and 8
           times the FLOPs. Half the rows were read 8 times or less.
"""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

import models
from data import Corpus, Reader
from experiments.evidence.claim import bullets, scale
from experiments.evidence.comparison import against, at_best, best_rates, comparison, edges
from experiments.evidence.figures import finish, means, panels
from experiments.evidence.report import Block, Picture, Table, Text
from experiments.evidence.setup import Setup, matched
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from fitting.style import keyed, styled
from models import ModelConfig, Stem
from models.ladder import learning_rate
from scaling import AdamW, Labelled, Recipe, Run, sweep, unfolded
from scaling.plan import order
from scaling.speed import measure

# The `cpu` rates: a pilot of one seed on 128,000 tokens at 0.5, 1 and 2 put the optima between 1.1
# and 1.9; three seeds at 0.75, 1.5 and 3 put four of them at 0.75, so 0.375 was added.
COMMON = dict(
    ff_width=0,  # 0: the usual multiple of the width.
    kv_heads=0,  # 0: as many as heads.
    layers=("third", "half", "all_but_first"),
    match_active=True,
    table_init="xavier",
    lazy=True,
    rates=(0.5, 1.0, 2.0),
    seeds=3,
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        width=16,
        depth=4,  # The fewest layers of which a third and a half differ.
        rates=(0.375, 0.75, 1.5, 3.0),
        tokens=163_840,
        batch_tokens=512,
        evaluation_tokens=16_384,
        corpus="wheels-bpe4096",
        mixture="code=1",
    ),
    "gpu": dict(
        GPU | COMMON,
        width=256,
        depth=8,
        tokens=32_768_000,
        evaluation_tokens=131_072,
        corpus="wheels-bpe4096",
        mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
    ),
    # The released 1B model's shape, where STEM keeps the dense width F; its peak rate was 4e-4.
    "published": dict(
        GPU | COMMON,
        width=2048,
        depth=16,
        ff_width=8192,
        kv_heads=8,
        layers=("third",),
        match_active=False,
        lazy=False,
        tokens=999_999_668_224,
        batch_tokens=2_097_152,
        context=4096,
        warmup_tokens=1000 * 2_097_152,
        evaluation_tokens=1_048_576,
        corpus="",
        vocabulary=128_256,  # Of Llama 3.
        mixture="code=1",
        repeat=False,
    ),
}
get_config = configured(PRESETS)

DENSE = "dense"
NAMES = {"third": "STEM 1/3", "half": "STEM 1/2", "all_but_first": "STEM all but first"}
SEEN = (0, 1, 10, 100, 1000, 10_000)  # Edges of the classes of rows by tokens seen.


def study(config) -> Study:
    """Builds every arm at every rate with every seed."""
    setup = Setup.of(config)
    return setup.study(report, all_runs(setup))


def all_runs(setup: Setup) -> tuple[Labelled, ...]:
    """Returns the runs: each arm around the ladder's rate for its own width."""
    built = {name: setup.arm(m, learning_rate(m.width)) for name, m in arms(setup).items()}
    return sweep(built, setup.config.rates, range(setup.config.seeds))


def arms(setup: Setup) -> dict[str, ModelConfig]:
    """Returns the models: dense, STEM at its active params, and dense at STEM's total params."""
    config = setup.config
    shape = {"ff_width": config.ff_width or None, "kv_heads": config.kv_heads or None}
    dense = setup.rung(config.width, depth=config.depth, **shape).model
    found = {DENSE: dense}
    for layers in config.layers:
        model = replace(dense, feed_forward=Stem(layers, config.table_init, config.lazy))
        if config.match_active:
            model = matched(model, "params_active", models.count(dense).params_active)
        found[NAMES[layers]] = model
    for layers in config.layers:
        total = models.count(found[NAMES[layers]]).params_total
        found[counterpart(NAMES[layers])] = with_total(dense, total)
    return found


def counterpart(arm: str) -> str:
    """Names the dense arm with a STEM arm's total params."""
    return f"dense, total of {arm.removeprefix('STEM ')}"


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
    return matched(nearest, "params_total", target)


def report(results: Results) -> list[Block]:
    """Writes the verdicts at equal active and equal total params, the costs, and rows' reading."""
    config, table = results.config, unfolded(results.runs)
    setup = Setup(config, results.corpus)
    stems = [NAMES[layers] for layers in config.layers]
    matched = "as many active params" if config.match_active else "the same width"
    return [
        Text(
            scale(config.tokens, PRESETS["published"]["tokens"], "tokens")
            + " The smaller the model, the more of its params are token tables with or without "
            "STEM, and the fewer tokens, the less often tables are read."
        ),
        Text(f"## Against dense of {matched}"),
        *comparison(table[table["arm"].isin([DENSE, *stems])], DENSE),
        Text("## Against dense of as many params in all"),
        *against_total(table, stems),
        Text("## What it costs"),
        cost(table, setup),
        Picture(
            "params",
            picture(table, stems),
            "Held-out bits per byte at the best rate; means and standard deviations over seeds.",
        ),
        Text("## How often a row is read"),
        *reading(setup),
    ]


def against_total(table: pd.DataFrame, stems: list[str]) -> list[Block]:
    """Compares each STEM arm with the dense arm of its total params."""
    best = best_rates(table).set_index("arm", drop=False)
    first = table.groupby("arm")[["params_total", "flops"]].first()
    rows, said = [], {}
    for arm, claim in against(table, {arm: counterpart(arm) for arm in stems}).items():
        dense = counterpart(arm)
        if not claim.count:
            said[arm] = "not trained, or diverged at every rate"
            continue
        ratio = first["flops"][dense] / first["flops"][arm]
        said[arm] = (
            f"{claim.said('bits per byte', than='dense')}; dense took {ratio:.1f} times the FLOPs"
        )
        row = {"arm": arm, "params_total": first["params_total"][arm]}
        row |= {"dense params_total": first["params_total"][dense], "FLOPs, dense over STEM": ratio}
        row |= {"best rate": best["rate"][arm], "dense best rate": best["rate"][dense]}
        row |= claim.columns("difference (bits per byte)") | {"verdict": claim.verdict}
        rows.append(row)
    head = (
        "Each STEM arm against a wider dense model of its total params, both at their best "
        "learning rates, 90 % intervals paired by seed; below zero STEM is better."
    )
    wider = best.loc[best.index.isin(map(counterpart, stems))]
    return [
        Text(bullets(said, [head, edges(wider)])),
        Table("total", pd.DataFrame(rows), "STEM against dense of as many params in all."),
    ]


def cost(table: pd.DataFrame, setup: Setup) -> Table:
    """Tables params, FLOPs and measured time per token of every arm.

    Speeds in the store were measured while the machine did other things too, now more, now less;
    here the arms are timed one after the other, each at the best of four.
    """
    built, optimizer = arms(setup), AdamW(learning_rate=1e-3)
    frame = table.groupby("arm", sort=False)[["params_total", "params_active", "flops"]].first()
    recipes = [Recipe(model=built[arm], optimizer=optimizer) for arm in frame.index]
    timed = [measure(recipe, setup.config.batch_tokens) for recipe in recipes]
    flops, speed = frame.pop("flops"), pd.Series(timed, frame.index)
    frame["FLOP ratio"] = flops / flops[DENSE]
    frame["time ratio"], frame["tokens/s"] = speed[DENSE] / speed, speed.round().astype(int)
    return Table(
        "cost",
        frame.reset_index(),
        "Per token of training, timed one after the other when this report was written; ratios "
        "are to dense, and no surer than the machine was quiet.",
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


def reading(setup: Setup) -> list[Block]:
    """Says how the training tokens fall on the tables' rows, and the held-out tokens with them."""
    run = setup.run(arms(setup)[DENSE], 1e-3, 0, setup.phases())
    seen = rows_read(setup.corpus, run)
    held_out = setup.evaluation.held_out(setup.corpus, setup.config.context)
    tokens = np.concatenate([held_out.windows(name)[:, :-1].ravel() for name in held_out.names])
    asked = np.bincount(tokens, minlength=len(seen))
    between = [f"{low:,} to {high - 1:,}" for low, high in itertools.pairwise(SEEN[1:])]
    kind = np.digitize(seen, SEEN) - 1
    share = lambda counts: 100 * np.bincount(kind, counts, len(SEEN)) / counts.sum()
    rows = {
        "tokens seen per row": ["never", *between, f"{SEEN[-1]:,} or more"],
        "rows": np.bincount(kind, minlength=len(SEEN)),
        "of training tokens (%)": share(seen),
        "of held-out tokens (%)": share(asked),
    }
    low, median, high = np.percentile(seen, (25, 50, 75))
    said = (
        f"A row sees {seen.mean():,.0f} tokens in the mean and {median:,.0f} in the median "
        f"(quartiles {low:,.0f} and {high:,.0f}): tokens, not params, are what a table lacks, and "
        "every table of a model sees the same ones."
    )
    return [Text(said), Table("rows", pd.DataFrame(rows), "Rows of a table by tokens seen.")]


@styled
def picture(table: pd.DataFrame, stems: list[str]):
    """Draws bits per byte at the best rate over active and over total params."""
    best = at_best(table).assign(
        kind=lambda some: some["arm"].where(some["arm"].isin(stems), DENSE)
    )
    figure, axes = panels(2, share=True)
    for axis, column in zip(axes, ("params_active", "params_total"), strict=True):
        shown = best.assign(size=best[column] / 1e6)
        means(axis, shown, "size", "bits_per_byte", "kind", error="std")
        ticks = shown["size"].round(2).unique()
        finish(axis, f"{column} (millions)", ticks=ticks)
        axis.tick_params(axis="x", labelrotation=45)
    axes[0].set_ylabel("held-out bits per byte")
    return keyed(figure)
