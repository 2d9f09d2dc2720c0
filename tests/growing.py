"""A small study that can grow in every way, on the tests' corpus; its report is its run table."""

import itertools

from ml_collections import ConfigDict

from data import Mixture, open_corpus
from experiments.evidence.report import Table, Text
from experiments.evidence.study import Study
from scaling import AdamW, Data, Evaluation, Phase, Quantize, Run, constant, decay, labelled, warmup
from tests.corpora import model

BATCH = 128  # Tokens in a batch: 4 sequences of 32.
DECAY = 4  # Steps of every run's decay, or of what an arm does in its place.
WARMUP = 2


def get_config(name: str = "cpu") -> ConfigDict:
    """Returns the preset; `corpus` is a folder, `steps` are those of the plateaus."""
    return ConfigDict(
        dict(
            preset=name,
            corpus="",
            widths=(16,),
            steps=(8, 16),
            seeds=(0,),
            arms=("plain",),
            evaluation_tokens=128,
        )
    )


def phases(arm: str, steps: int) -> tuple[Phase, ...]:
    """Returns a plateau, and a decay, which `qat` does at four bits."""
    change = Quantize(4) if arm == "qat" else None
    stable = Phase(steps * BATCH, BATCH, warmup(WARMUP * BATCH) if WARMUP else constant())
    return stable, Phase(DECAY * BATCH, BATCH, decay(), change=change)


def study(config: ConfigDict) -> Study:
    """Builds widths × seeds × lengths × arms; all of a width and a seed share a trunk."""
    corpus = open_corpus(config.corpus)
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    runs = [
        labelled(
            Run(
                model=model(width=width, depth=1),
                data=data,
                optimizer=AdamW(learning_rate=0.005, weight_decay=0.01),
                seed=seed,
                phases=phases(arm, steps),
            ),
            arm=arm,
        )
        for width, seed, steps, arm in itertools.product(
            config.widths, config.seeds, config.steps, config.arms
        )
    ]
    evaluation = Evaluation(config.evaluation_tokens)
    return Study("growing", corpus, tuple(runs), evaluation, report, repeat=True)


def report(results) -> list:
    """Shows the runs."""
    shown = results.runs[["arm", "width", "seed", "tokens", "loss"]]
    return [Text(f"{len(shown)} runs."), Table("losses", shown, "Held-out losses.")]


def planned_tokens(config: ConfigDict) -> int:
    """Returns the tokens of the whole study in closed form: trunks once, then every branch."""
    branches = len(config.steps) * len(config.arms) * DECAY
    return BATCH * len(config.widths) * len(config.seeds) * (max(config.steps) + branches)
