"""Refit every published table and set our numbers beside the published ones.

Question: does one solver, with one way of making intervals, reproduce the published fits, and
which of their parameters do the data identify?
Command: `python -m experiments.evidence.published_fits [--out=experiments/results]`; offline, one
thread.
Cost: under a minute on one core.
Published numbers: Chinchilla (Besiroglu et al. 2024), over-training and downstream error (Gadre et
al. 2024), ParScale (Chen et al. 2025), repetition (Muennighoff et al. 2023), routed models (Clark
et al. 2022), optimizers (Wen et al. 2025). RegMix's table has a report of its own,
`experiments.evidence.published_mixtures`.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.evidence.report import page, rendered
from fitting import LAWS, Fit, Observations, fit
from fitting.profiles import MEANING
from fitting.speed_up import speed_up
from fitting.tables import aligned, comparison

OUT = Path(__file__).parents[1] / "results"
COLUMNS = ("table", "law", "objective", "parameter", "unit", "published", "ours", "difference")
COLUMNS += ("low", "high", "verdict", "intervals")
INTRODUCTION = f"""# Published fits, refitted

Every published table that the library ships, fitted by one solver and set beside the published
parameters. Made by `python -m experiments.evidence.published_fits`; the numbers in full precision
are in `published_fits.csv`.

- difference: ours / published - 1. Published values are rounded, some to two digits.
- intervals: 90 %, by the way named above each table; fits without one say why.
- verdicts: {MEANING}.
- Chinchilla's published table and the published notebook are fits of two objectives; so are ours.
- Optimizers (Wen et al. 2025, arXiv:2509.02046): a speed-up is how much longer AdamW trains to
  Muon's loss, by AdamW's curve through its three losses at a size. Losses are rounded to
  three decimals, which leaves two digits.
- Repetition: the published point is a local optimum. A lower one lies far from it, and the data
  leave R_D open.
"""
# Published rows that belong to another objective than the paper's headline.
CHINCHILLA = {
    "huber": ("notebook", {"E": 1.8172355, "A": 477.8417, "B": 2143.864, "alpha": 0.3473127,
                           "beta": 0.3671826}),
    "lad": ("table", {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}),
}  # fmt: skip
# Log-log fits over four sizes at 80 tokens per parameter, as released with the losses; and Muon's
# speed-up at 40, 80 and 160 tokens per parameter, from losses rounded to three decimals.
OPTIMIZERS = {
    "adamw": {"A": 14.7284, "alpha": 0.07974},
    "muon": {"A": 13.9763, "alpha": 0.07735},
    "nadamw": {},
    "soap": {},
}
SPEED_UPS = {301_989_888: (1.22, 1.20, 1.24), 536_870_912: (1.22, 1.21, 1.30)}


def fits(draws: int) -> Iterator[tuple[str, Fit, dict]]:
    """(table, fit, published parameters) for every published fit with a public table."""
    runs = Observations.read("published:chinchilla:240")
    for objective, (row, published) in CHINCHILLA.items():
        result = fit("chinchilla", runs, objective=objective, draws=draws)
        yield f"chinchilla, 240 runs ({row})", result, published
    for name, published in LAWS["over_training"].published.items():
        five, six = over_training_points(name)
        options = {"objective": "least_squares", "point_only": True}
        yield f"over-training {name}, 5 runs", fit("over_training", five, **options), published
        for tasks in (17, 46):
            result = fit("downstream", six, target=f"error.average_{tasks}", **options)
            chosen = LAWS["downstream"].published[f"{name}, {tasks} tasks"]
            yield f"downstream {name}, {tasks} tasks, 6 runs", result, chosen
        every = Observations.read(f"published:over_training:{name}")
        yield f"over-training {name}, all runs", fit("over_training", every, draws=draws), {}
    for name, published in LAWS["parscale"].published.items():
        result = fit("parscale", Observations.read(f"published:parscale:{name}"), draws=draws)
        yield f"parscale {name}", result, published
    result = fit("repetition", Observations.read("published:repetition"), draws=draws)
    yield "repetition", result, LAWS["repetition"].published["c4"]
    for name, published in LAWS["routed"].published.items():
        runs = Observations.read(f"published:routed:{name}")
        result = fit("routed", runs, objective="least_squares_log", draws=draws)
        yield f"routed {name}", result, published
    for name, published in OPTIMIZERS.items():
        runs = Observations.read(f"published:optimizers:{name}")
        multiplier = runs.column("tokens") / runs.column("params_non_embedding")
        four, options = runs.only(np.round(multiplier) == 80), {"objective": "least_squares_log"}
        result = fit("size_no_floor", four, draws=draws, **options)
        yield f"optimizers, {name} at four sizes", result, published


def speed_ups() -> Iterator[dict]:
    """Rows of Muon's speed-up over AdamW at every size and length that both have."""
    arms = [Observations.read(f"published:optimizers:{name}") for name in ("adamw", "muon")]
    for size, published in SPEED_UPS.items():
        adamw, muon = (arm.only(arm.column("params_non_embedding") == size) for arm in arms)
        curve = fit("data", adamw, objective="least_squares_log", point_only=True)
        points = speed_up(adamw, muon, asymptote=curve.parameters["E"]).points
        for x, ours, theirs in zip(points["x"], points["factor"], published, strict=True):
            name = f"speed-up at {x / size:.0f} tokens/parameter"
            cells = (f"optimizers, Muon over AdamW at {size / 1e6:.0f}M", "data", curve.objective)
            cells += (name, "1", theirs, ours, ours / theirs - 1, "", "", "")
            yield dict(zip(COLUMNS, (*cells, "none (3 runs, 3 parameters)"), strict=True))


def over_training_points(name: str) -> tuple[Observations, Observations]:
    """The 5 runs of the published loss fit and the 6 of the error fit (the 1.4 B run besides)."""
    runs = Observations.read(f"published:over_training:{name}")
    size = runs.column("params_total")
    sizes = np.unique(size)
    multiplier = np.round(runs.column("tokens") / size)
    small = (multiplier == 320) & (size == sizes[0])
    return tuple(runs.only(small | (multiplier == 20) & (size <= sizes[k])) for k in (3, 4))


def rows(table: str, result: Fit, published: dict) -> list[dict]:
    """One row per parameter, keys `COLUMNS`; empty text where there is no number."""
    units = {parameter.name: parameter.unit for parameter in result.law.parameters}
    out = []
    for name, value in result.parameters.items():
        low, high = result.intervals.get(name, ("", ""))
        verdict = result.verdicts.get(name, "")
        theirs = published.get(name, "")
        difference = value / theirs - 1 if theirs != "" else ""
        cells = (table, result.law.name, result.objective, name, units.get(name, "derived"))
        cells += (theirs, value, difference, low, high, verdict, result.interval_method)
        out.append(dict(zip(COLUMNS, cells, strict=True)))
    return out


def text_of(table: list[dict]) -> str:
    """The rows as Markdown, one table a fit under its law, objective and kind of interval."""
    parts = [INTRODUCTION]
    titles = ("parameter", "published", "ours", "difference", "interval", "unit", "verdict")
    for title, members in itertools.groupby(table, lambda row: row["table"]):
        members = list(members)
        law, first = LAWS[members[0]["law"]], members[0]
        how = "90 % intervals" if first["low"] != "" else "interval"
        parts += [f"## {title[0].upper()}{title[1:]}", ""]
        how = f"objective {first['objective']}; {how}: {first['intervals']}"
        parts += [f"`{law.formula}`; {how}.", ""]
        parts += [aligned(titles, map(cells, members))]
    laws = dict.fromkeys(row["law"] for row in table)
    parts += ["## Sources", "", *(f"- {law}: {LAWS[law].source}" for law in laws), ""]
    return "\n".join(parts)


def cells(row: dict) -> list[str]:
    """One line of a fit's table: our values to 7 digits, ends of intervals to 4."""
    published = f"{row['published']:.7g}" if row["published"] != "" else "none"
    difference = f"{row['difference']:+.1e}" if row["difference"] != "" else ""
    interval = f"{row['low']:.4g} to {row['high']:.4g}" if row["low"] != "" else "none"
    ours = f"{row['ours']:.7g}"
    return [row["parameter"], published, ours, difference, interval, row["unit"], row["verdict"]]


def main(argv=None) -> list[dict]:
    """Refit, write published_fits.csv, .md, .tex and .html, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args(argv)
    table = [row for entry in fits(options.draws) for row in rows(*entry)] + [*speed_ups()]
    options.out.mkdir(parents=True, exist_ok=True)
    text = text_of(table)
    files = {"csv": comparison(list(COLUMNS), table, "csv"), "md": text}
    files |= {"tex": comparison(list(COLUMNS), table, "latex")}
    files |= {"html": page("Published fits, refitted", rendered(text))}
    for suffix, content in files.items():
        (options.out / f"published_fits.{suffix}").write_text(content)
    return table


if __name__ == "__main__":
    main()
