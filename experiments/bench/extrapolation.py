"""Is the law chosen by rolling errors the one that predicts best, and do its intervals hold?

Question: on every public table, split as written down beforehand in
`experiments/results/extrapolation/splits.toml`, the laws are judged on the rows that are not held
out, and the weighted mean of them predicts those that are: how far off is it, beside every single
law used throughout and predictions without a law, and how often do its intervals hold?
Command: `python -m experiments.bench.extrapolation --data=FOLDER [--only=TABLES] [--out=OUT]`;
FOLDER holds the public tables under the names of the splits file. Offline, one thread.
Cost: about 8 CPU-minutes, two of them for the three learning curves and what goes `through`.
Published numbers: in the splits file, where a paper's own fit reaches the same held-out rows.

Writes tables.csv (a row per table), laws.csv (held-out error of every law on every table), what
`through` writes (unless with --only) and summary.md. The rule of the choice was fixed on the tables
of half "rule"; TRIED lists what was tried there.
"""

import argparse
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from experiments.bench import through
from fitting import Observations, Options, fit
from fitting.choice import Choice, choose
from fitting.columns import COLUMNS
from fitting.held_out import held_out_mask
from fitting.laws import LAWS
from fitting.observations import read_frame
from fitting.rolling import PLAIN, fitted_to, plain, root_mean_square
from fitting.tables import aligned
from refused import Refused

RESULTS = Path(__file__).parents[1] / "results" / "extrapolation"
LEVELS = (0.5, 0.8, 0.9)
FEWEST = 5  # held-out rows from which a table's coverage is counted
TRIED = (  # rule, regret, error over Chinchilla's; of several settings the best
    ("single law, all rows beyond every cut alike", 1.41, 0.76),
    ("single law, last two cuts only", 1.34, 0.70),
    ("single law, rows near the distance asked about, three widths", 1.40, 0.76),
    ("single law, cuts by the first power of the fitted runs", 1.35, 0.70),
    ("single law, cuts by the second power", 1.34, 0.69),
    ("single law, cuts by the fourth power", 1.35, 0.71),
    ("single law, cuts by the eighth power", 1.39, 0.71),
    ("single law, geometric mean over cuts", 1.42, 0.77),
    ("single law, median over cuts", 1.41, 0.74),
    ("mean of the laws within 1.15 times the least score", 1.26, 0.65),
    ("mean of the laws within 1.3 times", 1.35, 0.69),
    ("mean of the laws within 1.6 times", 1.23, 0.65),
    ("mean of the laws within 2 times", 1.09, 0.64),
    ("mean stacked on the laws within 1.3 times", 1.32, 0.65),
    ("mean stacked on the laws within 1.6 times", 1.31, 0.64),
    ("mean stacked on all laws", 1.14, 0.61),
    ("stacked on all, drawn to equal weights by .3, fourth power, near rows", 1.10, 0.60),
)
# As many of the tables are of one study: the mean over the four sources of those 13 tables decides.
TRIED_AGAIN = (  # rule, regret over sources, regret over tables, error over Chinchilla's
    ("Chinchilla throughout", 1.810, 1.977, 1.000),
    ("Skaling throughout", 1.359, 1.547, 0.842),
    ("as before: drawn to equal weights by .3, fourth power, width .5", 1.025, 0.961, 0.533),
    ("cuts by the power 0", 1.032, 1.046, 0.580),
    ("cuts by the power 2", 1.013, 0.983, 0.546),
    ("cuts by the power 8", 1.072, 0.977, 0.532),
    ("rows near the distance by a width of .25", 1.010, 0.947, 0.537),
    ("rows near the distance by a width of 5", 1.024, 0.969, 0.531),
    ("errors by unit of distance", 1.065, 1.060, 0.571),
    ("drawn by .3 to weights by BIC", 1.057, 1.091, 0.552),
    ("weights of the inverse square of the errors", 1.159, 1.220, 0.609),
    ("weights of the inverse fourth power", 0.944, 1.009, 0.602),
    ("weights of the inverse eighth power", 1.170, 1.365, 0.655),
    ("mean of the weights without each cut", 1.021, 0.953, 0.530),
    ("drawn by .3 to the inverse fourth power", 1.007, 0.958, 0.528),
    ("drawn by 3 to the inverse fourth power", 1.068, 1.114, 0.572),
    ("drawn by .3 to the inverse eighth power", 1.006, 0.980, 0.532),
    ("that by .3, width .25, cuts by the fourth power", 0.970, 0.926, 0.531),
    ("that by .6, width .35, cuts by the fourth power", 0.985, 0.927, 0.531),
    ("kept: that by .6, width .35, cuts by the third power", 0.936, 0.898, 0.531),
)
# Once more, for rows at the distances that are asked about: before, near the farthest one only.
TRIED_LAST = (  # rule, regret over sources, regret over tables, error over Chinchilla's
    ("kept before: rows near the farthest row asked about", 0.936, 0.897, 0.530),
    ("KEPT: rows near any of the rows asked about", 0.908, 0.837, 0.511),
    ("rows near the median row asked about", 0.909, 0.839, 0.512),
    ("near any row, drawn by .3", 0.929, 0.861, 0.509),
    ("near any row, drawn to the inverse square of the errors", 0.964, 0.890, 0.523),
    ("near any row, drawn to the inverse eighth power", 0.845, 0.804, 0.510),
    ("less the mean rolling error by distance, shrunk by its own variance", 1.004, 0.977, 0.546),
    ("less that, shrunk as by James and Stein", 0.976, 0.947, 0.540),
    ("the same with all cuts alike", 0.997, 0.995, 0.583),
    ("near any row, less the mean error, by its own variance", 0.983, 0.929, 0.533),
    ("near any row, less the mean error, by James and Stein", 0.956, 0.904, 0.530),
)
WARNING_TRIED = """\
The eighth power was left: the gain is of one table with two held-out rows, and it lost above.
Warned of, on the same half: a plain prediction that the mean is not shown to be better than (90 %
interval of the difference of absolute rolling errors, trunks resampled). It names one table of the
13, rw base_long_kaplan_standard_val, the only one there where the mean is above 1.1 times the best
baseline; near the farthest row only it also named owt2 base_long_kaplan_standard_val (1.05 times),
a false alarm."""
INTERVALS_TRIED = """\
For intervals: misfit in proportion to the log distance, cuts weighted by the power 0, 1, 2, 4, with
and without nearness, in its square root, as the larger of noise and misfit, without subtracting
noise, with a t quantile of the effective number of cuts or of 4 degrees. Kept: the power 2 with
nearness and a normal quantile. After the second choice of weights these held 83 % of the rows on
ten tables of half "rule", 14 % on one; kept with it: the weighted variance of the laws where that
is more than the misfit (94 %, interval score .63 instead of .55 of Chinchilla's)."""


@dataclass(frozen=True)
class Table:
    """One public table with its split: the entry of the splits file, the runs, what is held out."""

    entry: dict
    runs: Observations
    held_out: np.ndarray
    options: Options


def splits(file: Path = RESULTS / "splits.toml") -> list[dict]:
    """The entries of the splits file."""
    return tomllib.loads(file.read_text())["table"]


def read(entry: dict, folder: Path) -> Table:
    """One table as its entry says; Refused for a file that is missing or a split without rows."""
    frame = read_frame(folder / entry["file"])
    for column, value in entry.get("where", {}).items():
        frame = frame[frame[column].isin(value if isinstance(value, list) else [value])]
    if "last" in entry:
        frame = frame.sort_values("step", kind="stable").groupby(entry["last"]).tail(1)
    frame = frame.rename(columns=entry.get("columns", {}))
    params = entry.get("params")
    if "tokens" not in frame and "flops_6nd" in frame:
        frame = frame.assign(tokens=frame["flops_6nd"] / 6 / frame[params])
    if "unique_tokens" in frame:
        frame = frame.assign(epochs=frame["tokens"] / frame["unique_tokens"])
    for column, value in entry.get("below", {}).items():
        frame = frame[frame[column] < value]
    known = [name for name in frame if name in COLUMNS]
    runs = Observations(frame[known].reset_index(drop=True))
    options = Options(params=params)
    return Table(entry, runs, held_out_mask(runs, entry["held_out"], params), options)


def judged(table: Table) -> tuple[dict, dict]:
    """One row of tables.csv, and {law or prediction: held-out error}."""
    entry, runs, mask, options = table.entry, table.runs, table.held_out, table.options
    laws = [name for name in entry["laws"] if name in LAWS]
    seen = Observations(runs.frame[~mask].reset_index(drop=True))
    start = time.process_time()
    # Held-out rows are read for where they lie, never for their loss.
    choice = choose(laws, runs, options, held_out=mask, direction=entry["direction"])
    seconds = time.process_time() - start
    frame = runs.frame[mask]
    observed = frame["loss"].to_numpy(float)
    errors = {name: _error(np.exp(found), observed) for name, found in _plain(table).items()}
    for name in laws:
        found = fitted_to(LAWS[name], runs, mask, options)
        if found is not None:
            errors[name] = _error(found.held_out["predicted"], observed)
    row = {"table": entry["name"], "half": entry["half"], "family": entry["family"]}
    row |= {"rows": len(seen), "held_out": int(mask.sum()), "times": np.exp(choice.distance)}
    row |= {"choice": choice.name, "weights": _told(choice.weights)}
    row |= _scores(choice, frame, observed)
    row["chosen_law_error"] = errors.get(choice.name, np.nan)
    row["chinchilla_error"] = errors.get("chinchilla", np.nan)
    known = [errors[name] for name in PLAIN if name in errors]
    row["baseline_error"] = min(known, default=np.nan)
    row["best_law"] = min((n for n in laws if n in errors), key=errors.get, default="")
    row["best_law_error"] = errors.get(row["best_law"], np.nan)
    row["missing_laws"] = " ".join(name for name in entry["laws"] if name not in LAWS)
    row["warnings"] = "; ".join(choice.warnings)
    row["cpu_seconds"] = round(seconds, 2)
    return row | _todays(table, observed), errors


def _plain(table: Table) -> dict:
    return plain(table.runs, table.held_out, table.options.params)


def _error(predicted, observed) -> float:
    return root_mean_square(np.asarray(predicted, float) / observed - 1)


def _told(weights: dict) -> str:
    return " ".join(f"{name}:{weight:.2f}" for name, weight in weights.items())


def _scores(choice: Choice, frame: pd.DataFrame, observed) -> dict:
    """Error of the weighted mean, shares inside its intervals, and the 90 % interval score."""
    out = {}
    for level in LEVELS:
        found = choice.predict(frame, level)
        inside = (observed >= found["low"]) & (observed <= found["high"])
        known = np.isfinite(found["low"]).all()
        out[f"inside_{level:.0%}"] = float(np.mean(inside)) if known else np.nan
    out["error"] = _error(found["prediction"], observed)
    return out | {"interval_score": interval_score(found, observed)}


def interval_score(found: pd.DataFrame, observed, level: float = 0.9) -> float:
    """Mean interval score over the observed values (Gneiting and Raftery 2007, eq. 43)."""
    low, high = found["low"].to_numpy(float), found["high"].to_numpy(float)
    beyond = np.maximum(low - observed, 0) + np.maximum(observed - high, 0)
    return float(np.mean((high - low + 2 / (1 - level) * beyond) / observed))


def _todays(table: Table, observed) -> dict:
    """The Chinchilla fit's own intervals, by bootstrap, without misfit: what they are worth."""
    out = {"chinchilla_inside_90%": np.nan, "chinchilla_interval_score": np.nan}
    if "chinchilla" not in table.entry["laws"]:
        return out
    try:
        held = {"held_out": table.held_out, "draws": 300, "audits": 4}
        kept = fit("chinchilla", table.runs, table.options, **held).held_out
    except Refused:
        return out
    inside = (kept["observed"] >= kept["low"]) & (kept["observed"] <= kept["high"])
    out["chinchilla_inside_90%"] = float(inside.mean())
    return out | {"chinchilla_interval_score": interval_score(kept, observed)}


def summary(rows: pd.DataFrame, laws: pd.DataFrame) -> list[list[str]]:
    """What the rows come to, by half and together, for the (params, tokens) tables and for all."""
    out = []
    for family in ("params and tokens", "all"):
        for half in ("rule", "apart", "both"):
            some = rows if family == "all" else rows[rows["family"] == family]
            some = some if half == "both" else some[some["half"] == half]
            if len(some):
                out.append([family, half, *_figures(some, laws)])
    return out


TITLES = ["tables", "half", "number", "error / Chinchilla's", "regret", "chosen law's regret"]
TITLES += [
    "at most 1.1 x baseline",
    "or warned",
    "inside 90 %",
    "below 70 %",
    "interval score ratio",
]


def _figures(some: pd.DataFrame, laws: pd.DataFrame) -> list[str]:
    both = some.dropna(subset=["chinchilla_error"])
    ratio = both["error"].mean() / both["chinchilla_error"].mean()
    regret, single = (
        _geometric(some[n] / some["best_law_error"]) for n in ("error", "chosen_law_error")
    )
    fine = some["error"] <= 1.1 * some["baseline_error"]
    told = fine | (some["warnings"] != "")
    many = some[(some["held_out"] >= FEWEST) & some["inside_90%"].notna()]
    scores = _geometric(many["interval_score"] / many["chinchilla_interval_score"])
    numbers = [
        f"{len(some)}",
        f"{ratio:.3f}",
        f"{regret:.3f}",
        f"{single:.3f}",
        f"{fine.mean():.0%}",
        f"{told.mean():.0%}",
    ]
    covered = [many["inside_90%"].mean(), (many["inside_90%"] < 0.7).mean()]
    return [*numbers, *(f"{value:.0%}" for value in covered), f"{scores:.3f}"]


def _geometric(ratios) -> float:
    known = ratios[np.isfinite(ratios.astype(float))]
    return float(np.exp(np.log(known).mean())) if len(known) else float("nan")


def throughout(rows: pd.DataFrame, laws: pd.DataFrame) -> list[list[str]]:
    """Every single law used throughout the (params, tokens) tables, beside the weighted mean."""
    some = rows[rows["family"] == "params and tokens"].set_index("table")
    wide = laws.pivot(index="table", columns="law", values="error").loc[some.index]
    wide = wide.assign(**{"the weighted mean": some["error"]})
    out = []
    for name in wide:
        known = wide[name].notna()
        if not known.any():
            continue
        ratio = wide[name][known].mean() / some["chinchilla_error"][known].mean()
        regret = _geometric(wide[name][known] / some["best_law_error"][known])
        out.append([name, f"{known.sum()}", f"{ratio:.3f}", f"{regret:.3f}"])
    return sorted(out, key=lambda cells: float(cells[3]))


def run(folder: Path, names=None, echo=print):
    """Yields the row of tables.csv and the rows of laws.csv of each table, or of the named ones."""
    for entry in splits():
        if names is not None and entry["name"] not in names:
            continue
        with threadpool_limits(limits=1):
            row, errors = judged(read(entry, folder))
        echo(f"{row['table']}: {row['error']:.3%}, {row['choice']}, {row['cpu_seconds']} s")
        yield row, [{"table": entry["name"], "law": n, "error": e} for n, e in errors.items()]


def stored(file: Path) -> pd.DataFrame:
    """A table that was written, with empty texts as texts."""
    table = pd.read_csv(file)
    texts = [name for name in ("warnings", "missing_laws") if name in table]
    told = {n: ["" if pd.isna(value) else str(value) for value in table[n]] for n in texts}
    return table.assign(**told)


def keep(file: Path, rows: list[dict]) -> None:
    """Puts the rows of some tables in the place of theirs in a file, in the order of the splits."""
    table = pd.DataFrame(rows)
    if file.exists():
        old = stored(file)
        table = pd.concat([old[~old["table"].isin(table["table"])], table])
    order = {entry["name"]: place for place, entry in enumerate(splits())}
    table = table.sort_values("table", key=lambda names: names.map(order), kind="stable")
    table.to_csv(file, index=False, float_format="%.6g")


def report(rows: pd.DataFrame, laws: pd.DataFrame, out: Path | None = None) -> str:
    """summary.md: what it comes to, the laws used throughout, every table, those of `through` that
    are stored in a folder, and the rules tried.
    """
    titles = ["table", "half", "law of least rolling error", "weighted mean", "Chinchilla"]
    titles += ["best baseline", "best law in hindsight", "published", "50 %", "80 %", "90 %"]
    titles += ["warned"]
    published = {entry["name"]: entry.get("published", "") for entry in splits()}
    cells = [
        [r["table"], r["half"], f"{r['choice']} {_percent(r['chosen_law_error'])}"]
        + [_percent(r[name]) for name in ("error", "chinchilla_error", "baseline_error")]
        + [f"{r['best_law']} {_percent(r['best_law_error'])}", published[r["table"]]]
        + [_share(r[f"inside_{level:.0%}"]) for level in LEVELS]
        + ["yes" if r["warnings"] else ""]
        for r in rows.to_dict("records")
    ]
    parts = [
        "# Prediction beyond the data on public tables",
        "Held-out root mean square relative errors; shares of held-out rows inside the intervals.",
        aligned(TITLES, summary(rows, laws)),
        "Every law used throughout the (params, tokens) tables:",
        aligned(["law", "tables", "error / Chinchilla's", "regret"], throughout(rows, laws)),
        aligned(titles, cells),
        "" if out is None else through.stored(out),
        'Rules tried on the (params, tokens) tables of half "rule", with six laws: geometric '
        "mean of held-out log error over the best law's, mean error over Chinchilla's.",
        aligned(["rule", "regret", "error / Chinchilla's"], [list(map(str, r)) for r in TRIED]),
        "Tried again there, with all laws. Seven of the 13 tables are of one study, so that the "
        "geometric mean of the regret over the four sources decides:",
        aligned(
            ["rule", "regret, sources", "regret, tables", "error / Chinchilla's"],
            [list(map(str, r)) for r in TRIED_AGAIN],
        ),
        "And for rows at the distances asked about:",
        aligned(
            ["rule", "regret, sources", "regret, tables", "error / Chinchilla's"],
            [list(map(str, r)) for r in TRIED_LAST],
        ),
        WARNING_TRIED,
        INTERVALS_TRIED,
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _percent(value: float) -> str:
    return "none" if not np.isfinite(value) else f"{value:.2%}"


def _share(value: float) -> str:
    return "none" if not np.isfinite(value) else f"{value:.0%}"


def main(argv=None):
    """Judge the tables and write what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the public tables")
    parser.add_argument("--only", help="tables by name, with commas; other rows of --out stay")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    known = [entry["name"] for entry in splits()]
    names = options.only.split(",") if options.only else known
    for name in names:
        if name not in known:
            parser.error(str(Refused("--only", name, ", ".join(known))))
    options.out.mkdir(parents=True, exist_ok=True)
    for row, laws in run(options.data, names, lambda line: print(line, flush=True)):
        keep(options.out / "tables.csv", [row])
        keep(options.out / "laws.csv", laws)
    if names == known:
        through.write(options.data, options.out)
    kept_rows = (stored(options.out / f"{name}.csv") for name in ("tables", "laws"))
    text = report(*kept_rows, options.out)
    (options.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
