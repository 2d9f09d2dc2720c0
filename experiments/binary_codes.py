"""Does a language model need a trained input table, or do fixed binary token codes do?

Command    espalier run --config=experiments/binary_codes.py:cpu
Cost       cpu: 11 CPU-minutes; gpu: about an hour on one accelerator; published: a plan alone, of
           27 models of half a billion parameters on 17B tokens each
Compared   Bochkov 2026 (arXiv:2605.09751): 32 layers, width 1024, V = 65,536, 17B tokens, 3 seeds;
           held-out perplexity per token 2.44 with a learned table, 2.36 with codes, 2.39 with
           affine-recoded codes, where seeds differ by 4.8 %: the table is not necessary.
Answer     An interval, over seeds, of each arm's bits per byte less the learned table's, best rate
           with best rate; one above zero counts against the claim at this size. `cpu`, 50 views of
           a token: every arm is worse, frozen random by 0.06, ±1 codes by 0.21, {0, 1} by 0.22,
           recoded by 0.33 (by 0.10 [0.01, 0.19] than plain ones), ±0.02 by 0.43. A frozen table
           of full rank loses little, so rank 12 may cost more than not being trained: not tested.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.evidence.claim import Claim, counted, listed, rows
from experiments.evidence.comparison import against, comparison
from experiments.evidence.report import Block, Table, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import ModelConfig, skeleton
from models.codes import Codes
from models.embeddings import Learned
from models.ladder import learning_rate
from refused import Refused
from scaling import Labelled, sweep, unfolded
from scaling.state import trainable

BASELINE = "learned"
# A learned table starts at a root mean square of 1, as ±1 codes have it ({0, 1} codes: 0.71);
# tables elsewhere often start at 0.02 (Radford et al. 2019, GPT-2), which two more arms have.
SMALL = 0.02

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

COMMON = dict(
    arms=tuple(ARMS),
    feed_forward="swiglu",
    rates=(0.25, 0.5, 1.0, 2.0),
    seeds=3,
    corpus="wheels-bpe4096",
    repeat=False,
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        width=48,
        depth=2,
        heads=2,
        tokens=204_800,
        batch_tokens=512,
        warmup_tokens=25 * 512,
        evaluation_tokens=16_384,
    ),
    "gpu": dict(
        GPU | COMMON,
        width=384,
        depth=6,
        heads=6,
        seeds=5,
        tokens=32_768_000,
        evaluation_tokens=131_072,
    ),
    "published": dict(
        GPU | COMMON,
        arms=(BASELINE, "codes 0/1", "recoded 0/1"),
        width=1024,
        depth=32,
        heads=32,
        feed_forward="gelu",
        rates=(0.5, 1.0, 2.0),
        tokens=32_400 * 524_288,  # The paper's 17B; its batch and rate are not stated.
        batch_tokens=524_288,
        context=1024,
        warmup_tokens=500 * 524_288,
        evaluation_tokens=114_688,
        corpus="wheels-bpe65536",
        repeat=True,
    ),
}
get_config = configured(PRESETS)

# Perplexity per token over that of the learned table (abstract of arXiv:2605.09751).
PUBLISHED = {"codes 0/1": 2.36 / 2.44, "recoded 0/1": 2.39 / 2.44}


def model(setup: Setup, arm: str, seed: int) -> ModelConfig:
    """Returns an arm's model."""
    names = ("width", "depth", "heads", "feed_forward")
    shape = {name: setup.config[name] for name in names}
    return ModelConfig(**setup.shape, **shape, **ARMS[arm](seed))


def attempts(setup: Setup) -> tuple[Labelled, ...]:
    """Returns arms × rates × seeds; rates are multiples of the ladder's."""
    config, peak, phases = setup.config, learning_rate(setup.config.width), setup.phases()
    for arm in (BASELINE, *config.arms):
        if arm not in config.arms or arm not in ARMS:
            raise Refused("config.arms", config.arms, f"{BASELINE} and any of {', '.join(ARMS)}")

    def build(arm: str) -> Callable:
        return lambda rate, seed: setup.arm(model(setup, arm, seed), peak, phases)(rate, seed)

    return sweep({arm: build(arm) for arm in config.arms}, config.rates, range(config.seeds))


def study(config) -> Study:
    """Builds the runs."""
    setup = Setup.of(config)
    return setup.study(report, attempts(setup))


def report(results: Results) -> list[Block]:
    """Writes the verdicts, what enters each arm's first layer, and the paper's ratios."""
    config, corpus = results.config, results.corpus
    table = unfolded(results.runs)
    bits = Codes().length(corpus.vocabulary)
    intro = (
        f"One Transformer (width {config.width}, {counted(config.depth, 'layer')}) on "
        f"{corpus.name}, with V = {corpus.vocabulary:,} and so {bits} bits a token, "
        f"{config.width / bits:g} copies of each over the width; {config.tokens:,} training "
        f"tokens, seeds {listed(range(config.seeds))}. A token is seen "
        f"{config.tokens / corpus.vocabulary:,.0f} times on average (about 260,000 in the paper): "
        "what is found here holds for training that short. The head is trained and not tied in "
        "every arm. Losses per token are comparable, as all arms read the same tokens."
    )
    return [
        Text(intro),
        *comparison(table, BASELINE),
        Table(
            "inputs", inputs(Setup(config, corpus)), "What enters the first layer before training."
        ),
        Table(
            "perplexity",
            perplexity(table),
            "Held-out perplexity per token over that of the learned table, best with best, with a "
            "90 % interval over seeds, and the paper's ratio.",
        ),
    ]


def inputs(setup: Setup) -> pd.DataFrame:
    """Returns each arm's input parameters, and the scale and the rank of what it gives all tokens.

    `RMS` is per coordinate; `cosine` is the mean over pairs of tokens.
    """
    told = []
    for arm in setup.config.arms:
        chosen = model(setup, arm, 0)
        bones = skeleton(chosen)
        mine = [path for path in bones.params if path.startswith("embedding.")]
        embedding = bones.merge(*bones.initialise(0)).embedding
        given = np.asarray(embedding(jnp.arange(chosen.vocabulary)[None], jnp.dtype("float32"))[0])
        lengths = np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
        unit = given / np.maximum(lengths, 1e-30)
        # The sum over pairs is the squared sum of all, less each with itself.
        alone, tokens = np.sum(unit**2), len(unit)
        row = {"arm": arm, "input parameters": sum(bones.params[path].size for path in mine)}
        row["trained"] = "yes" if set(mine) & set(trainable(chosen)) else "no"
        row |= {"RMS": float(np.sqrt(np.mean(given**2))), "rank": np.linalg.matrix_rank(given)}
        row["cosine"] = (np.sum(unit.sum(axis=0) ** 2) - alone) / (tokens * (tokens - 1))
        told.append(row)
    return pd.DataFrame(told)


def perplexity(table: pd.DataFrame) -> pd.DataFrame:
    """Returns ratios of perplexity to the baseline's, paired by seed, beside the paper's."""
    ratios = {
        arm: Claim(*np.exp([claim.value, claim.low, claim.high]), claim.count, than=1.0)
        for arm, claim in against(table, BASELINE, "loss").items()
    }
    found = rows(ratios, "arm", "perplexity ratio")
    return found.assign(paper=found["arm"].map(PUBLISHED))
