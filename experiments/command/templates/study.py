"""Is a gated feed-forward better than a plain one, at equal width?

Command    espalier run --config=example.py:cpu
Cost       cpu: a minute
Answer     The difference in bits per byte, each arm at its own best rate, paired by seed.
"""

from data import Mixture, load
from experiments.evidence.comparison import comparison
from experiments.evidence.report import Block
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import ModelConfig
from models.ladder import learning_rate
from scaling import AdamW, Data, Evaluation, Run, sweep, unfolded, wsd

# What is compared: here the names of feed-forwards. The first one is the baseline.
ARMS = ("swiglu", "gelu")

# A preset is a dict of values, each of which --config.NAME=VALUE changes. CPU and GPU have those
# that most studies share: corpus, batch, context, evaluation.
PRESETS = {
    "cpu": dict(CPU, width=16, rates=(0.5, 1.0, 2.0), seeds=2, tokens=40_960, warmup_tokens=4_096),
    "gpu": dict(GPU, width=256, rates=(0.25, 0.5, 1.0, 2.0), seeds=3, tokens=50_003_968),
}
get_config = configured(PRESETS)


def study(config) -> Study:
    """Builds every arm at every rate with every seed."""
    corpus = load(config.corpus)
    # Warm-up, constant rate, decay: runs that differ in their length alone share the beginning.
    phases = wsd(config.tokens, config.batch_tokens, config.warmup_tokens)

    def arm(feed_forward: str):
        model = ModelConfig(
            vocabulary=corpus.vocabulary,
            width=config.width,
            depth=2,
            heads=2,
            context=config.context,
            feed_forward=feed_forward,
            dtype=config.dtype,
        )

        def run(rate: float, seed: int) -> Run:
            return Run(
                model=model,
                data=Data.of(corpus, Mixture.uniform(corpus.main)),
                # Rates are multiples of the ladder's, which falls with the width.
                optimizer=AdamW.at(rate * learning_rate(config.width)),
                seed=seed,
                phases=phases,
            )

        return run

    return Study(
        name="example",
        corpus=corpus,
        # Labels (arm, rate) become columns of the tables and words in the plan.
        runs=sweep({name: arm(name) for name in ARMS}, config.rates, range(config.seeds)),
        evaluation=Evaluation(config.evaluation_tokens, domains=corpus.main),
        report=report,
        repeat=config.repeat,
    )


def report(results: Results) -> list[Block]:
    """Compares the arms, best rate with best rate."""
    return comparison(unfolded(results.runs), ARMS[0])
