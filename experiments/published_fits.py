"""Refit every published table and set our numbers beside the published ones.

Question: does one solver, with one way of making intervals, reproduce the published fits, and
which of their parameters do the data identify?
Command: `python -m experiments.published_fits [--out=experiments/results]`; offline, one thread.
Cost: under a minute on one core.
Published numbers: Chinchilla (Besiroglu et al. 2024), over-training and downstream error (Gadre et
al. 2024), ParScale (Chen et al. 2025), repetition (Muennighoff et al. 2023), routed models (Clark
et al. 2022). RegMix's table has a report of its own, `experiments.published_mixtures`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fitting import LAWS, Fit, Observations, fit
from fitting.tables import comparison

OUT = Path(__file__).parent / "results"
COLUMNS = ("table", "law", "objective", "parameter", "published", "ours", "low", "high", "verdict")
COLUMNS += ("intervals",)
# Published rows that belong to another objective than the paper's headline.
CHINCHILLA = {
    "huber": ("notebook", {"E": 1.8172355, "A": 477.8417, "B": 2143.864, "alpha": 0.3473127,
                           "beta": 0.3671826}),
    "lad": ("table", {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}),
}  # fmt: skip


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
    out = []
    for name, value in result.parameters.items():
        low, high = result.intervals.get(name, ("", ""))
        verdict = result.verdicts.get(name, "")
        cells = (table, result.law.name, result.objective, name, published.get(name, ""), value)
        cells += (low, high, verdict, result.interval_method)
        out.append(dict(zip(COLUMNS, cells, strict=True)))
    return out


def main(argv=None) -> list[dict]:
    """Refit, write published_fits.csv, .md, .tex and .html, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args(argv)
    table = [row for entry in fits(options.draws) for row in rows(*entry)]
    options.out.mkdir(parents=True, exist_ok=True)
    for how, suffix in (("csv", "csv"), ("markdown", "md"), ("latex", "tex"), ("html", "html")):
        text = comparison(list(COLUMNS), table, how)
        (options.out / f"published_fits.{suffix}").write_text(text)
    return table


if __name__ == "__main__":
    main()
