"""Which share of a run's tokens should be quantisation-aware, at which bits, in which schedule?

Command    espalier run --config=experiments/qat_ratio.py:cpu
           espalier run --config=experiments/qat_ratio.py:gpu --stop-after=480   (again until done)
Cost       cpu: 11 CPU-minutes (912 segments, 57,882,624 tokens instead of 170,496,000 apart);
           gpu: 875 PFLOPs, about an hour and a quarter at a fifth of an H200's peak; not run yet,
           its plan is experiments/results/qat_ratio-gpu/plan.txt
Compared   Dremov et al. 2025 (arXiv:2509.22935; 86M to 2.2B parameters, 2.3B to 1.4T tokens): the
           best share is f* = exp(−6.7297/ln S) with S = tokens per byte of quantised weights, from
           10–15 % at small to 55 % at large scale; letting the cooldown happen inside the
           quantised phase gains 0.06–1.72 % perplexity at 4 and 6 bits and hurts at 1 bit and in
           some cells at 2. The coefficients of its loss law are not public.
Answer     At 15k to 60k parameters and 256k to 512k tokens: penalties are U-shaped in the share,
           and the best share is larger at fewer bits (0.31–0.43 at 1 bit, 0.14–0.16 at 4). 9 of
           24 cells support an interval: the published curve lies inside 4 and below 5, four of
           them at 1 bit. Fusion gains 1.7–2.0 % perplexity at all bits, 1 and 2 included, where
           the paper finds harm. The law predicts a size it has not seen within 1.0 % (median)
           against 1.7 % for Chinchilla and a constant per bits; at a size it has seen the nearest
           share is the better guess. The sign of its xi is not settled: neither sign gives both
           penalties that grow with the tokens and a best share inside the trained ones.
"""

from data import Mixture, load
from experiments.evidence.qat_report import report
from experiments.evidence.study import Study, preset
from models import ladder
from scaling import (
    Data,
    Evaluation,
    Labelled,
    Quantize,
    Run,
    classic,
    fused,
    labelled,
    per_width,
    product,
    wsd,
)
from scaling.combine import shares

SCHEDULES = {"classic": classic, "fused": fused}

PRESETS = {
    "cpu": dict(
        widths=(16, 24, 40),
        tokens=(256_000, 512_000),
        bits=(1, 2, 4, 6),
        fractions=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
        fused_fractions=(0.1, 0.3, 0.5),
        seeds=(2, 2, 2),
        batch_tokens=1024,
        context=64,
        warmup_tokens=25 * 1024,
        evaluation_tokens=32_768,
        corpus="wheels",
        mixture="code=1",
        dtype="float32",
        repeat=False,
    ),
    "gpu": dict(
        widths=(192, 320, 576),
        tokens=(32_768_000, 131_072_000),
        bits=(1, 2, 4, 6),
        fractions=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
        fused_fractions=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
        seeds=(2, 2, 1),
        batch_tokens=32_768,
        context=256,
        warmup_tokens=50 * 32_768,
        evaluation_tokens=262_144,
        corpus="wheels",
        mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
        dtype="bfloat16",
        repeat=True,
    ),
}

DECAY = 0.2  # Of the full-precision tokens; Hägele et al. 2024 (arXiv:2405.18392), section 4.


def get_config(name: str = "cpu"):
    """Returns a preset's configuration."""
    return preset(name, PRESETS)


def tried(config, schedule: str) -> tuple[float, ...]:
    """Returns the shares that are trained in a schedule."""
    return config.fractions if schedule == "classic" else config.fused_fractions


def trials(config, corpus) -> tuple[Labelled, ...]:
    """Builds sizes × seeds × token counts × (plain, or schedules × shares × bits).

    The arm is the bits; the schedule "plain" is full precision throughout, with share 0.
    """
    data = Data.of(corpus, Mixture.parse(config.mixture))
    found = []
    shape = dict(vocabulary=corpus.vocabulary, context=config.context, dtype=config.dtype)
    # First seeds first: a study that is stopped early has one trunk of every size.
    pairs = per_width(config.widths, config.seeds)
    for seed, width in sorted((seed, width) for width, count in pairs for seed in range(count)):
        rung = ladder(width, config.tokens, **shape)
        for tokens in config.tokens:
            length = (tokens, config.batch_tokens, config.warmup_tokens)
            plain = Run.of(rung, data, seed, wsd(*length, DECAY))
            labels = dict(arm="full precision", schedule="plain", fraction=0.0, size=width)
            found.append(labelled(plain, **labels))
            for schedule, build in SCHEDULES.items():
                for point in product(fraction=tried(config, schedule), bits=config.bits):
                    fraction, bits = point["fraction"], point["bits"]
                    run = Run.of(rung, data, seed, build(*length, fraction, Quantize(bits)))
                    labels |= dict(arm=f"{bits:g}-bit", schedule=schedule, fraction=fraction)
                    found.append(labelled(run, **labels))
    return tuple(found)


def study(config) -> Study:
    """Builds the study; all runs of one size and seed grow from one trunk."""
    corpus = load(config.corpus)
    mixture = Mixture.parse(config.mixture)
    return Study(
        name="qat_ratio",
        corpus=corpus,
        runs=trials(config, corpus),
        evaluation=Evaluation(config.evaluation_tokens, domains=mixture.names),
        report=lambda results: report(results, planned_tokens(config)),
        repeat=config.repeat,
        published={
            "fraction": "exp(−6.7297/ln S) (Dremov et al. 2025, arXiv:2509.22935)",
            "fusion": "0.06–1.72 % perplexity gained at 4 and 6 bits, lost at 1 (same paper)",
        },
    )


def planned_tokens(config) -> int:
    """Returns the tokens that the study's tree takes, in closed form.

    Each trunk has a plateau up to the last switch; a cooldown for every length that full precision
    has anywhere, whatever the bits (a run of twice the tokens and half of them quantised shares
    that of the plain run); and a quantised phase for every run.
    """
    batch = config.batch_tokens
    split = {
        schedule: [shares(t, batch, f) for t in config.tokens for f in tried(config, schedule)]
        for schedule in SCHEDULES
    }
    plain = {fp for fp, _ in split["classic"]} | {round(t / batch) for t in config.tokens}
    cooldowns = {fp: round(fp * DECAY) for fp in plain}
    stable = [fp for fp, _ in split["fused"]] + [fp - c for fp, c in cooldowns.items()]
    quantised = len(config.bits) * sum(qat for some in split.values() for _, qat in some)
    trunks = sum(seeds for _, seeds in per_width(config.widths, config.seeds))
    return trunks * batch * (max(stable) + sum(cooldowns.values()) + quantised)
