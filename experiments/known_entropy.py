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

import itertools

import numpy as np
import pandas as pd

from data.markov import parse
from experiments.evidence.claim import HIGH, LOW, counted, rows
from experiments.evidence.figures import finish, means, panels
from experiments.evidence.law import parameter
from experiments.evidence.report import Block, Picture, Table, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import Results, Study, configured
from fitting import Observations, fit
from fitting.style import keyed, styled
from scaling import Evaluation, labelled

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
get_config = configured(PRESETS)

GOAL = 0.2  # Largest miss of E, in percent of H, that counts as the truth.


def study(config) -> Study:
    """Builds token counts × seeds at one width, and a grid of smaller widths beside it."""
    setup, runs = Setup.of(config), []
    points = [("law", config.width, seed) for seed in range(config.seeds)]
    points += itertools.product(["grid"], config.grid_widths, range(config.grid_seeds))
    for (role, width, seed), tokens in itertools.product(points, config.tokens):
        run = setup.on_ladder(width, seed, setup.phases(tokens))
        runs.append(labelled(run, role=role, size=width))
    evaluation = Evaluation(config.evaluation_tokens)
    return setup.study(report, runs, evaluation=evaluation, laws=laws)


def laws(runs: pd.DataFrame) -> list[tuple]:
    """Lists what the report fits: the data law to a seed at one width, Chinchilla's to the grid."""
    first = runs["seed"] == runs["seed"].min()
    return [
        ("data", None, first & (runs["role"] == "law")),
        ("chinchilla", "params_total", first),
    ]


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


def report(results: Results) -> list[Block]:
    """Writes the fitted E of every seed beside the truth, and the biased answer of the grid."""
    config, runs = results.config, results.runs[results.runs["diverged_step"].isna()]
    entropy, correction = sample_correction(config, results.corpus)
    runs = runs.assign(loss=runs["loss"] + correction)
    wide = runs[runs["width"] == config.width]
    fits = {seed: fit("data", Observations(group)) for seed, group in wide.groupby("seed")}
    claims = {seed: parameter(found, "E", than=entropy) for seed, found in fits.items()}
    table = rows(claims, "seed", "E (nats/token)")
    table["beta"] = [found.parameters["beta"] for found in fits.values()]
    table["E − H (% of H)"] = 100 * (table["E (nats/token)"] / entropy - 1)
    table["covers H"] = np.where(table[LOW].le(entropy) & table[HIGH].ge(entropy), "yes", "no")
    worst = table["E − H (% of H)"].abs().max()
    first = Observations(runs[runs["seed"] == runs["seed"].min()])
    grid = parameter(fit("chinchilla", first, params="params_total"), "E", than=entropy)
    return [
        Text(
            f"The source's entropy rate is H = {entropy:.6f} nats/token. The data law's E misses "
            f"it by at most {worst:.3f} % over {counted(len(table), 'seed')} "
            f"({'' if worst <= GOAL else '**not** '}within the {GOAL:g} % aimed at); "
            f"{(table['covers H'] == 'yes').sum()} of {len(table)} intervals of 90 % cover it "
            f"({next(iter(fits.values())).interval_method})."
        ),
        Table("data_law", table, "L = E + B/D^beta at one width, per seed."),
        Text(
            "A width × tokens grid under the Chinchilla law gives an E of "
            f"{grid.said('nats/token', '.5f', 'H')} ({100 * (grid.value / entropy - 1):+.2f} % of "
            "H). Widths too small for the source are a bottleneck, and no power law in parameters."
        ),
        Picture(
            "known_entropy", picture(wide, fits, entropy), "Excess loss over the entropy rate."
        ),
    ]


@styled
def picture(wide: pd.DataFrame, fits: dict, entropy: float):
    """Draws the excess of the corrected losses over the entropy rate against tokens."""
    figure, (axis,) = panels()
    over = wide.assign(excess=wide["loss"] - entropy)
    colours = means(axis, over, "tokens", "excess", "seed", label="seed {}".format, mark="o")
    for seed, group in over.sort_values("tokens").groupby("seed"):
        law = fits[seed].predict(group)["prediction"].to_numpy()
        axis.plot(group["tokens"], law - entropy, "-", color=colours[seed], lw=1)
    finish(axis, "tokens", "corrected loss − H (nats/token)", yscale="log")
    return keyed(figure)
