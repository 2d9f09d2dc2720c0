"""What are parallel streams worth, in parameters and in compute?

Command    espalier run --config=experiments/parscale.py:cpu
Cost       cpu: 10 CPU-minutes; gpu: 197 PFLOPs, about an hour at 50 TFLOP/s; published: see
           `espalier plan`, with a corpus of one's own
Compared   Chen et al. 2025 (ParScale, arXiv:2505.10475): L = E + (A/(N·(k·ln P + 1)))^α with N =
           params_non_embedding, those of the streams included; 42 billion tokens, N from 0.54e9
           to 4.4e9 and P from 1 to 8 gave k = 0.39 (code) and 0.33 (Pile); at equal training
           compute parameters beat streams.
Answer     `cpu`: nothing is gained. At equal parameters 4 streams and one are not told apart (to
           0.05 bits per byte), nor are streams from the start and in a second stage; k is not
           identified. A second stage on a frozen backbone ends 0.15 higher. At equal FLOPs one
           stream is better, wider (−0.12) or trained longer (−0.56). E is a floor, not an entropy.
"""

import math
from dataclasses import dataclass, replace

import pandas as pd

from experiments.evidence.claim import counted, scale
from experiments.evidence.comparison import best_rates, comparison
from experiments.evidence.report import Block, Picture, Text
from experiments.evidence.setup import Setup, matched
from experiments.evidence.streams import flops_picture, kept_table, law_blocks
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import ModelConfig, Streams, count
from refused import Refused
from scaling import AdamW, AddStreams, KeepStreams, Labelled, Phase, Run, constant, sweep, unfolded

# Before the `cpu` grid was settled, two seeds of width 32 were tried with 4 streams at the
# reference rate. Means of the held-out loss: one stream 2.396; prefix 2, 8 and 16 from std 0.02:
# 2.389, 2.397 and 2.393; prefix 8 from std 0.5 and 1: 2.396 and 2.409; plain averages (smoothing 1)
# from std 0.02: 2.394. Nothing was resolved, so the published values stand. But for plain averages
# the mean largest weight ended near 0.9, of 0.925 at most.
COMMON = dict(
    streams=(1, 2, 4, 8),
    prefix=48,
    prefix_std=0.02,
    smoothing=0.1,
    rates=(0.5, 1.0, 2.0),
    seeds=3,
    published_shapes=False,
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        widths=(16, 32, 48),
        streams=(1, 2, 4),
        main_width=32,  # Where arms are compared with `seeds`; other widths have one seed.
        prefix=8,
        tokens=204_800,
        rates=(0.5, 1.0, 2.0, 4.0),
        mixture="code=1",
    ),
    "gpu": dict(
        GPU | COMMON,
        widths=(128, 192, 256, 384),
        main_width=256,
        tokens=16_384_000,
        mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
    ),
    # The published grid, as far as it is known: its learning rates are not, so they are swept.
    "published": dict(
        GPU | COMMON,
        widths=(896, 1024, 1280, 1536, 2048, 2560),
        main_width=896,
        tokens=41_943_040_000,
        seeds=1,
        batch_tokens=1024 * 2048,
        context=2048,
        warmup_tokens=2000 * 1024 * 2048,
        evaluation_tokens=4_194_304,
        corpus="",
        vocabulary=151_936,  # Of Qwen2.5, as released.
        mixture="code=1",
        published_shapes=True,
        repeat=False,
    ),
}
get_config = configured(PRESETS)

# Share of the tokens over which the rate falls; the second stage of the two-stage arms is this
# share, so that their first stage is that of one stream trained alone.
DECAY = 0.4

SMALLEST = 0.54e9  # Non-embedding parameters of the smallest published model.

# Feed-forward widths of the published backbones, which have 36 layers, 16 query heads and 2
# key/value heads (released parametric fit and cost analysis of arXiv:2505.10475).
PUBLISHED = {896: 4864, 1024: 5504, 1280: 6912, 1536: 8320, 2048: 11008, 2560: 13824}


@dataclass(frozen=True, eq=False)
class Bench(Setup):
    """The setup of streams: backbones by width, and how they are trained."""

    @property
    def most(self) -> int:
        """The most streams."""
        return max(self.config.streams)

    def streams(self, number: int, **fields) -> Streams:
        """Returns the settings of P streams."""
        config = self.config
        return Streams(number, config.prefix, config.smoothing, config.prefix_std, **fields)

    def model(self, width: int, streams: int = 1) -> ModelConfig:
        """Returns the ladder's or the published backbone of a width, with P streams."""
        shape = {}
        if self.config.published_shapes:
            if width not in PUBLISHED:
                raise Refused("width", width, f"of published shapes one of {sorted(PUBLISHED)}")
            shape = dict(depth=36, heads=16, kv_heads=2, tied=True, ff_width=PUBLISHED[width])
        return self.rung(width, streams=self.streams(streams), **shape).model

    def train(self, model: ModelConfig, tokens: int | None = None, stage=None, then=None):
        """Returns a function (rate multiple, seed) → run that trains a model.

        `stage` is a change at the decay, `then` one before the evaluation.
        """
        first, second = self.phases(tokens, DECAY)
        phases = (first, replace(second, change=stage))
        if then is not None:
            # A step at a rate of zero changes no parameter; its end is what is evaluated.
            step = self.config.batch_tokens
            phases += (Phase(step, step, constant(0.0), change=then),)
        rung = self.rung(model.width)

        def run(rate: float, seed: int) -> Run:
            optimizer = AdamW(
                learning_rate=rung.learning_rate * rate, weight_decay=rung.weight_decay / rate
            )
            return Run(model=model, data=self.data, optimizer=optimizer, seed=seed, phases=phases)

        return run

    def equal_params(self) -> ModelConfig:
        """Widens the one-stream feed-forward to the non-embedding parameters of most streams."""
        goal = count(self.model(self.config.main_width, self.most)).params_non_embedding
        return matched(self.model(self.config.main_width), "params_non_embedding", goal)

    def equal_flops(self) -> ModelConfig:
        """Returns the one-stream model of the width nearest in FLOPs per token to most streams."""
        start = self.config.main_width
        goal = count(self.model(start, self.most)).flops_train
        wider = range(start, 4 * self.most * start, 8)
        widths = PUBLISHED if self.config.published_shapes else wider
        miss = lambda width: abs(math.log(count(self.model(width)).flops_train / goal))
        return self.model(min(widths, key=miss))

    def longer(self, streams: int) -> int:
        """Returns the tokens on which one stream costs the FLOPs of P streams."""
        width, config = self.config.main_width, self.config
        ratio = count(self.model(width, streams)).flops_train / count(self.model(width)).flops_train
        return round(ratio * config.tokens / config.batch_tokens) * config.batch_tokens


def scratch_arms(bench: Bench) -> dict:
    """Returns the arms that are trained as what they are from the start, at the main width."""
    width, most = bench.config.main_width, bench.most
    arms = {counted(p, "stream"): bench.train(bench.model(width, p)) for p in bench.config.streams}
    arms[f"1 stream, params of {most}"] = bench.train(bench.equal_params())
    arms[f"1 stream, FLOPs of {most}: wider"] = bench.train(bench.equal_flops())
    for p in bench.config.streams[1:]:
        longer = bench.train(bench.model(width), bench.longer(p))
        arms[f"1 stream, FLOPs of {p}: longer"] = longer
    return arms


def stages(bench: Bench) -> dict[str, AddStreams]:
    """Returns the ways to get all streams when the rate begins to fall."""
    most = bench.streams(bench.most)
    return {
        "second stage": AddStreams(most),
        "second stage, gated": AddStreams(bench.streams(bench.most, neutral=True)),
        "second stage, backbone frozen": AddStreams(most, freeze=True),
    }


def staged_arms(bench: Bench) -> dict:
    """Returns the arms that get their streams in a second stage."""
    plain = bench.model(bench.config.main_width)
    return {name: bench.train(plain, stage=change) for name, change in stages(bench).items()}


def kept_arms(bench: Bench) -> dict:
    """Returns the arms that are evaluated at fewer streams than they were trained with."""
    width, some = bench.config.main_width, ("second stage", "second stage, backbone frozen")
    ways = {counted(bench.most, "stream"): (bench.model(width, bench.most), None)}
    ways |= {name: (bench.model(width), stages(bench)[name]) for name in some}
    return {
        f"{name}: {fewer} kept": bench.train(start, stage=change, then=KeepStreams(fewer))
        for fewer in bench.config.streams[:-1]
        for name, (start, change) in ways.items()
        # A frozen backbone alone is what the first stage ended with.
        if fewer > 1 or not (change and change.freeze)
    }


def all_runs(bench: Bench) -> tuple[Labelled, ...]:
    """Returns the study's runs; `role` says which question each answers.

    The grid of width × streams has one seed at all widths but the main one.
    """
    config, made = bench.config, ()
    for role, arms in (("scratch", scratch_arms), ("staged", staged_arms), ("kept", kept_arms)):
        made += sweep(arms(bench), config.rates, range(config.seeds), role=role)
    for width in config.widths:
        cells = {
            f"width {width}, {counted(p, 'stream')}": bench.train(bench.model(width, p))
            for p in config.streams
        }
        seeds = range(config.seeds if width == config.main_width else 1)
        made += sweep(cells, config.rates, seeds, role="grid")
    return made


def study(config) -> Study:
    """Builds the grid, the arms of equal cost, the second stages, and fewer streams."""
    bench = Bench.of(config)
    return bench.study(report, all_runs(bench))


def report(results: Results) -> list[Block]:
    """Writes the law, the comparisons at equal cost, the stages, and fewer streams."""
    config, every = results.config, unfolded(results.runs)
    found = {role: table.reset_index(drop=True) for role, table in every.groupby("role")}
    most, scratch, staged = (
        counted(max(config.streams), "stream"),
        found["scratch"],
        found["staged"],
    )
    largest = results.runs["params_non_embedding"].max()
    stages = pd.concat([scratch[scratch["arm"].isin([most, "1 stream"])], staged])
    plain = best_rates(scratch).set_index("arm").loc["1 stream", "mean"]
    return [
        Text(
            f"{counted(len(results.runs), 'run')}. {scale(largest, SMALLEST, 'parameters')} Speeds "
            "are those of the day's machine; `make bench` compares them fairly."
        ),
        Text("## The law over widths and streams"),
        *law_blocks(found["grid"]),
        Text(f"## Equal parameters and equal FLOPs, width {config.main_width}"),
        *comparison(scratch, most, prefix="equal_"),
        Picture(
            "flops",
            flops_picture(scratch),
            "Every arm at its best rate over its training FLOPs; dots are seeds.",
        ),
        Text(f"## Streams from scratch and in a second stage of {100 * DECAY:g} % of the tokens"),
        *comparison(stages, most, prefix="stages_"),
        Text(
            "## Fewer streams at evaluation\n\nThe first streams of a trained model, the "
            "aggregation's weights renormalised over them; one kept stream is the backbone without "
            "prefix. Held-out bits per byte; a model trained with one stream from the start has "
            f"{plain:.4f}."
        ),
        kept_table(pd.concat([scratch, staged]), found["kept"], most),
    ]
