"""How much dense compute is a mixture of experts worth, by activation ratio and granularity?

Command    espalier run --config=experiments/moe_leverage.py:cpu
Cost       cpu: COST; gpu: about four hours on one accelerator (estimated from its FLOPs, not run);
           published: see `espalier plan` (needs a corpus, --config.corpus=NAME)
Compared   Tian et al. 2025 (arXiv:2507.17702): efficiency leverage EL = C_dense/C_moe at equal loss
           follows EL = Â^(a + d·log10 C + γ(log2 G)² + β·log2 G), Â = A + 0.0163, with a = 1.23,
           d = −0.0761, γ = 0.0167, β = −0.117, fitted on 1e18–6e20 FLOPs: more leverage with
           fewer active experts and more compute, most at G near 11; below 7e14 FLOPs (G = 2) the
           same formula gives EL < 1.
Answer     ANSWER
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from data import Mixture, load
from experiments.comparison import Trial, best_rates, tried
from experiments.law_report import fit_table
from experiments.report import Picture, Table, Text
from experiments.study import Results, Study, preset
from fitting import Fit, Observations, fit
from fitting.intervals import quantiles, widen
from fitting.laws import LAWS
from fitting.leverage import measured_leverage
from models import Experts, ModelConfig, ladder
from models.accounting import leverage_flops
from models.ladder import RATE_TIMES_DECAY
from scaling import Data, Evaluation, Optimizer, Run, chain, product, wsd

# Every arm has the same FLOPs per token as the dense one in the published convention: k + E_s
# experts of 2·width/G make up the dense feed-forward of 3·width. `experts` are the arms over A at
# G = 2; `granularities` the arms over G at the activation ratio of `fine_experts`.
COMMON = dict(
    experts=(4, 8, 16, 32),
    granularities=(2, 4, 8),
    fine_experts=16,
    sweep_rates=(0.5, 1.0, 2.0),
    corpus="wheels",
    mixture="code=0.25,docs=0.25,headers=0.25,tests=0.25",
)
PRESETS = {
    # Rates: multiples of the ladder's rate, for dense and mixture, from the sweep that is part of
    # the study.
    "cpu": COMMON
    | dict(
        widths=(16, 24, 32),
        tokens=(256_000, 512_000, 1_024_000),
        seeds=(2, 2, 1),
        sweep_width=32,
        sweep_tokens=512_000,
        sweep_seeds=1,
        rates=(1.0, 1.0),
        batch_tokens=1024,
        context=64,
        warmup_tokens=25 * 1024,
        evaluation_tokens=16_384,
        dtype="float32",
        repeat=False,
    ),
    "gpu": COMMON
    | dict(
        widths=(256, 512, 1024),
        tokens=(32_768_000, 65_536_000, 131_072_000),
        seeds=(2, 2, 1),
        sweep_width=256,
        sweep_tokens=65_536_000,
        sweep_seeds=2,
        rates=(1.0, 1.0),
        batch_tokens=65_536,
        context=1024,
        warmup_tokens=50 * 65_536,
        evaluation_tokens=262_144,
        dtype="bfloat16",
        repeat=True,
    ),
    # The published ladder (table 7) and its arms (section 5.1); tokens, rates and batches are the
    # table's, so `tokens`, `rates` and `batch_tokens` are not read.
    "published": COMMON
    | dict(
        experts=(4, 8, 16, 32, 64, 128, 256),
        granularities=(2, 4, 6, 8, 12, 16),
        fine_experts=64,
        widths=(384, 512, 640, 768, 1024, 1280),
        tokens=(),
        seeds=(1, 1, 1, 1, 1, 1),
        sweep_width=0,
        sweep_tokens=0,
        sweep_seeds=0,
        rates=(1.0, 1.0),
        batch_tokens=0,
        context=4096,
        warmup_tokens=0,
        evaluation_tokens=1_048_576,
        dtype="bfloat16",
        corpus="",
        mixture="code=1",
        repeat=True,
    ),
}

# Width: layers, heads, key/value heads, learning rate, sequences in a batch, training FLOPs.
TABLE_7 = {
    384: (8, 8, 2, 1.52e-3, 98, 2e18),
    512: (8, 8, 2, 1.31e-3, 147, 6e18),
    640: (10, 10, 2, 1.11e-3, 228, 2e19),
    768: (14, 12, 4, 9.5e-4, 342, 6e19),
    1024: (16, 16, 4, 8.1e-4, 531, 2e20),
    1280: (22, 20, 4, 7.0e-4, 795, 6e20),
}
DECAY = 0.2  # Of each run's tokens; Hägele et al. 2024 (arXiv:2405.18392), section 4.
ACTIVE, SHARED = 2, 1  # At G = 2; both grow with G.
DENSE = "dense"
LEVEL = 0.9


def get_config(name: str = "cpu"):
    """Returns a preset's configuration."""
    return preset(name, PRESETS)


def experts_at(routed: int, granularity: int) -> Experts:
    """Returns the mixture of an activation ratio (that of `routed` at G = 2) and a granularity."""
    finer = granularity // 2
    return Experts(routed * finer, ACTIVE * finer, SHARED * finer, granularity=float(granularity))


def arms(config) -> dict[str, Experts | None]:
    """Returns every arm by name: dense, then over A at G = 2, then over G at one A."""
    some = [experts_at(routed, 2) for routed in config.experts]
    some += [experts_at(config.fine_experts, g) for g in config.granularities if g != 2]
    return {DENSE: None} | {
        f"A {e.activation_ratio:.3f}, G {e.granularity:g}": e for e in dict.fromkeys(some)
    }


def model(config, corpus, width: int, experts: Experts | None) -> ModelConfig:
    """Returns an arm's model of a width; the dense one has the feed-forward that is active."""
    shape = dict(vocabulary=corpus.vocabulary, context=config.context, dtype=config.dtype)
    if config.preset == "published":
        names = ("depth", "heads", "kv_heads")
        shape |= dict(zip(names, TABLE_7[width][:3], strict=True))
    shape["ff_width"] = (ACTIVE + SHARED) * width
    return ladder(width, 10**6, **shape | ({"feed_forward": experts} if experts else {})).model


def lengths(config, width: int, model: ModelConfig) -> tuple[int, tuple[int, ...], int]:
    """Returns a width's batch in tokens, its token counts and its warm-up in tokens."""
    if config.preset != "published":
        return config.batch_tokens, config.tokens, config.warmup_tokens
    sequences, flops = TABLE_7[width][4:]
    batch = sequences * config.context
    steps = round(flops / leverage_flops(model) / batch)
    return batch, (steps * batch,), round(0.01 * steps) * batch


def run_of(config, corpus, arm: str, width: int, tokens: int | None, rate: float, seed: int) -> Run:
    """Builds one run; `rate` multiplies the ladder's rate (or table 7's)."""
    shape = model(config, corpus, width, arms(config)[arm])
    batch, counts, warmup = lengths(config, width, shape)
    base = ladder(width, 10**6).learning_rate
    if config.preset == "published":
        base = TABLE_7[width][3]
    peak = float(f"{base * rate:.3g}")
    return Run(
        shape,
        Data(corpus.name, corpus.content_hash, Mixture.parse(config.mixture)),
        Optimizer(peak, float(f"{RATE_TIMES_DECAY / peak:.3g}")),
        seed,
        wsd(counts[0] if tokens is None else tokens, batch, warmup, DECAY),
    )


def reference(config) -> str:
    """Returns the mixture whose learning rate is swept."""
    wanted = experts_at(config.fine_experts, 2)
    return next(name for name, experts in arms(config).items() if experts == wanted)


def sweep(config, corpus) -> tuple[Trial, ...]:
    """Builds the sweep of the learning rate, for the dense model and one mixture at one size."""
    if not config.sweep_width:
        return ()
    at = (config.sweep_width, config.sweep_tokens)
    return tuple(
        Trial(arm, rate, seed, run_of(config, corpus, arm, *at, rate, seed))
        for arm in (DENSE, reference(config))
        for rate in config.sweep_rates
        for seed in range(config.sweep_seeds)
    )


def grid(config, corpus) -> tuple[Trial, ...]:
    """Builds every arm at every width, length and seed."""
    points = chain(
        *(
            product(
                arm=arms(config), width=[width], seed=range(seeds), tokens=config.tokens or [None]
            )
            for width, seeds in zip(config.widths, config.seeds, strict=True)
        )
    )
    out = []
    for point in points:
        rate = config.rates[point["arm"] != DENSE]
        run = run_of(config, corpus, rate=rate, **point)
        out.append(Trial(point["arm"], rate, point["seed"], run))
    return tuple(out)


def study(config) -> Study:
    """Builds the ladders of all arms, and the sweep behind their learning rates."""
    corpus = load(config.corpus)
    runs = {t.run.identity: t.run for t in (*grid(config, corpus), *sweep(config, corpus))}
    return Study(
        name="moe_leverage",
        corpus=corpus,
        runs=tuple(runs.values()),
        evaluation=Evaluation(
            config.evaluation_tokens, domains=Mixture.parse(config.mixture).names
        ),
        report=report,
        repeat=config.repeat,
        published={"leverage": "arXiv:2507.17702, eq. 8 and table 2"},
    )


def published_flops(config, corpus, table: pd.DataFrame) -> pd.Series:
    """Returns C = M·D of every row, in the published convention (`leverage_flops`)."""
    per_token = {
        (arm, width): leverage_flops(model(config, corpus, width, arms(config)[arm]))
        for arm, width in {*zip(table["arm"], table["width"], strict=True)}
    }
    keys = zip(table["arm"], table["width"], table["tokens"], strict=True)
    return pd.Series([per_token[a, w] * t for a, w, t in keys], index=table.index)


def efficient(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the settings that no cheaper or equally costly one beats.

    A setting is a compute; its loss is the mean over seeds. These are an arm's minimal losses.
    """
    means = table.groupby("flops")["loss"].mean().sort_index()
    best = means.groupby(level=0).min().cummin()
    return table[table["flops"].isin(means.index[means <= best])]


def curves(table: pd.DataFrame) -> dict[str, Fit]:
    """Fits L = α·C^−β to the efficient runs of every arm that has enough of them."""
    found = {}
    for arm, group in table.groupby("arm", sort=False):
        points = efficient(group).reset_index(drop=True)
        if len(points) >= 4 and points["flops"].nunique() >= 3:
            found[arm] = fit("compute", Observations(points))
    return found


def leverages(fits: Mapping[str, Fit], config) -> pd.DataFrame:
    """Returns EL of every mixture at its efficient computes, beside the published law's."""
    dense, rows = fits[DENSE], []
    for arm, found in fits.items():
        experts = arms(config)[arm]
        if experts is None:
            continue
        flops = np.unique(found.observations.column("flops"))
        value = measured_leverage(dense.parameters, found.parameters, flops)
        drawn = measured_leverage(
            {k: v[:, None] for k, v in dense.parameter_draws().items()},
            # The two curves' draws are paired as independent.
            {k: v[::-1, None] for k, v in found.parameter_draws().items()},
            flops[None],
        )
        factor = max(dense.draws.factor, found.draws.factor)
        low, high = quantiles(widen(drawn, value, factor), LEVEL)
        shape = {
            "activation_ratio": np.full(len(flops), experts.activation_ratio),
            "granularity": np.full(len(flops), experts.granularity),
        }
        law = LAWS["leverage"]
        expected = law.predict(shape | {"flops": flops}, law.published["paper"])
        columns = {"arm": arm} | shape | {"flops": flops, "leverage": value}
        rows.append(pd.DataFrame(columns | {"low": low, "high": high, "published": expected}))
    return pd.concat(rows, ignore_index=True)


def report(results: Results) -> list:
    """Writes leverage by arm with intervals, the joint law, and the published law beside it."""
    config, corpus = results.config, results.corpus
    table = tried(grid(config, corpus), results.runs)
    table = table[table["diverged_step"].isna()].reset_index(drop=True)
    table["exact_flops"], table["flops"] = table["flops"], published_flops(config, corpus, table)
    fits = curves(table)
    found = leverages(fits, config)
    exact = leverages(curves(table.assign(flops=table["exact_flops"])), config)
    return [
        Text(summary(found, exact, table)),
        Picture(
            "leverage",
            leverage_picture(found),
            "Leverage: measured (points, with 90 % intervals)"
            " and the published law (lines: solid where it was fitted, dashed beyond).",
        ),
        leverage_table(found),
        equal_compute(table),
        Picture("curves", curve_picture(table, fits), "Held-out loss against compute by arm."),
        curve_table(fits),
        *joint_law(found),
        *rates_blocks(config, corpus, results.runs),
        routing_table(table),
    ]


def summary(found: pd.DataFrame, exact: pd.DataFrame, table: pd.DataFrame) -> str:
    """Says what compute means here, what was measured, and what the published law gives there."""
    above = found.groupby("arm", sort=False).apply(
        lambda g: "above" if (g["low"] > 1).all() else "below" if (g["high"] < 1).all() else "both",
        include_groups=False,
    )
    sides = {side: (above == side).sum() for side in ("above", "below", "both")}
    return (
        f"{len(table)} runs. Compute is the paper's C = M·D, M three times the non-embedding "
        "forward FLOPs of a token by its appendix C (`models.accounting.leverage_flops`); at equal "
        "width all arms have the same M. EL is the dense compute that reaches a mixture's loss, "
        "over the mixture's compute, both read off power laws L = α·C^−β through each arm's "
        "efficient runs.\n\n"
        f"Between {found['flops'].min():.2g} and {found['flops'].max():.2g} FLOPs the measured EL "
        f"is {found['leverage'].min():.2f} to {found['leverage'].max():.2f}; its 90 % interval is "
        f"above 1 throughout for {sides['above']} of {len(above)} mixtures, below 1 throughout for "
        f"{sides['below']}. The published law, extrapolated down to here, gives "
        f"{found['published'].min():.2f} to {found['published'].max():.2f}. With every product "
        "counted (`flops`: the router, which the paper leaves out, the causal half of attention, "
        f"the head) the measured EL is {exact['leverage'].min():.2f} to "
        f"{exact['leverage'].max():.2f}."
    )


def leverage_table(found: pd.DataFrame) -> Table:
    """Lists leverage by arm and compute."""
    shown = found.rename(
        columns={
            "activation_ratio": "A",
            "granularity": "G",
            "flops": "C (FLOPs)",
            "leverage": "EL",
            "low": "90 % low",
            "high": "90 % high",
            "published": "published law",
        }
    )
    return Table("leverage", shown, "Leverage at each arm's efficient computes.")


def equal_compute(table: pd.DataFrame) -> Table:
    """Sets every arm's loss beside the dense one at equal width, tokens, seed and compute."""
    keys = ["width", "tokens", "seed"]
    dense = table[table["arm"] == DENSE].set_index(keys)["loss"]
    longest = table[table["tokens"] == table.groupby("width")["tokens"].transform("max")]
    rows = {}
    for (arm, width), group in longest.groupby(["arm", "width"], sort=False):
        gap = (group.set_index(keys)["loss"] - dense).dropna()
        spread = f" ± {gap.std():.4f}" if len(gap) > 1 else ""
        shown = f"{group['loss'].mean():.4f}" if arm == DENSE else f"{gap.mean():+.4f}{spread}"
        rows.setdefault(arm, {"arm": arm})[f"width {width}"] = shown
    return Table(
        "equal_compute",
        pd.DataFrame(rows.values()),
        "Held-out loss (nats/token) of the longest runs: dense, and differences to it at equal "
        "tokens and compute, paired by seed (± standard deviation over seeds).",
    )


def curve_table(fits: Mapping[str, Fit]) -> Table:
    """Lists the power law of every arm."""
    rows = []
    for arm, found in fits.items():
        row = {"arm": arm, "runs": len(found.observations)}
        for name in ("alpha", "beta"):
            low, high = found.intervals[name]
            row |= {name: found.parameters[name], f"{name} 90 %": f"[{low:.3g}, {high:.3g}]"}
        rows.append(row | {"worst residual (%)": 100 * found.residuals["residual"].abs().max()})
    how = next(iter(fits.values())).interval_method
    return Table("compute_curves", pd.DataFrame(rows), f"L = α·C^−β per arm. Dense: {how}.")


def joint_law(found: pd.DataFrame) -> list:
    """Fits the joint law in A, G and C, and says what of it the data identify."""
    law = fit("leverage", Observations(found.assign(trunk=found["arm"]).drop(columns="arm")))
    open_ = [name for name, verdict in law.verdicts.items() if verdict != "identified"]
    verdict = (
        "The profiles identify every parameter within these points"
        if not open_
        else "The points do **not** identify " + ", ".join(open_)
    )
    beside = pd.DataFrame(
        {
            "parameter": list(law.parameters),
            "here": list(law.parameters.values()),
            "published": [law.law.published["paper"].get(name) for name in law.parameters],
        }
    )
    return [
        Text(
            f"## The joint law\n\nEL in A, G and C, fitted to the {len(found)} points above, which "
            f"come from {found['arm'].nunique()} curves over "
            f"{np.log10(found['flops'].max() / found['flops'].min()):.1f} decades of compute: "
            f"{verdict}. With A varied at one G and G at one A, its cross terms rest on the form "
            "of the law alone; none of these values is to be carried to another scale."
        ),
        fit_table("fit_leverage", law),
        Table("joint_law", beside, "The joint law's parameters here and as published."),
    ]


def rates_blocks(config, corpus, runs: pd.DataFrame) -> list:
    """Shows the sweep of the learning rate behind the rates in use."""
    table = tried(sweep(config, corpus), runs)
    if table.empty:
        return []
    best = best_rates(table, "loss")
    used = dict(zip((DENSE, reference(config)), config.rates, strict=True))
    means = table.groupby(["arm", "rate"])["loss"].mean()
    rows = [
        {
            "arm": row.arm,
            **{f"× {rate:g}": means.get((row.arm, rate)) for rate in config.sweep_rates},
            "best": row.rate,
            "edge": "edge" if row.edge else "",
            "in use": used[row.arm],
            "excess of it (%)": 100 * (means[row.arm, used[row.arm]] / row.mean - 1),
        }
        for row in best.itertuples()
    ]
    where = (
        f"width {config.sweep_width}, {config.sweep_tokens:,} tokens, seeds {config.sweep_seeds}"
    )
    return [
        Text("## Learning rates and routing"),
        Table("rates", pd.DataFrame(rows), f"Loss by multiple of the ladder's rate: {where}."),
    ]


def routing_table(table: pd.DataFrame) -> Table:
    """Shows how evenly tokens were routed at the end of training."""
    names = {
        "router.dropped": "assignments dropped (%)",
        "router.load": "busiest expert over mean",
        "router.entropy": "entropy of a token's scores (nats)",
    }
    mixtures = table[table["arm"] != DENSE]
    means = mixtures.groupby("arm", sort=False)[["experts", *names]].mean().reset_index()
    means["router.dropped"] *= 100
    return Table(
        "routing",
        means.rename(columns=names),
        "Routing in the last batch, mean over runs and layers.",
    )


def leverage_picture(found: pd.DataFrame) -> plt.Figure:
    """Draws leverage over compute: a panel over A, a panel over G, the published law beside."""
    law, low, high = LAWS["leverage"], found["flops"].min() / 3, 1e22
    flops = np.geomspace(low, high, 200)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    fine = found.groupby("granularity")["activation_ratio"].first()
    ratio = fine[fine.index.max()]
    panels = (
        (axes[0], found[found["granularity"] == 2], "activation_ratio", "A", "granularity 2"),
        (axes[1], found[found["activation_ratio"] == ratio], "granularity", "G", f"A {ratio:.3f}"),
    )
    for axis, some, column, letter, title in panels:
        levels = sorted(some[column].unique())
        colours = plt.colormaps["viridis"](np.linspace(0.05, 0.85, len(levels)))
        for index, (level, colour) in enumerate(zip(levels, colours, strict=True)):
            group = some[some[column] == level]
            shape = {n: np.full(200, group[n].iloc[0]) for n in ("activation_ratio", "granularity")}
            curve = law.predict(shape | {"flops": flops}, law.published["paper"])
            inside = (flops >= 1e18) & (flops <= 6e20)
            axis.plot(flops, curve, "--", lw=1, color=colour)
            axis.plot(flops[inside], curve[inside], "-", lw=2.2, color=colour)
            # Side by side, for points of equal compute would hide one another.
            x = group["flops"] * 1.12 ** (index - (len(levels) - 1) / 2)
            bars = (group["leverage"] - group["low"], group["high"] - group["leverage"])
            axis.errorbar(
                x,
                group["leverage"],
                np.maximum(bars, 0),
                fmt="o",
                ms=4,
                lw=1,
                color=colour,
                label=f"{letter} {level:.3g}",
            )
        axis.axhline(1, color="0.6", lw=0.8, zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="C = M·D (FLOPs, published convention)")
        axis.set_title(title, fontsize=10)
        ticks = (0.25, 0.5, 1, 2, 4, 8)
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.legend(fontsize=9)
    axes[0].set_ylabel("efficiency leverage EL")
    figure.tight_layout()
    plt.close(figure)
    return figure


def curve_picture(table: pd.DataFrame, fits: Mapping[str, Fit]) -> plt.Figure:
    """Draws every run's loss over compute, and the power law of each arm."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    colours = plt.colormaps["viridis"](np.linspace(0, 0.9, max(len(fits) - 1, 1)))
    shades = dict(zip(fits, [(0.8, 0.1, 0.1, 1.0), *colours], strict=False))
    for arm, found in fits.items():
        group = table[table["arm"] == arm]
        line = np.geomspace(group["flops"].min(), group["flops"].max(), 50)
        axis.plot(group["flops"], group["loss"], ".", ms=4, alpha=0.4, color=shades[arm])
        used = found.observations.frame
        axis.plot(used["flops"], used["loss"], "o", ms=4, color=shades[arm])
        curve = found.predict({"flops": line}, new_run=False)["prediction"]
        axis.plot(line, curve, "-", lw=1.2, color=shades[arm], label=arm)
    axis.set(xscale="log", xlabel="C = M·D (FLOPs, published convention)")
    axis.set_ylabel("held-out loss (nats/token); filled: efficient runs")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    plt.close(figure)
    return figure
