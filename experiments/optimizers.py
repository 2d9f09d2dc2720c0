"""Which optimizer? Is it faster than a well-tuned AdamW, by how much, and does it last with size?

Command    espalier run --config=experiments/optimizers.py:cpu
           (rounds of runs that follow from losses; --config.optimizers="('adamw','scion')" takes
           any of `scaling.optimizers.OPTIMIZERS`, adamw among them)
Cost       cpu: 26 CPU-minutes for 321 runs, on two cores under other load;
           gpu: 2.1 hours of one H200 at least (espalier plan --for=h200:1), in slices of 8 minutes
           by --stop-after=480; it has not been run
Compared   Wen et al. 2025 (arXiv:2509.02046): tuned, at most 1.4 times as fast as a tuned AdamW,
           1.3 at 0.1–0.5 billion parameters and 1.1 at 1.2 billion for optimizers of matrices.
Answer     Per optimizer and size the speed-up in tokens and in time with intervals over seeds, its
           trend over sizes, and certificates of the settings. At width 32 Cautious AdamW is worth
           1.6 of a tuned AdamW's tokens, SinkGD 1.5 and NAdamW 1.4, resolved; Muon 1.8 and SOAP
           1.9 are not by two seeds, nor Lion's 1.1. With size SinkGD's grows, by two seeds and two
           sizes; of the others no trend is resolved.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from experiments.evidence.descent import Cell, Point, Tuned, descend, power_law, tune
from experiments.evidence.optimizers import optimizer_blocks
from experiments.evidence.report import Block
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, Results, Study, configured
from models import ModelConfig, count
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
THIRDS = (0.1, 0.3, 1.0, 3.0)
OF_BETAS = ("adamw", "nadamw", "cautious", "lion", "soap", "adam_mini", "schedule_free")
# Every optimizer's own settings.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = dict.fromkeys(OF_BETAS, dict(b1=FAST, b2=SLOW)) | {
    "muon": dict(momentum=FAST, adam_rate=THIRDS),
    "sinkgd": dict(scale=(0.025, 0.05, 0.1, 0.2), adam_rate=THIRDS),
    "scion": dict(momentum=FAST, sign_rate=(0.05, 0.1, 0.25, 0.5)),
    "mars": dict(gamma=(0.0125, 0.025, 0.05), b1=FAST),
    "kron": dict(b1=FAST, speed=(0.05, 0.1, 0.2)),
    "cosmos": dict(gamma=(0.1, 0.2, 0.4), adam_rate=THIRDS),
    "stosignsgd": dict(b1=FAST),
    "adafactor": dict(power=(0.6, 0.8, 1.0)),
    "adopt": dict(b1=FAST, b2=(0.99, 0.999, 0.9999)),
    "ademamix": dict(alpha=(4.0, 8.0, 16.0), b3=(0.99, 0.999, 0.9999)),
}
# Starts are the classes' defaults, and AdamW's rate but where the direction has another size.
START_RATES = {"lion": 0.25, "muon": 4.0, "scion": 4.0, "stosignsgd": 0.25}
SENSITIVE = ("rate",)  # What is tuned again at every other width and length.
Loss = Callable[[str, Cell, Point], float | None]  # Of an optimizer's first seed, where trained.


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

    def model(self, width: int) -> ModelConfig:
        """Returns the ladder's model of a width."""
        return self.rung(width, 10**6).model  # Tokens change no model.

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
        model = self.model(width)
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

    def tuned(self, loss: Loss) -> dict[str, Tuned]:
        """Follows every optimizer's descents, on the first seed, as far as the losses go."""
        return {name: self.tune(name, loss) for name in self.config.optimizers}

    def tune(self, name: str, loss: Loss) -> Tuned:
        """Follows an optimizer's descents; the largest widths' rates follow when these are done."""
        margin, widths = self.config.margin, sorted(self.config.widths)
        widths = widths[: len(widths) - self.config.extrapolated]
        rest = [c for c in self.cells(name) if c != self.first and c[0] in widths]
        descent = lambda cell, *asked: descend(*asked, lambda p: loss(name, cell, p), margin)
        found = tune(descent, [self.first, *rest], self.start(name), self.grid(name), SENSITIVE)
        return replace(found, points=self.extended(name, found.points)) if found.points else found

    def extended(self, name: str, points: dict[Cell, Point]) -> dict[Cell, Point]:
        """Adds the cells of extrapolated widths, with peak rates of a power law of the others'."""
        sizes = lambda cell: (count(self.model(cell[0])).params_total, cell[1])
        peaks = {cell: p["rate"] * learning_rate(cell[0]) for cell, p in points.items()}
        rates = power_law(peaks, sizes, [c for c in self.cells(name) if c not in points])
        some = points[self.first]
        return points | {c: some | {"rate": r / learning_rate(c[0])} for c, r in rates.items()}

    def wanted(self, loss: Loss) -> Iterator[Labelled]:
        """Gives all runs that losses ask for: descents, then all seeds at their ends."""
        for name, tuned in self.tuned(loss).items():
            for point in tuned.first.asked:
                yield self.labelled("tune", name, self.first, point)
            for cell, found in tuned.others.items():
                for point in found.asked:
                    yield self.labelled("rate", name, cell, point)
            for cell, point in tuned.points.items():
                for seed in range(self.config.seeds):
                    yield self.labelled("final", name, cell, point, seed)

    def losses(self, results: Results) -> Loss:
        """Looks a study's losses up by optimizer, cell and point."""
        known = results.losses
        return lambda name, cell, point: known.get(self.run(name, cell, point, 0).identity)


def study(config) -> Study:
    """Builds every optimizer's start with all its neighbours; descents and finals follow.

    Raises:
      Refused: an optimizer that there is not, none to compare with, or a cell without tuning.
    """
    design = Design.of(config)
    # As many runs, and as costly, follow if no descent moves from its start.
    still = design.wanted(lambda name, cell, point: float(point != design.start(name)))
    awaited = {item.run.identity: item for item in still if item.labels["role"] != "tune"}
    return design.study(
        report,
        design.wanted(lambda *_: None),
        then=lambda results: tuple(design.wanted(design.losses(results))),
        awaited=tuple(awaited.values()),
    )


def report(results: Results) -> list[Block]:
    """Writes settings with their certificates, losses, speed-ups and their trend."""
    design = Design(results.config, results.corpus)
    recipe = lambda name, cell, point: design.run(name, cell, point, 0).recipe
    tuned = design.tuned(design.losses(results))
    return optimizer_blocks(results.runs, tuned, recipe, BASELINE, design.first)
