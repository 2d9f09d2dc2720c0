"""Which peak learning rate does each width want, and does it depend on how long is trained?

Command    espalier run --config=experiments/learning_rate.py:cpu
           (with --config.update_ladder=True the ladder's table is rewritten; another optimizer's
           rates are found with --config.optimizer=muon or lion and its --config.factors)
Cost       cpu: 8 minutes on two quiet cores, 12 CPU-minutes; gpu: two hours
Compared   Li et al. 2025 (Step Law, arXiv:2503.04715, eq. 1): the best rate falls as
           params_non_embedding^−0.713 and rises as tokens^0.307, where rates within a factor of
           about two of the best cost less than 1 %.
Answer     The ladder's rate, a power law in width read from this study's table, is within 0.5 %
           of the best loss at every width and budget; the cost of one rate for all budgets is
           shown beside it.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.evidence.claim import listed
from experiments.evidence.figures import per_panel, shades
from experiments.evidence.report import Block, Picture, Table, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from fitting.style import keyed, styled
from models.ladder import RATES, learning_rate
from refused import Refused
from scaling import AdamW, labelled
from scaling.optimizers import chosen

COMMON = dict(
    # Multiples of 0.5/width, the rule of thumb that earlier small runs gave.
    factors=(0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0),
    update_ladder=False,
    optimizer="adamw",  # A name of `scaling.optimizers`; the ladder's rates are AdamW's.
)
PRESETS = {
    "cpu": dict(CPU | COMMON, widths=(16, 32, 64), tokens=(256_000, 2_048_000), seeds=2),
    "gpu": dict(
        GPU | COMMON,
        widths=(64, 128, 256, 512),
        tokens=(16_384_000, 131_072_000),
        seeds=1,
    ),
}
get_config = configured(PRESETS)

RULE = 0.5  # Rate times width around which the factors lie.
GOAL = 0.5  # Largest excess of the ladder's rate, in percent of the loss, that will do.
NEAR = 2.9  # Rates within this factor of the best one enter its parabola.


def study(config) -> Study:
    """Builds width × rate × budget × seed; the budgets of a rate share a trunk.

    The ladder's own rate is trained beside the grid.
    """
    optimizer = chosen(config.optimizer)
    if config.update_ladder and optimizer is not AdamW:
        raise Refused("config.optimizer", config.optimizer, "adamw where the ladder is rewritten")
    setup, runs = Setup.of(config), []
    for width in config.widths:
        rung = setup.rung(width)
        rates = [("grid", float(f"{f * RULE / width:.3g}")) for f in config.factors]
        rates += [("ladder", rung.learning_rate)]
        for rate, seed, tokens in itertools.product(rates, range(config.seeds), config.tokens):
            (role, peak), phases = rate, setup.phases(tokens)
            run = setup.run(rung.model, peak, seed, phases, optimizer)
            multiple = float(f"{peak * width / RULE:.3g}")
            runs.append(labelled(run, role=role, size=width, rate=multiple))
    return setup.study(report, runs)


@dataclass(frozen=True)
class Curve:
    """Losses at some rates, and a parabola of loss over log rate within `NEAR` of the best.

    The lowest of several noisy means is biased low; the parabola's minimum is hardly so.
    """

    rates: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, losses: pd.Series) -> "Curve":
        """Takes losses indexed by rate."""
        losses = losses.sort_index()
        return cls(losses.index.to_numpy(), losses.to_numpy())

    @cached_property
    def smooth(self) -> tuple[np.polynomial.Polynomial, np.ndarray]:
        """The parabola, and a grid of log rates over the range that it was fitted on."""
        x = np.log(self.rates)
        near = np.abs(x - x[np.argmin(self.losses)]) <= math.log(NEAR) + 1e-9
        fitted = np.polynomial.Polynomial.fit(x[near], self.losses[near], min(2, near.sum() - 1))
        return fitted, np.linspace(x[near].min(), x[near].max(), 2001)

    def best(self) -> float:
        """Returns the rate at the smoothed minimum, inside the rates used."""
        fitted, grid = self.smooth
        return float(np.exp(grid[np.argmin(fitted(grid))]))

    def excess(self, rate: float) -> float:
        """Returns by how much a rate's smoothed loss is above the smoothed minimum, in percent."""
        fitted, grid = self.smooth
        return 100 * float(fitted(math.log(rate)) / fitted(grid).min() - 1)

    def at(self, rate: float) -> float:
        """Returns the loss at a rate, interpolated linearly in log rate."""
        return float(np.interp(math.log(rate), np.log(self.rates), self.losses))


def curves(runs: pd.DataFrame) -> dict[tuple[int, int], Curve]:
    """Returns the curve of every width and budget, of means over seeds."""
    mean = runs.groupby(["width", "tokens", "learning_rate"])["loss"].mean()
    cells = mean.groupby(["width", "tokens"])
    return {key: Curve.of(group.droplevel(["width", "tokens"])) for key, group in cells}


def best_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns per width the rate with the least mean excess over the budgets, in percent."""
    rows = []
    for width, group in runs.groupby("width"):
        table = group.pivot_table(index="learning_rate", columns="tokens", values="loss").dropna()
        relative = Curve.of((table / table.min()).mean(axis=1))
        rows.append({"width": int(width), "learning_rate": relative.best()})
    return pd.DataFrame(rows)


def one_rate_cost(runs: pd.DataFrame, choice: pd.DataFrame) -> pd.DataFrame:
    """Returns, per width and budget, the excess loss of the width's one rate, in percent."""
    rate = choice.set_index("width")["learning_rate"]
    rows = [
        {"width": width, "tokens": tokens, "rate": rate[width], "excess (%)": c.excess(rate[width])}
        for (width, tokens), c in curves(runs).items()
    ]
    return pd.DataFrame(rows)


def ladder_cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Sets the ladder's rate beside the best one by width and budget."""
    rows = []
    for (width, tokens), curve in curves(runs).items():
        rate, lowest = learning_rate(width), float(curve.losses.min())
        row = {"width": width, "tokens": tokens, "best rate (parabola)": curve.best()}
        row |= {"ladder's rate": rate, "ladder's excess (%)": curve.excess(rate)}
        over = {"ladder over lowest mean (%)": 100 * (curve.at(rate) / lowest - 1)}
        rows.append(row | {"lowest mean (nats/token)": lowest} | over)
    return pd.DataFrame(rows)


def report(results: Results) -> list[Block]:
    """Writes the best rate per width and budget, the ladder's excess, and the cost of one rate."""
    runs = results.runs[results.runs["diverged_step"].isna()]
    losses = runs.groupby(["width", "tokens", "learning_rate"])["loss"]
    spread = 100 * losses.std().mean() / losses.mean().mean()
    table, choice = ladder_cost(runs), best_rates(runs)
    cost, worst = one_rate_cost(runs, choice), table["ladder's excess (%)"].max()
    if results.config.update_ladder:
        write_ladder(choice, results)
    return [
        Text(
            f"The ladder's rate costs at most {worst:.2f} % of loss over the best rate, at any "
            f"width and budget: {'' if worst <= GOAL else '**not** '}within the {GOAL:g} % aimed "
            "at. Both are read off a parabola in log rate, because seeds differ by "
            f"{spread:.2f} % (standard deviation), more than rates near the best do; the lowest of "
            "the means, which that spread favours, stands beside it."
        ),
        Table("rates", table, "Best and ladder's rate by width and budget; means over seeds."),
        Table("one_rate", cost, "What one rate for all budgets costs over each budget's own best."),
        Table("best_rates", choice, "The rate with the least mean excess over budgets."),
        Picture(
            "rates", picture(runs), "Held-out loss against peak rate; a ring marks the ladder."
        ),
    ]


def write_ladder(choice: pd.DataFrame, results: Results) -> None:
    """Rewrites the table that `models.ladder` reads."""
    config, device = results.config, results.runs["device"].iloc[0]
    text = (
        "# Best peak learning rates of AdamW by width, from experiments/learning_rate.py:"
        f"{config.preset} on {device};\n# budgets {listed(config.tokens)} tokens, batch "
        f"{config.batch_tokens} tokens, seeds {config.seeds}.\n"
    )
    choice = choice.assign(learning_rate=choice["learning_rate"].map("{:.4g}".format))
    Path(RATES).write_text(text + choice.to_csv(index=False), encoding="utf-8")


@styled
def picture(runs: pd.DataFrame):
    """Draws loss against rate, a panel per budget, a line per width."""
    labels, colours = ("peak learning rate", "held-out loss (nats/token)"), shades(runs["width"])
    how = dict(x="learning_rate", by="width", label="width {}".format, colours=colours)
    title = lambda tokens: f"{tokens / 1e6:.3g}M tokens"
    figure, axes = per_panel(runs, "tokens", "loss", labels, title, ticks="plain", **how)
    for (width, tokens), curve in curves(runs).items():
        at = learning_rate(width), curve.at(learning_rate(width))
        axes[tokens].plot(*at, "o", ms=9, mfc="none", mec=colours[width])
    return keyed(figure)
