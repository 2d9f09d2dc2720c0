"""Small corpora and studies that several tests share."""

from pathlib import Path

import numpy as np

from data import Corpus, Mixture, write_corpus
from data.corpus import Document, text_document
from models import ModelConfig, ParameterTokens, Streams
from scaling import (
    AdamW,
    AddStreams,
    ContextLength,
    Data,
    Freeze,
    GrowParameterTokens,
    KeepStreams,
    Optimizer,
    Phase,
    Quantize,
    Rate,
    Recipe,
    Run,
    constant,
    decay,
    product,
    warmup,
    wsd,
)

STEP = 256  # Tokens in a batch of the test studies.


def small_corpus(folder: Path, tokens: int = 60_000) -> Corpus:
    """Builds three domains of bytes that differ in their alphabet, in documents of 900 bytes."""

    def documents(seed: int, low: int, count: int) -> list[Document]:
        rng = np.random.default_rng(seed)
        walk = np.cumsum(rng.integers(-2, 3, (count, 900)), axis=1) % 24 + low
        return [text_document(bytes(row.astype(np.uint8))) for row in walk]

    domains = {
        name: {
            "train": documents(index, 40 + 24 * index, tokens // 900),
            "held_out": documents(100 + index, 40 + 24 * index, 6),
        }
        for index, name in enumerate(("low", "middle", "high"))
    }
    return write_corpus(
        folder / "small",
        name="small",
        vocabulary=256,
        separator=0,
        tokenizer="bytes",
        domains=domains,
    )


def model(**fields) -> ModelConfig:
    """Returns the smallest model that is still a real one."""
    return ModelConfig(**{"width": 16, "depth": 2, "heads": 2, "context": 32} | fields)


def recipe(config: ModelConfig, optimizer: Optimizer | None = None, **fields) -> Recipe:
    """Returns the recipe of a model, by default with AdamW at some rate."""
    return Recipe(model=config, optimizer=optimizer or AdamW(learning_rate=0.01), **fields)


def tokenformer(**fields) -> ModelConfig:
    """Returns the smallest TokenFormer."""
    tokens = dict(attention=ParameterTokens(12), feed_forward=ParameterTokens(32))
    return model(**tokens | dict(block_norm="layer_norm") | fields)


def study_runs(kind: str, corpus: Corpus) -> list[Run]:
    """Builds one of the kinds of study that must be exact: runs that share a trunk.

    Models have one layer: what is exact here is the way through the tree, not a part.
    """
    uniform = Mixture.uniform(corpus.names)
    data = Data.of(corpus, uniform)
    start = dict(data=data, optimizer=AdamW(learning_rate=0.01, weight_decay=0.01), seed=3)
    other = Mixture.of({"low": 0.1, "high": 0.9})
    trunk = Phase(20 * STEP, STEP, warmup(5 * STEP))
    shapes = {
        "wsd": [wsd(n * STEP, STEP, 5 * STEP) for n in (15, 30, 60)],
        "mixture": [
            (trunk, Phase(10 * STEP, STEP, constant(), mixture), Phase(5 * STEP, STEP, decay()))
            for mixture in (None, other)
        ],
        "frozen": [
            (trunk, Phase(n * STEP, STEP, decay("cosine"), change=change))
            for n in (6, 12)
            for change in (ContextLength(64), Freeze("layers.0.*"))
        ]
        + [
            (
                trunk,
                Phase(6 * STEP, STEP, constant(), change=Freeze("embedding.*")),
                Phase(6 * STEP, STEP, decay("linear"), change=ContextLength(64)),
            )
        ],
        "ramp": [
            (trunk, Phase(10 * 2 * STEP, 2 * STEP), Phase(n * 4 * STEP, 4 * STEP, decay()))
            for n in (3, 6)
        ],
        "streams": [
            (
                trunk,
                Phase(10 * STEP, STEP, warmup(2 * STEP), change=AddStreams(streams, freeze)),
                Phase(n * STEP, STEP, rate, change=change),
            )
            for streams, freeze, n, rate, change in (
                (Streams(3, prefix=4), False, 6, decay(), None),
                (Streams(3, prefix=4), False, 1, constant(0.0), KeepStreams(2)),
                (Streams(2, prefix=4, neutral=True), True, 6, decay(), None),
            )
        ],
        "grown": [
            (trunk, Phase(0, STEP, change=GrowParameterTokens(20, 48))),
            (trunk, Phase(6 * STEP, STEP, decay(), change=GrowParameterTokens(20, 48))),
            (
                trunk,
                Phase(6 * STEP, STEP, constant(), change=GrowParameterTokens(20, 48)),
                Phase(
                    6 * STEP,
                    STEP,
                    warmup(2 * STEP),
                    change=GrowParameterTokens(32, 96, "random", "rows"),
                    keep_optimizer=False,
                ),
            ),
        ],
        "quantize": [
            (
                trunk,
                Phase(
                    4 * STEP, STEP, Rate(start=0.0, stop=1.0, over=4 * STEP), change=Quantize(bits)
                ),
                Phase(8 * STEP, STEP, decay("cosine")),
            )
            for bits in (1, 4)
        ]
        + [
            (
                trunk,
                Phase(9 * STEP, STEP, decay(), change=Quantize(2), keep_optimizer=False),
            )
        ],
    }
    base = tokenformer(depth=1) if kind == "grown" else model(depth=1)
    return [Run(model=base, phases=tuple(phases), **start) for phases in shapes[kind]]


KINDS = ("wsd", "mixture", "frozen", "ramp", "streams", "grown", "quantize")


def seeds(runs: list[Run], count: int) -> list[Run]:
    """Repeats runs with other seeds."""
    from dataclasses import replace

    return [replace(p["run"], seed=p["seed"]) for p in product(run=runs, seed=range(count))]
