"""Does a language model need a trained input table, or do fixed binary token codes do?

Command    espalier run --config=experiments/binary_codes.py:cpu
Cost       cpu: 11 CPU-minutes; gpu: about an hour on one accelerator; published: the paper's size
           as a plan alone (`espalier plan`): 27 models of half a billion parameters on 17B tokens
           each, for which the default corpus is far too small
Compared   Bochkov 2026 (arXiv:2605.09751): 32 layers, width 1024, V = 65,536, 17B tokens, 3 seeds;
           held-out perplexity per token 2.44 with a learned table, 2.36 with codes, 2.39 with
           affine-recoded codes, where seeds differ by 4.8 %. The paper's tokenizer is close to
           characters; its claim is that the table is not necessary, not that codes are better.
Answer     An interval, over seeds, of each arm's bits per byte less the learned table's, each arm
           at its own best learning rate: below zero, above zero, or not resolved. An arm of larger
           loss whose interval excludes zero counts against the claim at this size.
Found      cpu, after 50 views of a token: every arm is worse than the learned table, in bits per
           byte: frozen random by 0.06, ±1 codes by 0.21, {0, 1} by 0.22, recoded by 0.32, ±0.02 by
           0.43. Recoded codes are worse than plain ones by 0.10 [0.01, 0.19], the least certain of
           these. That a frozen table of full rank loses so little suggests that rank 12 costs more
           than not being trained; that BPE numbers tokens by frequency may be what recoding takes
           away. Neither cause is tested here. The rates were chosen on the same three seeds.

The scale of the inputs is part of the comparison: a learned table starts here at a root mean square
of 1, as ±1 codes have it ({0, 1} codes: 0.71). Tables elsewhere often start at 0.02; two more arms
have that scale.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pandas as pd

from data import Corpus, Mixture, load
from experiments.evidence.comparison import comparison, differences
from experiments.evidence.report import Table, Text
from experiments.evidence.study import Results, Study, preset
from models import ModelConfig, skeleton
from models.codes import Codes
from models.embeddings import Learned
from models.ladder import learning_rate
from refused import Refused
from scaling import AdamW, Data, Evaluation, Labelled, Run, sweep, unfolded, wsd
from scaling.state import trainable

BASELINE = "learned"
SMALL = 0.02  # Radford et al. 2019 (GPT-2) and most since: standard deviation of a new table.

# What an arm changes in the model, by run seed. Recoding is drawn anew with each seed, so that the
# verdict is about random recodings and not about one of them.
ARMS: dict[str, Callable[[int], dict]] = {
    BASELINE: lambda seed: {},
    "frozen random": lambda seed: dict(frozen=("embedding.*",)),
    "codes 0/1": lambda seed: dict(embedding=Codes()),
    "codes ±1": lambda seed: dict(embedding=Codes(signed=True)),
    "recoded 0/1": lambda seed: dict(embedding=Codes(recode_seed=seed)),
    f"learned, std {SMALL}": lambda seed: dict(embedding=Learned(SMALL)),
    f"codes ±{SMALL}": lambda seed: dict(embedding=Codes(signed=True, scale=SMALL)),
}

PRESETS = {
    "cpu": dict(
        arms=tuple(ARMS),
        width=48,
        depth=2,
        heads=2,
        feed_forward="swiglu",
        rates=(0.25, 0.5, 1.0, 2.0),
        seeds=3,
        tokens=204_800,
        batch_tokens=512,
        context=64,
        warmup_tokens=25 * 512,
        evaluation_tokens=16_384,
        corpus="wheels-bpe4096",
        dtype="float32",
        repeat=False,
    ),
    "gpu": dict(
        arms=tuple(ARMS),
        width=384,
        depth=6,
        heads=6,
        feed_forward="swiglu",
        rates=(0.25, 0.5, 1.0, 2.0),
        seeds=5,
        tokens=32_768_000,
        batch_tokens=32_768,
        context=256,
        warmup_tokens=50 * 32_768,
        evaluation_tokens=131_072,
        corpus="wheels-bpe4096",
        dtype="bfloat16",
        repeat=False,
    ),
    "published": dict(
        arms=(BASELINE, "codes 0/1", "recoded 0/1"),
        width=1024,
        depth=32,
        heads=32,
        feed_forward="gelu",
        rates=(0.5, 1.0, 2.0),
        seeds=3,
        tokens=32_400 * 524_288,  # The paper's 17B; its batch and rate are not stated.
        batch_tokens=524_288,
        context=1024,
        warmup_tokens=500 * 524_288,
        evaluation_tokens=114_688,
        corpus="wheels-bpe65536",
        dtype="bfloat16",
        repeat=True,
    ),
}

# Perplexity per token over that of the learned table (abstract of arXiv:2605.09751).
PUBLISHED = {"codes 0/1": 2.36 / 2.44, "recoded 0/1": 2.39 / 2.44}


def get_config(name: str = "cpu"):
    """Returns a preset's configuration."""
    return preset(name, PRESETS)


def model(config, corpus: Corpus, arm: str, seed: int) -> ModelConfig:
    """Returns an arm's model."""
    return ModelConfig(
        vocabulary=corpus.vocabulary,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        feed_forward=config.feed_forward,
        context=config.context,
        dtype=config.dtype,
        **ARMS[arm](seed),
    )


def attempts(config, corpus: Corpus) -> tuple[Labelled, ...]:
    """Returns arms × rates × seeds; rates are multiples of the ladder's."""
    for arm in (BASELINE, *config.arms):
        if arm not in config.arms or arm not in ARMS:
            raise Refused("config.arms", config.arms, f"{BASELINE} and any of {', '.join(ARMS)}")
    data = Data.of(corpus, Mixture.uniform(corpus.main))
    reference = learning_rate(config.width)
    phases = wsd(config.tokens, config.batch_tokens, config.warmup_tokens)

    def build(arm: str) -> Callable[[float, int], Run]:
        def run(rate: float, seed: int) -> Run:
            optimizer = AdamW.at(float(f"{rate * reference:.3g}"))
            return Run(model(config, corpus, arm, seed), data, optimizer, seed, phases)

        return run

    return sweep({arm: build(arm) for arm in config.arms}, config.rates, range(config.seeds))


def study(config) -> Study:
    """Builds the runs."""
    corpus = load(config.corpus)
    return Study(
        name="binary_codes",
        corpus=corpus,
        runs=attempts(config, corpus),
        evaluation=Evaluation(config.evaluation_tokens, domains=corpus.main),
        report=report,
        repeat=config.repeat,
        published={
            f"perplexity of {arm} over learned": f"{ratio:.3f} (arXiv:2605.09751, abstract)"
            for arm, ratio in PUBLISHED.items()
        },
    )


def report(results: Results) -> list:
    """Writes the verdicts, what enters each arm's first layer, and the paper's ratios."""
    config, corpus = results.config, results.corpus
    table = unfolded(results.runs)
    bits = Codes().length(corpus.vocabulary)
    copies = config.width / bits
    seeds = ", ".join(map(str, range(config.seeds)))
    intro = (
        f"One Transformer (width {config.width}, {config.depth} layers) on {corpus.name}, with "
        f"V = {corpus.vocabulary:,} and so {bits} bits a token, {copies:g} copies of each over the "
        f"width; {config.tokens:,} training tokens, seeds {seeds}. "
        f"A token is seen {config.tokens / corpus.vocabulary:,.0f} times on average (about 260,000 "
        "in the paper): what is found here holds for training that short. The head is trained and "
        "not tied in every arm. Losses per token are comparable, as all arms read the same tokens."
    )
    return [
        Text(intro),
        *comparison(table, BASELINE),
        Table("inputs", inputs(config, corpus), "What enters the first layer before training."),
        Table(
            "perplexity",
            perplexity(table),
            "Held-out perplexity per token over that of the learned table, best with best, with a "
            "90 % interval over seeds, and the paper's ratio.",
        ),
    ]


def inputs(config, corpus: Corpus) -> pd.DataFrame:
    """Returns each arm's input parameters, and the scale and the rank of what it gives all tokens.

    `RMS` is per coordinate; `cosine` is the mean over pairs of tokens.
    """
    rows = []
    for arm in config.arms:
        chosen = model(config, corpus, arm, 0)
        bones = skeleton(chosen)
        mine = [path for path in bones.params if path.startswith("embedding.")]
        embedding = bones.merge(*bones.initialise(0)).embedding
        given = np.asarray(embedding(jnp.arange(corpus.vocabulary)[None], jnp.dtype("float32"))[0])
        lengths = np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
        unit = given / np.maximum(lengths, 1e-30)
        # The sum over pairs is the squared sum of all, less each with itself.
        alone, tokens = np.sum(unit**2), len(unit)
        cosine = (np.sum(unit.sum(axis=0) ** 2) - alone) / (tokens * (tokens - 1))
        rows.append(
            {
                "arm": arm,
                "input parameters": sum(bones.params[path].size for path in mine),
                "trained": "yes" if set(mine) & set(trainable(chosen)) else "no",
                "RMS": float(np.sqrt(np.mean(given**2))),
                "rank": int(np.linalg.matrix_rank(given)),
                "cosine": float(cosine),
            }
        )
    return pd.DataFrame(rows)


def perplexity(table: pd.DataFrame) -> pd.DataFrame:
    """Returns ratios of perplexity to the baseline's, paired by seed, beside the paper's."""
    paired = differences(table, BASELINE, "loss")
    ratios = np.exp(paired[["difference", "low", "high"]])
    ratios.columns = ["perplexity ratio", "90 % low", "90 % high"]
    published = paired["arm"].map(PUBLISHED)
    return pd.concat([paired["arm"], ratios, published.rename("paper")], axis=1)
