"""What are parallel streams worth, in parameters and in compute?

Command    espalier run --config=experiments/parscale.py:cpu
Cost       cpu: 11 CPU-minutes; gpu: 197 PFLOPs, about an hour at 50 TFLOP/s; published: see
           `espalier plan`, with a corpus of one's own
Compared   Chen et al. 2025 (ParScale, arXiv:2505.10475): L = E + (A/(N·(k·ln P + 1)))^α with N =
           params_non_embedding, those of the streams included; 42 billion tokens, N from 0.54e9
           to 4.4e9 and P from 1 to 8 gave k = 0.39 (code) and 0.33 (Pile), and at equal training
           compute parameters beat streams.
Answer     In the `cpu` preset nothing is gained: at equal parameters 4 streams and one are not told
           apart (to 0.06 bits per byte), nor are streams from the start and in a second stage, and
           k is not identified. With a frozen backbone the second stage ends 0.16 higher. At equal
           FLOPs one stream is better, wider (−0.11) or trained longer (−0.55). E is the floor at
           these 0.2 million tokens, not an entropy.
"""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from data import Mixture, Refused, load
from experiments.comparison import Trial, best_rates, comparison, trials, tried
from experiments.report import Block, Picture, Table, Text
from experiments.study import Results, Study, preset
from fitting import Observations, fit
from fitting import tables as write
from models import ModelConfig, Streams, count, ladder
from scaling import (
    AddStreams,
    Data,
    Evaluation,
    KeepStreams,
    Optimizer,
    Phase,
    Run,
    constant,
    wsd,
)

PRESETS = {
    # Before the `cpu` grid was settled, two seeds of width 32 were tried with 4 streams at the
    # reference rate. Means of the held-out loss: one stream 2.396; prefix 2, 8 and 16 from std
    # 0.02: 2.389, 2.397 and 2.393; prefix 8 from std 0.5 and 1: 2.396 and 2.409; plain averages
    # (smoothing 1) from std 0.02: 2.394. Nothing was resolved, so the published values stand. But
    # for plain averages the mean largest weight ended near 0.9, of 0.925 at most.
    "cpu": dict(
        widths=(16, 32, 48),
        streams=(1, 2, 4),
        main_width=32,  # Where arms are compared with `seeds`; other widths have one seed.
        prefix=8,
        prefix_std=0.02,
        smoothing=0.1,
        tokens=204_800,
        rates=(0.5, 1.0, 2.0, 4.0),
        seeds=3,
        batch_tokens=1024,
        context=64,
        warmup_tokens=25 * 1024,
        evaluation_tokens=32_768,
        corpus="wheels",
        mixture="code=1",
        published_shapes=False,
        dtype="float32",
        repeat=False,
    ),
    "gpu": dict(
        widths=(128, 192, 256, 384),
        streams=(1, 2, 4, 8),
        main_width=256,
        prefix=48,
        prefix_std=0.02,
        smoothing=0.1,
        tokens=16_384_000,
        rates=(0.5, 1.0, 2.0),
        seeds=3,
        batch_tokens=32_768,
        context=256,
        warmup_tokens=50 * 32_768,
        evaluation_tokens=262_144,
        corpus="wheels",
        mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
        published_shapes=False,
        dtype="bfloat16",
        repeat=True,
    ),
    # The published grid, as far as it is known: its learning rates are not, so they are swept.
    "published": dict(
        widths=(896, 1024, 1280, 1536, 2048, 2560),
        streams=(1, 2, 4, 8),
        main_width=896,
        prefix=48,
        prefix_std=0.02,
        smoothing=0.1,
        tokens=41_943_040_000,
        rates=(0.5, 1.0, 2.0),
        seeds=1,
        batch_tokens=1024 * 2048,
        context=2048,
        warmup_tokens=2000 * 1024 * 2048,
        evaluation_tokens=4_194_304,
        corpus="",
        mixture="code=1",
        published_shapes=True,
        dtype="bfloat16",
        repeat=False,
    ),
}

# Share of the tokens over which the rate falls; the second stage of the two-stage arms is this
# share, so that their first stage is that of one stream trained alone.
DECAY = 0.4

# Feed-forward widths of the published backbones, which have 36 layers, 16 query heads and 2
# key/value heads (released parametric fit and cost analysis of arXiv:2505.10475).
PUBLISHED = {896: 4864, 1024: 5504, 1280: 6912, 1536: 8320, 2048: 11008, 2560: 13824}
K = {"Stack-V2-Python": 0.3935, "Pile": 0.3345}  # Figure 2 of the paper.


def get_config(name: str = "cpu"):
    """Returns a preset's configuration."""
    return preset(name, PRESETS)


class Bench:
    """What all runs of a preset share: data, backbones by width, and how they are trained."""

    def __init__(self, config, corpus):
        self.config, self.most = config, max(config.streams)
        self.data = Data.of(corpus, Mixture.parse(config.mixture))
        self.shape = dict(vocabulary=corpus.vocabulary, context=config.context, dtype=config.dtype)

    def streams(self, number: int, **fields) -> Streams:
        """Returns the settings of P streams."""
        config = self.config
        return Streams(number, config.prefix, config.smoothing, config.prefix_std, **fields)

    def rung(self, width: int, **fields):
        """Returns the ladder's or the published backbone of a width, and its reference rate."""
        if self.config.published_shapes:
            if width not in PUBLISHED:
                raise Refused("width", width, f"of published shapes one of {sorted(PUBLISHED)}")
            heads = dict(depth=36, heads=16, kv_heads=2, tied=True)
            fields = heads | {"ff_width": PUBLISHED[width]} | fields
        return ladder(width, self.config.tokens, **self.shape, **fields)

    def model(self, width: int, streams: int = 1) -> ModelConfig:
        """Returns the model of a width with P streams."""
        return self.rung(width, streams=self.streams(streams)).model

    def train(self, model: ModelConfig, tokens: int | None = None, stage=None, then=None):
        """Returns a function (rate multiple, seed) → run that trains a model.

        `stage` is a change at the decay, `then` one before the evaluation.
        """
        config = self.config
        first, second = wsd(
            tokens or config.tokens, config.batch_tokens, config.warmup_tokens, DECAY
        )
        phases = [first, replace(second, change=stage)]
        if then is not None:
            # A step at a rate of zero changes no parameter; its end is what is evaluated.
            step = config.batch_tokens
            phases.append(Phase(step, step, constant(0.0), change=then))
        rung = self.rung(model.width)

        def run(rate: float, seed: int) -> Run:
            optimizer = Optimizer(rung.learning_rate * rate, rung.weight_decay / rate)
            return Run(model, self.data, optimizer, seed, tuple(phases))

        return run

    def equal_params(self) -> ModelConfig:
        """Widens the one-stream feed-forward to the non-embedding parameters of most streams."""
        width = self.config.main_width
        plain, goal = self.model(width), count(self.model(width, self.most)).params_non_embedding
        size = lambda inner: count(replace(plain, ff_width=inner)).params_non_embedding
        inner = plain.inner_width
        each = (size(inner + 8) - size(inner)) / 8
        return replace(plain, ff_width=inner + round((goal - size(inner)) / each))

    def equal_flops(self) -> ModelConfig:
        """Returns the one-stream model of the width nearest in FLOPs per token to most streams."""
        start = self.config.main_width
        goal = count(self.model(start, self.most)).flops_train
        if self.config.published_shapes:
            widths = PUBLISHED
        else:
            widths = range(start, 4 * self.most * start, 8)
        miss = lambda width: abs(math.log(count(self.model(width)).flops_train / goal))
        return self.model(min(widths, key=miss))

    def longer(self, streams: int) -> int:
        """Returns the tokens on which one stream costs the FLOPs of P streams."""
        width, config = self.config.main_width, self.config
        ratio = count(self.model(width, streams)).flops_train / count(self.model(width)).flops_train
        return round(ratio * config.tokens / config.batch_tokens) * config.batch_tokens


def named(streams: int) -> str:
    """Names an arm by its streams."""
    return "1 stream" if streams == 1 else f"{streams} streams"


def scratch_arms(bench: Bench) -> dict:
    """Returns the arms that are trained as what they are from the start, at the main width."""
    width, most = bench.config.main_width, bench.most
    arms = {named(p): bench.train(bench.model(width, p)) for p in bench.config.streams}
    arms[f"1 stream, params of {most}"] = bench.train(bench.equal_params())
    arms[f"1 stream, FLOPs of {most}: wider"] = bench.train(bench.equal_flops())
    for p in bench.config.streams[1:]:
        longer = bench.train(bench.model(width), bench.longer(p))
        arms[f"1 stream, FLOPs of {p}: longer"] = longer
    return arms


def staged_arms(bench: Bench) -> dict:
    """Returns the arms that get their streams when the rate begins to fall."""
    plain, most = bench.model(bench.config.main_width), bench.streams(bench.most)
    gated = bench.streams(bench.most, neutral=True)
    changes = {
        "second stage": AddStreams(most),
        "second stage, gated": AddStreams(gated),
        "second stage, backbone frozen": AddStreams(most, freeze=True),
    }
    return {name: bench.train(plain, stage=change) for name, change in changes.items()}


def kept_arms(bench: Bench) -> dict:
    """Returns the arms that are evaluated at fewer streams than they were trained with."""
    plain = bench.model(bench.config.main_width)
    several = bench.model(bench.config.main_width, bench.most)
    second = AddStreams(bench.streams(bench.most))
    arms = {}
    for fewer in bench.config.streams[:-1]:
        keep = KeepStreams(fewer)
        arms[f"{named(bench.most)}: {fewer} kept"] = bench.train(several, then=keep)
        arms[f"second stage: {fewer} kept"] = bench.train(plain, stage=second, then=keep)
        if fewer > 1:  # A frozen backbone alone is what the first stage ended with.
            frozen = bench.train(plain, stage=replace(second, freeze=True), then=keep)
            arms[f"second stage, backbone frozen: {fewer} kept"] = frozen
    return arms


def grid_trials(bench: Bench) -> tuple[Trial, ...]:
    """Returns the trials of width × streams, with one seed at all widths but the main one."""
    config = bench.config
    made = ()
    for width in config.widths:
        seeds = range(config.seeds if width == config.main_width else 1)
        cells = {
            f"width {width}, {named(p)}": bench.train(bench.model(width, p)) for p in config.streams
        }
        made += trials(cells, config.rates, seeds)
    return made


def all_trials(config, corpus) -> dict[str, tuple[Trial, ...]]:
    """Returns the study's trials by the question they answer."""
    bench = Bench(config, corpus)
    seeds = range(config.seeds)
    return {
        "scratch": trials(scratch_arms(bench), config.rates, seeds),
        "staged": trials(staged_arms(bench), config.rates, seeds),
        "kept": trials(kept_arms(bench), config.rates, seeds),
        "grid": grid_trials(bench),
    }


def study(config) -> Study:
    """Builds the grid, the arms of equal cost, the second stages, and fewer streams."""
    corpus, mixture = load(config.corpus), Mixture.parse(config.mixture)
    made = all_trials(config, corpus)
    return Study(
        name="parscale",
        corpus=corpus,
        runs=tuple(trial.run for some in made.values() for trial in some),
        evaluation=Evaluation(config.evaluation_tokens, domains=mixture.names),
        report=report,
        repeat=config.repeat,
        published={"k": "0.39 (Stack), 0.33 (Pile): figure 2 of arXiv:2505.10475"},
    )


def report(results: Results) -> list[Block]:
    """Writes the law, the comparisons at equal cost, the stages, and fewer streams."""
    config = results.config
    made = all_trials(config, results.corpus)
    found = {name: tried(some, results.runs) for name, some in made.items()}
    most = named(max(config.streams))
    scratch, staged = found["scratch"], found["staged"]
    stages = pd.concat([scratch[scratch["arm"].isin([most, "1 stream"])], staged])
    return [
        Text(
            f"{len(results.runs)} runs of the `{config.preset}` preset"
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
        Text(f"## Streams from scratch and in a second stage of {100 * DECAY:g} % of the tokens"),
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


def law_picture(best: pd.DataFrame, found) -> plt.Figure:
    """Draws loss against non-embedding parameters, a colour and a line of the law per P.

    Lines are drawn ever thinner, because at k = 0 they coincide.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.4))
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
    figure.tight_layout()
    plt.close(figure)
    return figure


def flops_picture(table: pd.DataFrame) -> plt.Figure:
    """Draws every arm at its best rate over its training FLOPs, a dot per seed."""
    best = at_best(table)
    figure, axis = plt.subplots(figsize=(6.8, 4.4))
    kinds = {"longer": "s", "wider": "^", "params": "D", "stream": "o"}
    for arm, group in best.groupby("arm", sort=False):
        scores, flops = group["bits_per_byte"], group["flops"].iloc[0]
        mark = next(mark for word, mark in kinds.items() if word in arm)
        (line,) = axis.plot(flops, scores.mean(), mark, ms=7, label=arm)
        axis.plot(np.full(len(scores), flops), scores, ".", ms=4, color=line.get_color())
    axis.set(xscale="log", xlabel="training FLOPs", ylabel="held-out bits per byte")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    plt.close(figure)
    return figure
