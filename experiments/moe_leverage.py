"""How much dense compute is a mixture of experts worth, by activation ratio and granularity?

Command    espalier run --config=experiments/moe_leverage.py:cpu
Cost       cpu: 13 CPU-minutes; gpu: 2e18 FLOPs, about four hours on one accelerator (estimated,
           not run); published: see `espalier plan` (needs a corpus, --config.corpus=NAME)
Compared   Tian et al. 2025 (arXiv:2507.17702, eq. 8, table 2): leverage EL = C_dense/C_moe at equal
           loss is Â^(a + d·log10 C + γ(log2 G)² + β·log2 G), Â = A + 0.0163, with a = 1.23,
           d = −0.0761, γ = 0.0167, β = −0.117, fitted on 1e18–6e20 FLOPs: more leverage with
           fewer active experts and more compute, most at G near 11; EL < 1 below 7e14 (G = 2).
Answer     `cpu`, 1.5e10–1.9e11 FLOPs: EL is 0.9–1.1 at the lowest compute, where no interval leaves
           out 1, and 1.4–2.3 at the highest, all six above 1; the published law gives 0.45–0.88 and
           rises slower. Fewer active experts help down to A = 0.18; 0.09, whose training drops an
           eighth of the assignments, is not told apart from it, nor are G of 2 to 8. One or two
           seeds; efficient runs are mostly the longest of their width, so longer ladders may move
           both sides. Evaluation drops no tokens; when it did, as training does, held-out loss
           was higher by 0.002 (A = 0.33) to 0.007 (A = 0.09) on average and by 0.015 at most, and
           EL at the highest compute was 1.5–2.2 in place of 1.6–2.3.
"""

import itertools

import numpy as np
import pandas as pd

from experiments.evidence.claim import counted
from experiments.evidence.comparison import best_rates
from experiments.evidence.leverage import DENSE, leverage_blocks
from experiments.evidence.report import Block, Table, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import Experts, ModelConfig
from models.accounting import leverage_flops
from models.ladder import learning_rate
from refused import Refused
from scaling import Labelled, Run, labelled, per_width, unfolded, wsd

# Every arm has the same FLOPs per token as the dense one in the published convention: k + E_s
# experts of 2·width/G make up the dense feed-forward of 3·width. `experts` are the arms over A at
# G = 2; `granularities` the arms over G at the activation ratio of `fine_experts`.
COMMON = dict(
    experts=(4, 8, 16, 32),
    granularities=(2, 4, 8),
    fine_experts=16,
    sweep_rates=(0.5, 1.0, 2.0),
    rates=(1.0, 1.0),  # × the ladder's, for dense and mixture: from the study's own sweep.
    mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        widths=(16, 24, 32),
        tokens=(256_000, 512_000, 1_024_000),
        seeds=(2, 1, 1),
        sweep_width=32,
        sweep_tokens=512_000,
        sweep_seeds=1,
        evaluation_tokens=16_384,
    ),
    "gpu": dict(
        GPU | COMMON,
        widths=(256, 512, 1024),
        tokens=(32_768_000, 65_536_000, 131_072_000),
        seeds=(2, 2, 1),
        sweep_width=256,
        sweep_tokens=65_536_000,
        sweep_seeds=2,
        batch_tokens=65_536,
        context=1024,
        warmup_tokens=50 * 65_536,
    ),
    # The published ladder (table 7) and its arms (section 5.1); tokens, rates and batches are the
    # table's, so `tokens`, `rates` and `batch_tokens` are not read. Batches are rounded to 16
    # sequences, which meshes of up to 16 devices divide.
    "published": dict(
        GPU | COMMON,
        experts=(4, 8, 16, 32, 64, 128, 256),
        granularities=(2, 4, 8, 16),  # Its 6 and 12 do not divide twice every width.
        fine_experts=64,
        widths=(384, 512, 640, 768, 1024, 1280),
        tokens=(),
        seeds=(1, 1, 1, 1, 1, 1),
        sweep_width=0,
        sweep_tokens=0,
        sweep_seeds=0,
        batch_tokens=0,
        context=4096,
        warmup_tokens=0,
        evaluation_tokens=1_048_576,
        corpus="",
        vocabulary=126_464,  # Of Ling-lite.
        mixture="code=1",
    ),
}
get_config = configured(PRESETS)

# Width: layers, heads, key/value heads, learning rate, sequences in a batch, training FLOPs.
TABLE_7 = {
    384: (8, 8, 2, 1.52e-3, 98, 2e18),
    512: (8, 8, 2, 1.31e-3, 147, 6e18),
    640: (10, 10, 2, 1.11e-3, 228, 2e19),
    768: (14, 12, 4, 9.5e-4, 342, 6e19),
    1024: (16, 16, 4, 8.1e-4, 531, 2e20),
    1280: (22, 20, 4, 7.0e-4, 795, 6e20),
}
ACTIVE, SHARED = 2, 1  # At G = 2; both grow with G.


def experts_at(routed: int, granularity: int) -> Experts:
    """Returns the mixture of an activation ratio (that of `routed` at G = 2) and a granularity."""
    if granularity < 2 or granularity % 2:
        raise Refused("config.granularities", granularity, "2 or a multiple of it")
    finer = granularity // 2
    return Experts(routed * finer, ACTIVE * finer, SHARED * finer, granularity=float(granularity))


def arms(config) -> dict[str, Experts | None]:
    """Returns every arm by name: dense, then over A at G = 2, then over G at one A."""
    if config.fine_experts not in config.experts:
        raise Refused("config.fine_experts", config.fine_experts, f"one of {config.experts}")
    some = [experts_at(routed, 2) for routed in config.experts]
    some += [experts_at(config.fine_experts, g) for g in config.granularities if g != 2]
    return {DENSE: None} | {
        f"A {e.activation_ratio:.3f}, G {e.granularity:g}": e for e in dict.fromkeys(some)
    }


def model(setup: Setup, width: int, experts: Experts | None) -> ModelConfig:
    """Returns an arm's model of a width; the dense one has the feed-forward that is active."""
    shape = {"ff_width": (ACTIVE + SHARED) * width}
    if setup.config.preset == "published":
        shape |= zip(("depth", "heads", "kv_heads"), TABLE_7[width][:3], strict=True)
    # The tokens decide on a batch, which is not the ladder's here.
    return setup.rung(width, 10**6, **shape | ({"feed_forward": experts} if experts else {})).model


def lengths(config, width: int, model: ModelConfig) -> tuple[int, tuple[int, ...], int]:
    """Returns a width's batch in tokens, its token counts and its warm-up in tokens."""
    if config.preset != "published":
        return config.batch_tokens, config.tokens, config.warmup_tokens
    sequences, flops = TABLE_7[width][4:]
    batch = 16 * round(sequences / 16) * config.context
    steps = round(flops / leverage_flops(model) / batch)
    return batch, (steps * batch,), round(0.01 * steps) * batch


def run_of(setup: Setup, arm: str, width: int, tokens: int | None, rate: float, seed: int) -> Run:
    """Builds one run; `rate` multiplies the ladder's rate (or table 7's)."""
    shape = model(setup, width, arms(setup.config)[arm])
    batch, counts, warmup = lengths(setup.config, width, shape)
    phases = wsd(counts[0] if tokens is None else tokens, batch, warmup)
    peak = TABLE_7[width][3] if setup.config.preset == "published" else learning_rate(width)
    return setup.arm(shape, peak, phases)(rate, seed)


def reference(config) -> str:
    """Returns the mixture whose learning rate is swept."""
    wanted = experts_at(config.fine_experts, 2)
    return next(name for name, experts in arms(config).items() if experts == wanted)


def sweep(setup: Setup) -> tuple[Labelled, ...]:
    """Builds the sweep of the learning rate, for the dense model and one mixture at one size."""
    config = setup.config
    if not config.sweep_width:
        return ()
    at = (config.sweep_width, config.sweep_tokens)
    points = ((DENSE, reference(config)), config.sweep_rates, range(config.sweep_seeds))
    return tuple(
        labelled(run_of(setup, arm, *at, rate, seed), role="sweep", arm=arm, size=at[0], rate=rate)
        for arm, rate, seed in itertools.product(*points)
    )


def grid(setup: Setup) -> tuple[Labelled, ...]:
    """Builds every arm at every width, length and seed."""
    config = setup.config
    if len(config.rates) != 2:
        raise Refused("config.rates", config.rates, "two, of dense and of the mixtures")
    dense, mixture = config.rates
    used = {arm: dense if arm == DENSE else mixture for arm in arms(config)}
    made = []
    for width, seeds in per_width(config.widths, config.seeds):
        for arm, seed, tokens in itertools.product(used, range(seeds), config.tokens or [None]):
            run = run_of(setup, arm, width, tokens, used[arm], seed)
            made.append(labelled(run, role="ladder", arm=arm, size=width, rate=used[arm]))
    return tuple(made)


def study(config) -> Study:
    """Builds the ladders of all arms, and the sweep behind their learning rates."""
    setup = Setup.of(config)
    return setup.study(report, (*grid(setup), *sweep(setup)))


def published_flops(setup: Setup, table: pd.DataFrame) -> pd.Series:
    """Returns C = M·D of every row, in the published convention (`leverage_flops`)."""
    mixtures, cells = arms(setup.config), list(zip(table["arm"], table["width"], strict=True))
    per_token = {(a, w): leverage_flops(model(setup, w, mixtures[a])) for a, w in {*cells}}
    return table["tokens"] * [per_token[cell] for cell in cells]


def report(results: Results) -> list[Block]:
    """Writes what was measured, and the sweep behind the learning rates."""
    config, every = results.config, unfolded(results.runs)
    table, swept = every[every["role"] == "ladder"], every[every["role"] == "sweep"]
    table = table[table["diverged_step"].isna()].reset_index(drop=True)
    flops = published_flops(Setup(config, results.corpus), table)
    blocks = leverage_blocks(table.assign(exact_flops=table["flops"], flops=flops))
    if swept.empty:
        return blocks
    where = (
        f"Loss by multiple of the ladder's rate: width {config.sweep_width}, "
        f"{config.sweep_tokens:,} tokens, {counted(config.sweep_seeds, 'seed')}."
    )
    used = dict(zip((DENSE, reference(config)), config.rates, strict=True))
    return [*blocks, Text("## Learning rates"), Table("rates", swept_rates(swept, used), where)]


def swept_rates(swept: pd.DataFrame, used: dict[str, float]) -> pd.DataFrame:
    """Sets the rates in use beside the sweep behind them."""
    best = best_rates(swept, "loss").set_index("arm")
    table = swept.pivot_table(index="arm", columns="rate", values="loss").loc[best.index]
    in_use = pd.Series(used)[best.index]
    scored = [table[rate][arm] if rate in table else np.nan for arm, rate in in_use.items()]
    table.columns = [f"× {rate:g}" for rate in table.columns]
    edge = np.where(best["edge"], "edge", "")
    table = table.assign(best=best["rate"], edge=edge, **{"in use": in_use})
    table["excess of it (%)"] = 100 * (np.array(scored) / best["mean"] - 1)
    return table.reset_index()
