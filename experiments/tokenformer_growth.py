"""Does growing a TokenFormer in two steps beat training the large one from scratch?

Command    espalier run --config=experiments/tokenformer_growth.py:cpu
Cost       cpu: 8 CPU-minutes; gpu and published (a plan only): see `espalier plan`
Compared   Wang et al. 2024 (arXiv:2410.23168, table 7, section 4.1): grown from 124M to 1.4B by
           random rows, one tenth of the tokens per stage, perplexity 11.77 on OpenWebText against
           11.63 of a Transformer from scratch at about three times the compute. Zero keys leave
           the loss as it was (section 3.3), if τ is kept. Two thirds of the compute are saved.
Answer     `cpu`, 0.05M parameters: exact growth moves no loss (10⁻⁸ nats/token); as published, with
           optimizer and warmup restarted, it costs 0.16 and 0.15, regained in some 40 steps.
           At equal compute both lie below scratch: as published by 0.09 bits per byte and a fifth
           of the compute, resolved over three seeds; exact by 0.07 and a sixth, not resolved.
           Text is bytes: a head over 4,096 tokens would take 71 % of the FLOPs (bytes: 13 %).
"""

import itertools
from dataclasses import replace

import models
from experiments.evidence import growth
from experiments.evidence.claim import bullets
from experiments.evidence.comparison import comparison
from experiments.evidence.growth import BASELINE, EXACT, GROWN, PUBLISHED, SCRATCH, scratch
from experiments.evidence.report import Block, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import ModelConfig, ParameterTokens
from refused import Refused
from scaling import (
    GrowParameterTokens,
    Labelled,
    Phase,
    constant,
    decay,
    labelled,
    sweep,
    unfolded,
    warmup,
)

# `rows` are the attention's in each stage; the feed-forward has four times as many, as in all
# published models. `baseline` is the Transformer's width, depth, heads and feed-forward width: as
# many non-embedding parameters as the last stage. `steps` are those of each stage, `looks` the
# steps after each growth at which the loss is looked at. `rates` multiply the reference rates of
# growth, from scratch and the baseline, which pilot runs found; larger models want lower ones.
COMMON = dict(
    vocabulary=256,
    tied=False,
    budgets=(0.5, 1.0, 2.0),
    rates=(0.5, 1.0, 2.0),
    seeds=3,
    mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        width=32,
        depth=2,
        heads=2,
        rows=(12, 24, 48),
        steps=(320, 160, 240),
        baseline=(44, 2, 2, 128),
        rates=(0.5, 1.0, 2.0, 4.0),
        rate=0.01,
        scratch_rate=0.01,
        baseline_rate=0.01,
        looks=(10, 20, 40, 80),
        mixture="code=1",
    ),
    "gpu": dict(
        GPU | COMMON,
        width=256,
        depth=4,
        heads=4,
        rows=(192, 384, 768),
        steps=(4000, 2000, 3000),
        baseline=(448, 4, 7, 1744),
        rate=0.0016,
        scratch_rate=0.0008,
        baseline_rate=0.0009,
        looks=(10, 40, 160, 640),
        batch_tokens=16_384,
        warmup_tokens=100 * 16_384,
    ),
    # The paper's growth path (section 4.1, appendix D and the released TPU commands), to be
    # planned, not run: the default corpus's few tokens stand where OpenWebText would.
    "published": dict(
        GPU | COMMON,
        width=768,
        depth=12,
        heads=12,
        rows=(576, 2140, 4850, 8620),
        steps=(600_000, 60_000, 60_000, 60_000),
        baseline=(2048, 24, 16, 5888),
        vocabulary=50_432,
        tied=True,
        rate=6e-4,
        scratch_rate=6e-4,
        baseline_rate=6e-4,
        seeds=1,
        looks=(1000,),
        batch_tokens=524_288,
        context=1024,
        warmup_tokens=2000 * 524_288,
    ),
}
get_config = configured(PRESETS)

LAST = 0.6  # Share of the last stage in which a grown run decays: at `cpu`, also 0.2 of all tokens.

# How rows may be added: key rows and the rule for τ.
KINDS = {
    "zero keys, τ kept": ("zero", None),
    "zero keys, τ = √n": ("zero", "rows"),
    "random keys, τ kept": ("random", None),
    "random keys, τ = √n": ("random", "rows"),
}


def shape(config) -> dict:
    """Returns what all models share; the vocabulary is the configuration's."""
    return {name: config[name] for name in ("vocabulary", "context", "tied", "dtype")}


def tokenformer(config, stage: int) -> ModelConfig:
    """Returns the TokenFormer of a stage, as it is from scratch."""
    rows = config.rows[stage]
    return ModelConfig(
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        attention=ParameterTokens(rows),
        feed_forward=ParameterTokens(4 * rows),
        block_norm="layer_norm",
        **shape(config),
    )


def transformer(config) -> ModelConfig:
    """Returns the ordinary Transformer of the last stage's size."""
    if len(config.baseline) != 4:
        raise Refused("config.baseline", config.baseline, "width, depth, heads, feed-forward width")
    fields = zip(("width", "depth", "heads", "ff_width"), config.baseline, strict=True)
    return ModelConfig(**dict(fields), **shape(config))


def growing(config, stage: int, kind: str) -> GrowParameterTokens:
    """Returns the change to a stage from the one before."""
    rows = config.rows[stage]
    new, tau = KINDS[kind]
    return GrowParameterTokens(rows, 4 * rows, new, tau)


def grown(config, arm: str) -> tuple[Phase, ...]:
    """Returns the phases of growth in steps, the last stage ending in a decay.

    Exact growth keeps rate and optimizer state; growth as published takes random rows, τ = √n of
    the new n, fresh optimizer state and a new warmup.
    """
    batch, fresh = config.batch_tokens, warmup(config.warmup_tokens)
    last = round(config.steps[-1] * LAST)
    steps = [*config.steps[:-1], config.steps[-1] - last]
    rate, keep = (constant(), True) if arm == EXACT else (fresh, False)
    stages = [Phase(steps[0] * batch, batch, fresh)]
    for stage, count in enumerate(steps[1:], start=1):
        change = growing(config, stage, GROWN[arm])
        stages.append(Phase(count * batch, batch, rate, change=change, keep_optimizer=keep))
    return (*stages, Phase(last * batch, batch, decay()))


def compared(setup: Setup) -> tuple[Labelled, ...]:
    """Returns the runs compared: growth, from scratch at several budgets, and a Transformer.

    Budgets are multiples of the training FLOPs of a grown run.
    """
    config = setup.config
    if len(config.rows) != len(config.steps):
        accepted = f"as many as config.steps has stages, {len(config.steps)}"
        raise Refused("config.rows", config.rows, accepted)
    first, final, plain = tokenformer(config, 0), tokenformer(config, -1), transformer(config)
    whole = setup.run(first, config.rate, 0, grown(config, EXACT)).flops()

    def costing(budget: float, model: ModelConfig, peak: float):
        tokens = budget * whole / models.count(model).flops_train
        return setup.arm(model, peak, setup.phases(tokens))

    arms = {scratch(b): costing(b, final, config.scratch_rate) for b in config.budgets}
    for kind in (EXACT, PUBLISHED):
        arms[kind] = setup.arm(first, config.rate, grown(config, kind))
    arms[BASELINE] = costing(1.0, plain, config.baseline_rate)
    return sweep(arms, config.rates, range(config.seeds), role="end")


def looks(setup: Setup) -> tuple[Labelled, ...]:
    """Returns where the loss is looked at: before and right after each growth, and along it.

    All are at the middle rate. `growth` counts the growths so far, `steps` those since the last;
    `kind` names the growth, of which nothing is trained yet: 0 steps.
    """
    config, found = setup.config, []
    first, batch = tokenformer(config, 0), config.batch_tokens
    for arm, seed in itertools.product((EXACT, PUBLISHED), range(config.seeds)):
        phases = grown(config, arm)

        def look(*cut: Phase, arm=arm, seed=seed, **labels) -> None:
            run = setup.run(first, config.rate, seed, cut)
            found.append(labelled(run, role="look", arm=arm, rate=1.0, **labels))

        for stage, phase in enumerate(phases[:-1]):
            before = phases[:stage]
            for kind, (_, tau) in KINDS.items() if stage else ():
                if arm == PUBLISHED and stage > 1 and tau is None:
                    continue  # What it would keep is √n already.
                change = growing(config, stage, kind)
                look(*before, Phase(0, batch, change=change), growth=stage, steps=0, kind=kind)
            for steps in (*(n for n in config.looks if n < phase.steps), phase.steps):
                look(*before, replace(phase, tokens=steps * batch), growth=stage, steps=steps)
    return tuple(found)


def study(config) -> Study:
    """Builds the runs compared and the looks on their way, which cost evaluations only."""
    setup = Setup.of(config)
    return setup.study(report, (*compared(setup), *looks(setup)))


def report(results: Results) -> list[Block]:
    """Writes the comparison, the jumps, and the compute saved."""
    config, every = results.config, unfolded(results.runs)
    ends, seen = (every[every["role"] == role].reset_index(drop=True) for role in ("end", "look"))
    claims, saving = growth.saved(ends, config.budgets)
    head = (
        "Grown runs, `scratch` and the Transformer cost the same training FLOPs. Compute saved "
        "against training from scratch to the same loss, with 90 % intervals over seeds:"
    )
    return [
        Text(bullets({arm: claim.said("%", "+.1f") for arm, claim in claims.items()}, [head])),
        *comparison(ends[ends["arm"].isin((SCRATCH, EXACT, PUBLISHED, BASELINE))], SCRATCH),
        growth.losses(ends),
        saving,
        growth.jumps(seen, config.rows),
        growth.along(config, seen, ends),
    ]
