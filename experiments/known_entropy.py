"""Is a fitted irreducible loss the true one, when the truth is known?

Command    espalier run --config=experiments/known_entropy.py:cpu
Cost       cpu: 4 minutes on two quiet cores, 6 CPU-minutes
Compared   The source's own entropy rate H, computed from its transition matrix.
Answer     For every seed the data law L = E + B/D^beta, fitted at a width that can represent the
           source, gives |E − H| ≤ 0.2 % of H, and its 90 % intervals cover H for most seeds.
           Beside it: the answer of a width × tokens grid under the Chinchilla law, which is
           biased, because a width that is too small to represent the source is a bottleneck
           and no power law in parameters.
"""

import pandas as pd
from matplotlib.figure import Figure

from data import Mixture, load
from data.markov import parse
from experiments.evidence.report import Picture, Table, Text, subplots
from experiments.evidence.study import Results, Study, preset
from fitting import Observations, fit
from models import ladder
from scaling import Data, Evaluation, Run, labelled, product, wsd

PRESETS = {
    "cpu": dict(
        corpus="markov:order=1,symbols=32,seed=0,tokens=4000000",
        width=32,
        # Nine counts at ratio √2, in whole steps.
        tokens=tuple(1024 * round(61 * 2 ** (i / 2)) for i in range(9)),
        seeds=6,
        grid_widths=(8, 16, 24),
        grid_seeds=1,
        batch_tokens=1024,
        context=64,
        warmup_tokens=10 * 1024,
        evaluation_tokens=131_072,
        repeat=False,
    ),
}


def get_config(name: str = "cpu"):
    """Returns a preset's configuration."""
    return preset(name, PRESETS)


def study(config) -> Study:
    """Builds token counts × seeds at one width, and a grid of smaller widths beside it."""
    corpus = load(config.corpus)
    points = (
        *product(role=["law"], size=[config.width], seed=range(config.seeds)),
        *product(role=["grid"], size=config.grid_widths, seed=range(config.grid_seeds)),
    )
    data = Data.of(corpus, Mixture.uniform(corpus.main))
    shape = dict(vocabulary=corpus.vocabulary, context=config.context)
    runs = []
    for point in points:
        rung, seed = ladder(point["size"], config.tokens, **shape), point.pop("seed")
        for tokens in config.tokens:
            phases = wsd(tokens, config.batch_tokens, config.warmup_tokens)
            runs.append(labelled(Run.of(rung, data, seed, phases), **point))
    return Study(
        name="known_entropy",
        corpus=corpus,
        runs=tuple(runs),
        evaluation=Evaluation(config.evaluation_tokens),
        report=report,
        repeat=config.repeat,
    )


def sample_correction(config, corpus) -> tuple[float, float]:
    """Returns the source's entropy rate H and H minus the true loss of the evaluation sample.

    A finite sample's own likelihood under the true source differs from the rate; adding the
    difference to every loss takes that noise out of the comparison. The source's first `order`
    positions of a window are predicted from less than its memory, by model and truth alike.
    """
    source = parse(config.corpus)
    held_out = Evaluation(config.evaluation_tokens).held_out(corpus, config.context)
    windows = held_out.windows(corpus.names[0])
    truth = source.negative_log_likelihood(windows)[:, 1:].mean()
    return source.entropy_rate, source.entropy_rate - float(truth)


def report(results: Results) -> list:
    """Writes the fitted E of every seed beside the truth, and the biased answer of the grid."""
    config, runs = results.config, results.runs[results.runs["diverged_step"].isna()]
    entropy, correction = sample_correction(config, results.corpus)
    runs = runs.assign(loss=runs["loss"] + correction)
    wide = runs[runs["width"] == config.width]
    rows, fits = [], {}
    for seed, group in wide.groupby("seed"):
        found = fits[seed] = fit("data", Observations(group))
        low, high = found.intervals["E"]
        rows.append(
            {
                "seed": int(seed),
                "E (nats/token)": found.parameters["E"],
                "90 % low": low,
                "90 % high": high,
                "beta": found.parameters["beta"],
                "E − H (% of H)": 100 * (found.parameters["E"] / entropy - 1),
                "covers H": "yes" if low <= entropy <= high else "no",
            }
        )
    table = pd.DataFrame(rows)
    worst = table["E − H (% of H)"].abs().max()
    covered = (table["covers H"] == "yes").sum()
    first = runs[runs["seed"] == runs["seed"].min()]
    grid = fit("chinchilla", Observations(first), params="params_total")
    low, high = grid.intervals["E"]
    bias = 100 * (grid.parameters["E"] / entropy - 1)
    verdict = "within" if worst <= 0.2 else "**not** within"
    how = next(iter(fits.values())).interval_method
    return [
        Text(
            f"The source's entropy rate is H = {entropy:.6f} nats/token. The data law's E misses "
            f"it by at most {worst:.3f} % over {len(table)} seeds ({verdict} the 0.2 % aimed at); "
            f"{covered} of {len(table)} intervals of 90 % cover it ({how})."
        ),
        Table("data_law", table, "L = E + B/D^beta at one width, per seed."),
        Text(
            f"A width × tokens grid under the Chinchilla law gives E = {grid.parameters['E']:.5f} "
            f"[{low:.5f}, {high:.5f}], {bias:+.2f} % of H: "
            + ("its interval misses the truth. " if not low <= entropy <= high else "")
            + "Widths too small for the source are a bottleneck, and no power law in parameters."
        ),
        Picture(
            "known_entropy", picture(wide, fits, entropy), "Excess loss over the entropy rate."
        ),
    ]


def picture(wide: pd.DataFrame, fits: dict, entropy: float) -> Figure:
    """Draws the excess of the corrected losses over the entropy rate against tokens."""
    figure, axis = subplots(figsize=(6, 4))
    for seed, group in wide.groupby("seed"):
        group = group.sort_values("tokens")
        (line,) = axis.plot(group["tokens"], group["loss"] - entropy, "o", label=f"seed {seed}")
        law = fits[seed].predict(group)["prediction"].to_numpy()
        axis.plot(group["tokens"], law - entropy, "-", color=line.get_color(), lw=1)
    axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel="corrected loss − H (nats/token)")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure
