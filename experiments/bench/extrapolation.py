"""Is the law chosen by rolling errors the one that predicts best, and do its intervals hold?

Question: on every public table, split as written down beforehand in
`experiments/results/extrapolation/splits.toml`, the laws are judged on the rows that are not held
out, and the weighted mean of them predicts those that are: how far off is it, beside every single
law used throughout and predictions without a law, and how often do its intervals hold?
Command: `python -m experiments.bench.extrapolation --data=FOLDER [--only=TABLES] [--out=OUT]`;
FOLDER holds the public tables under the names of the splits file. Offline, one thread.
Cost: about 10 CPU-minutes, four of them for the three learning curves and what goes `through`.
Published numbers: in the splits file, where a paper's own fit reaches the same held-out rows.

Writes tables.csv (a row per table), laws.csv (held-out error of every law on every table), what
`through` writes (unless with --only) and summary.md. The rule of the choice was fixed on the tables
of half "rule"; `extrapolation_report` lists what was tried there.
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
from experiments.bench.extrapolation_report import LEVELS, report
from fitting import Observations, Options, fit
from fitting.choice import Choice, choose
from fitting.columns import COLUMNS
from fitting.held_out import held_out_mask
from fitting.laws import LAWS
from fitting.observations import read_frame
from fitting.rolling import PLAIN, fitted_to, plain, root_mean_square
from refused import Refused

RESULTS = Path(__file__).parents[1] / "results" / "extrapolation"


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
    return "; ".join(f"{name} {weight:.2f}" for name, weight in weights.items())


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
    published = {entry["name"]: entry.get("published", "") for entry in splits()}
    text = report(*kept_rows, published, through.stored(options.out))
    (options.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
