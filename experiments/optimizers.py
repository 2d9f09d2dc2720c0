"""Which optimizer? Is it faster than a well-tuned AdamW, by how much, and does it last with size?

Command    espalier run --config=experiments/optimizers.py:cpu
           (rounds of runs that follow from losses; --config.optimizers="('adamw','scion')" takes
           any of `scaling.optimizers.OPTIMIZERS`, adamw among them)
Cost       cpu: some 27 CPU-minutes, estimated from adamw and muon, which took 516 CPU-seconds;
           gpu: about two days on one accelerator, in slices of 8 minutes by --stop-after=480
           (neither has been run as a whole)
Compared   Wen et al. 2025 (arXiv:2509.02046): tuned, at most 1.4 times as fast as a tuned AdamW,
           1.3 at 0.1–0.5 billion parameters and 1.1 at 1.2 billion for optimizers of matrices.
Answer     Per optimizer and size the speed-up in tokens and in time with intervals over seeds, its
           trend over sizes, and certificates of the settings. Of two optimizers so far: AdamW needs
           1.7 times Muon's tokens at widths 16 and 32, which two seeds do not resolve (at 32 the
           fit over lengths gives 1.2 to 2.3), nor a trend. Muon's momentum ends at its grid's end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from experiments.evidence.descent import Descent, Point, Tuned, descend, neighbours
from experiments.evidence.optimizers import optimizer_blocks
from experiments.evidence.report import Block
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import count
from models.ladder import learning_rate, weight_decay
from refused import Refused
from scaling import Labelled, Run, labelled
from scaling.optimizers import chosen, named

COMMON = dict(
    optimizers=("adamw", "nadamw", "lion", "muon", "soap", "cautious", "sinkgd"),
    baseline=(10, 20, 40, 80),  # AdamW's tokens per parameter (params_total).
    multipliers=(10, 20, 40),  # The others'.
    tuned_at=20,  # Tokens per parameter at which all settings are tuned, at the smallest width.
    extrapolated=0,  # How many of the largest widths take rates from a power law of the others'.
    margin=0.003,  # Nats per token that a move must gain, as published.
    seeds=2,
)
PRESETS = {
    "cpu": dict(CPU | COMMON, widths=(16, 32), evaluation_tokens=16_384),
    "gpu": dict(
        GPU | COMMON,
        optimizers=("adamw", "muon", "soap", "scion"),
        widths=(128, 256, 512, 832),
        baseline=(2, 4, 8, 16),
        multipliers=(2, 4, 8),
        tuned_at=4,
        extrapolated=1,
        warmup_tokens=10 * 32_768,  # A fifth of the shortest run.
    ),
}
get_config = configured(PRESETS)

BASELINE = "adamw"
# Multiples of the ladder's rate for AdamW at a width, and of the decay that goes with a rate.
RATES = tuple(2.0**k for k in range(-5, 6))
DECAYS = tuple(4.0**k for k in range(-2, 4))
FAST, SLOW = (0.3, 0.6, 0.8, 0.9, 0.95, 0.98), (0.9, 0.95, 0.98, 0.99)
BETAS = dict(b1=FAST, b2=SLOW)
THIRDS = (0.1, 0.3, 1.0, 3.0)
# Every optimizer's own settings.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "adamw": BETAS,
    "nadamw": BETAS,
    "cautious": BETAS,
    "lion": BETAS,
    "muon": dict(momentum=FAST, adam_rate=THIRDS),
    "soap": BETAS,
    "sinkgd": dict(scale=(0.025, 0.05, 0.1, 0.2), adam_rate=THIRDS),
    "scion": dict(momentum=FAST, sign_rate=(0.05, 0.1, 0.25, 0.5)),
    "mars": dict(gamma=(0.0125, 0.025, 0.05), b1=FAST),
    "adam_mini": BETAS,
    "kron": dict(b1=FAST, speed=(0.05, 0.1, 0.2)),
    "cosmos": dict(gamma=(0.1, 0.2, 0.4), adam_rate=THIRDS),
    "stosignsgd": dict(b1=FAST),
    "adafactor": dict(power=(0.6, 0.8, 1.0)),
    "adopt": dict(b1=FAST, b2=(0.99, 0.999, 0.9999)),
    "ademamix": dict(alpha=(4.0, 8.0, 16.0), b3=(0.99, 0.999, 0.9999)),
    "schedule_free": BETAS,
}
# Starts are the classes' defaults, and AdamW's rate but where the direction has another size.
START_RATES = {"lion": 0.25, "muon": 4.0, "scion": 4.0, "stosignsgd": 0.25}
Cell = tuple[int, int]  # A width and a number of tokens per parameter.


@dataclass(frozen=True, eq=False)
class Design(Setup):
    """What a configuration asks for, and with losses what is to be trained next."""

    def __post_init__(self):
        config = self.config
        for name in config.optimizers:
            chosen(name)
        if BASELINE not in config.optimizers:
            raise Refused("config.optimizers", config.optimizers, f"{BASELINE} among them")
        if config.tuned_at not in {*config.multipliers} & {*config.baseline}:
            raise Refused("config.tuned_at", config.tuned_at, "one of multipliers and of baseline")
        if not 0 <= config.extrapolated < len(config.widths):
            raise Refused("config.extrapolated", config.extrapolated, "fewer than there are widths")

    @property
    def first(self) -> Cell:
        """Where all settings are tuned."""
        return min(self.config.widths), self.config.tuned_at

    def cells(self, name: str) -> list[Cell]:
        """Lists an optimizer's widths and tokens per parameter."""
        lengths = self.config.baseline if name == BASELINE else self.config.multipliers
        return [(width, m) for width in sorted(self.config.widths) for m in lengths]

    def grid(self, name: str) -> dict[str, tuple[float, ...]]:
        """Returns the values of every setting of an optimizer."""
        return dict(rate=RATES, decay=DECAYS) | GRIDS[name]

    def start(self, name: str) -> Point:
        """Returns where an optimizer's descent begins."""
        defaults = {field.name: field.default for field in fields(chosen(name))}
        own = {setting: defaults[setting] for setting in GRIDS[name]}
        return dict(rate=START_RATES.get(name, 1.0), decay=1.0) | own

    def run(self, name: str, cell: Cell, point: Point, seed: int) -> Run:
        """Builds the run of a point; `rate` and `decay` are multiples of the ladder's."""
        (width, multiplier), own = cell, dict(point)
        model = self.rung(width, 10**6).model
        rate = float(f"{own.pop('rate') * learning_rate(width):.3g}")
        decay = float(f"{own.pop('decay') * weight_decay(rate):.3g}")
        settings = dict(learning_rate=rate, weight_decay=decay, swept=True)
        phases = self.phases(multiplier * count(model).params_total)
        optimizer = named(name, **settings | own)
        return Run(model=model, data=self.data, optimizer=optimizer, seed=seed, phases=phases)

    def labelled(self, role: str, name: str, cell: Cell, point: Point, seed: int = 0) -> Labelled:
        """Builds a run with its labels."""
        at = ", ".join(f"{setting} {value:g}" for setting, value in point.items())
        labels = dict(role=role, arm=name, size=cell[0], multiplier=cell[1], point=at)
        return labelled(self.run(name, cell, point, seed), **labels)


@dataclass(frozen=True, eq=False)
class Found:
    """What losses by run, infinite for what diverged, say of a design so far."""

    design: Design
    losses: dict[str, float]

    @classmethod
    def of(cls, results: Results) -> "Found":
        """Takes the losses at the ends of the runs of a study."""
        runs = results.runs
        losses = runs["loss"].where(runs["diverged_step"].isna(), np.inf)
        by_run = dict(zip(runs["run"], losses.astype(float), strict=True))
        known = {run: loss for run, loss in by_run.items() if not np.isnan(loss)}
        return cls(Design(results.config, results.corpus), known)

    def descent(self, name: str, cell: Cell, start: Point, grid: dict) -> Descent:
        """Follows a descent at a cell, on the first seed, as far as the losses go."""
        loss = lambda p: self.losses.get(self.design.run(name, cell, p, 0).identity)
        return descend(grid, start, loss, self.design.config.margin)

    @cached_property
    def tuned(self) -> dict[str, Tuned]:
        """Every optimizer's descents: all settings at the first cell, the rate elsewhere."""
        return {name: self.tune(name) for name in self.design.config.optimizers}

    def tune(self, name: str) -> Tuned:
        """Follows an optimizer's descents; the largest widths' rates follow when these are done."""
        design, config = self.design, self.design.config
        first = self.descent(name, design.first, design.start(name), design.grid(name))
        if not first.certified:
            return Tuned(first)
        widths = sorted(config.widths)[: len(config.widths) - config.extrapolated]
        rates = {
            cell: self.descent(name, cell, first.point, {"rate": RATES})
            for cell in design.cells(name)
            if cell != design.first and cell[0] in widths
        }
        if not all(found.certified for found in rates.values()):
            return Tuned(first, rates)
        points = {design.first: first.point} | {cell: d.point for cell, d in rates.items()}
        return Tuned(first, rates, self.extended(name, points))

    def extended(self, name: str, points: dict[Cell, Point]) -> dict[Cell, Point]:
        """Adds the cells of extrapolated widths, with rates of a power law of the others'.

        The peak rate is a power of params_total and one of tokens per parameter, by least squares
        in logarithms.
        """
        params = lambda width: count(self.design.rung(width, 10**6).model).params_total
        terms = lambda cell: np.array([1.0, np.log(params(cell[0])), np.log(cell[1])])
        peaks = [np.log(p["rate"] * learning_rate(cell[0])) for cell, p in points.items()]
        law = np.linalg.lstsq(np.stack([*map(terms, points)]), np.array(peaks), rcond=None)[0]
        some = next(iter(points.values()))
        predicted = lambda cell: float(np.exp(terms(cell) @ law) / learning_rate(cell[0]))
        others = (cell for cell in self.design.cells(name) if cell not in points)
        return points | {cell: some | {"rate": predicted(cell)} for cell in others}

    def wanted(self) -> Iterator[Labelled]:
        """Gives all runs that the losses so far ask for: descents, then all seeds at their ends."""
        design = self.design
        for name, tuned in self.tuned.items():
            for point in tuned.first.missing:
                yield design.labelled("tune", name, design.first, point)
            for cell, found in tuned.rates.items():
                for point in found.missing:
                    yield design.labelled("rate", name, cell, point)
            for cell, point in tuned.points.items():
                for seed in range(design.config.seeds):
                    yield design.labelled("final", name, cell, point, seed)


def awaited(design: Design) -> Iterator[Labelled]:
    """Gives runs as many and as costly as follow if no descent moves from its start."""
    for name in design.config.optimizers:
        start = design.start(name)
        for cell in design.cells(name):
            if cell != design.first:
                for point in neighbours({"rate": RATES}, start):
                    yield design.labelled("rate", name, cell, point)
            for seed in range(design.config.seeds):
                yield design.labelled("final", name, cell, start, seed)


def study(config) -> Study:
    """Builds every optimizer's start with all its neighbours; descents and finals follow.

    Raises:
      Refused: an optimizer that there is not, none to compare with, or a cell without tuning.
    """
    design = Design.of(config)
    return design.study(
        report,
        Found(design, {}).wanted(),
        then=lambda results: tuple(Found.of(results).wanted()),
        awaited=tuple(awaited(design)),
    )


def report(results: Results) -> list[Block]:
    """Writes settings with their certificates, losses, speed-ups and their trend."""
    found = Found.of(results)
    recipe = lambda name, cell, point: found.design.run(name, cell, point, 0).recipe
    return optimizer_blocks(results.runs, found.tuned, recipe, BASELINE, found.design.first)
