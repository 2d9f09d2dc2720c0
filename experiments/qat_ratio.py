"""Which share of a run's tokens should be quantisation-aware, at which bits, in which schedule?

Command    espalier run --config=experiments/qat_ratio.py:cpu
           espalier run --config=experiments/qat_ratio.py:gpu --stop-after=480   (again until done)
Cost       cpu: 11 CPU-minutes; gpu: 875 PFLOPs, about an hour and a quarter at a fifth of an
           H200's peak; not run yet, see experiments/results/qat_ratio-gpu/plan.txt
Compared   Dremov et al. 2025 (arXiv:2509.22935; 86M to 2.2B parameters, 2.3B to 1.4T tokens): the
           best share is f* = exp(−6.7297/ln S), S tokens per byte of quantised weights: 10–15 % at
           small to 55 % at large scale. A cooldown inside the quantised phase gains 0.06–1.72 %
           perplexity at 4 and 6 bits, hurts at 1 and in some cells at 2.
Answer     Each cell's best share with an interval, beside the published curve, where the runs
           support one; fusion's gain at equal share over trunks; the law on a size it has not seen
           (`cpu`: median error 1.1 %, Chinchilla and a constant per bits 2.1 %; at a size it has
           seen the nearest share is the better guess). Results: docs/studies.md.
"""

import itertools
from collections.abc import Iterator

import pandas as pd

from experiments.evidence import quantised, quantised_law
from experiments.evidence.claim import counted, scale
from experiments.evidence.law import identified, law_table
from experiments.evidence.report import Block, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from fitting import Observations, fit
from scaling import Labelled, Phase, Quantize, classic, fused, labelled, per_width, unfolded
from scaling.combine import shares

SCHEDULES = {"classic": classic, "fused": fused}

COMMON = dict(
    bits=(1, 2, 4, 6),
    fractions=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        widths=(16, 24, 40),
        tokens=(256_000, 512_000),
        fused_fractions=(0.1, 0.3, 0.5),
        seeds=(2, 2, 2),
        mixture="code=1",
    ),
    "gpu": dict(
        GPU | COMMON,
        widths=(192, 320, 576),
        tokens=(32_768_000, 131_072_000),
        fused_fractions=COMMON["fractions"],
        seeds=(2, 2, 1),
        mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
    ),
}
get_config = configured(PRESETS)

PUBLISHED_PARAMS = 86e6  # The smallest of arXiv:2509.22935.
DECAY = 0.2  # Of the full-precision tokens; Hägele et al. 2024 (arXiv:2405.18392), section 4.


def tried(config, schedule: str) -> tuple[float, ...]:
    """Returns the shares that are trained in a schedule."""
    return config.fractions if schedule == "classic" else config.fused_fractions


def schedules(setup: Setup, tokens: int) -> Iterator[tuple[dict, tuple[Phase, ...]]]:
    """Yields labels and phases of so many tokens: plain, and schedules × shares × bits.

    The arm is the bits; the schedule "plain" is full precision throughout, with share 0.
    """
    config = setup.config
    yield dict(arm="full precision", schedule="plain", fraction=0.0), setup.phases(tokens, DECAY)
    for schedule, build in SCHEDULES.items():
        for fraction, bits in itertools.product(tried(config, schedule), config.bits):
            length = (tokens, config.batch_tokens, config.warmup_tokens)
            labels = dict(arm=f"{bits:g}-bit", schedule=schedule, fraction=fraction)
            yield labels, build(*length, fraction, Quantize(bits))


def trials(setup: Setup) -> tuple[Labelled, ...]:
    """Builds sizes × seeds × token counts × `schedules`.

    First seeds come first: a study that is stopped early has one trunk of every size.
    """
    pairs = per_width(setup.config.widths, setup.config.seeds)
    return tuple(
        labelled(setup.on_ladder(width, seed, phases), **labels, size=width)
        for seed, width in sorted((seed, width) for width, count in pairs for seed in range(count))
        for tokens in setup.config.tokens
        for labels, phases in schedules(setup, tokens)
    )


def study(config) -> Study:
    """Builds the study; all runs of one size and seed grow from one trunk."""
    setup = Setup.of(config)
    return setup.study(report, trials(setup), laws=laws)


def laws(runs: pd.DataFrame) -> list[tuple]:
    """Lists what the report fits with intervals: the quantised law to runs that are not fused."""
    return [(quantised_law.FALLING, "params_total", runs["schedule"] != "fused")]


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
    late = len(config.bits) * sum(qat for some in split.values() for _, qat in some)
    trunks = sum(seeds for _, seeds in per_width(config.widths, config.seeds))
    return trunks * batch * (max(stable) + sum(cooldowns.values()) + late)


def report(results: Results) -> list[Block]:
    """Writes the answer; every figure and table is computed from the run table."""
    every = unfolded(results.runs)
    runs = every[every["diverged_step"].isna()].reset_index(drop=True)
    paired = quantised.penalties(runs)
    classic = runs[runs["schedule"] != "fused"].reset_index(drop=True)
    observations = Observations(classic)
    law = fit(quantised_law.FALLING, observations, params="params_total", draws=200)
    free = fit("qat", observations, params="params_total", point_only=True)
    return [
        Text(saving(results, len(every) - len(runs))),
        *quantised.penalty_blocks(paired, law),
        *quantised.optimum_blocks(paired, law),
        *quantised.fusion_blocks(paired),
        *quantised.memory_blocks(paired, law),
        Text(f"## The law\n\n{quantised_law.sign_text(law, free)} {identified(law)}"),
        Text(quantised_law.tokens_text(paired, law)),
        law_table("law", law),
        *quantised_law.unseen_blocks(classic),
        Text("## Weights as kept"),
        quantised.unquantised(paired),
    ]


def saving(results: Results, diverged: int) -> str:
    """Says what sharing trunks saves, and that it is what the tree's closed form gives."""
    plan, planned = results.plan, planned_tokens(results.config)
    trunks = counted(len({run.trunk for run in plan.runs}), "trunk")
    small = scale(results.runs["params_total"].max(), PUBLISHED_PARAMS, "parameters")
    agrees = "equal to" if plan.tokens == planned else f"**not** equal to ({planned:,})"
    lost = f" {counted(diverged, 'run')} diverged, left out." if diverged else ""
    return (
        f"{small}\n\n{len(plan.runs)} runs in "
        f"{len(plan.segments)} segments on {trunks}: {plan.tokens:,} "
        f"tokens trained, {agrees} the closed form of the tree, instead of {plan.tokens_alone:,} "
        f"apart: a saving of {100 * (1 - plan.tokens / plan.tokens_alone):.1f} %.{lost}"
    )
