"""How far off are predictions that go another way than from size and tokens to the loss?

Question: accuracy through the loss (a chain for each task of the OLMo ladder, asked at 7B and 13B)
and the loss of a mixture of domains (RegMix's 512 proxies of 1M, asked at 1M, 60M and 1B), split as
written down in `experiments/results/extrapolation/splits.toml`, beside predictions without a law.
Command: part of `python -m experiments.bench.extrapolation --data=FOLDER`, or alone
`python -m experiments.bench.through --data=FOLDER [--out=OUT]`. Offline, one thread.
Cost: about two CPU-minutes.
Published numbers: in the splits file.

Writes chains.csv and mixtures.csv.
"""

import argparse
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from fitting import Observations, Options
from fitting.chain import LINK, beyond, chain, fit_chain
from fitting.choice import Choice
from fitting.mixtures import Proxies, baselines, cross_validate, fit_target, rank_correlation
from fitting.observations import read_frame
from fitting.rolling import plain
from fitting.tables import aligned

RESULTS = Path(__file__).parents[1] / "results" / "extrapolation"
LEVELS = (0.5, 0.8, 0.9)
DRAWS = 400


def entries(kind: str, file: Path = RESULTS / "splits.toml") -> list[dict]:
    """The entries of the splits file of one kind, "chain" or "mixture"."""
    return tomllib.loads(file.read_text())[kind]


def relative(predicted, true) -> float:
    """Mean absolute relative error, as the published numbers of the ladder are."""
    return float(np.mean(np.abs(np.asarray(predicted, float) / true - 1)))


def chained(entry: dict, folder: Path) -> list[dict]:
    """A row for each task: the chain with the loss law chosen on the ladder, and others."""
    names = entry["columns"]
    losses, links = (
        read_frame(folder / entry[part]).rename(columns=names) for part in ("losses", "links")
    )
    return [
        _task(entry, task, losses[losses[entry["by"]] == task], links[links[entry["by"]] == task])
        for task in entry["chance"]
    ]


def _task(entry: dict, task: str, losses: pd.DataFrame, links: pd.DataFrame) -> dict:
    column, ladder = entry["held_out"], entry["ladder"]
    runs, asked = losses[losses[column] == ladder], losses[losses[column] != ladder]
    seen = Observations(runs[["params_total", "tokens", "loss"]].reset_index(drop=True))
    checks = links[links[column] == ladder]
    checks = Observations(checks[["trunk", "loss", "accuracy"]].reset_index(drop=True))
    last = links.groupby(["trunk", "mult"], sort=False)["accuracy"].last()
    true = links[links[column] != ladder].groupby("trunk")["accuracy"].last()
    true = true[asked["trunk"]].to_numpy()
    targets = Observations(asked[["params_total", "tokens"]].assign(loss=1.0))
    far = beyond(seen, targets, None)
    how = {"chance": entry["chance"][task], "distance": far}
    how |= {"loss_options": Options(draws=DRAWS), "link_options": Options(**LINK, draws=DRAWS)}
    row = {"table": f"{entry['name']} {task}", "rows": len(seen), "held_out": len(asked)}
    found = fit_chain(seen, checks, loss_law="chinchilla", **how)
    row["chinchilla_error"] = relative(found.predict(asked)["prediction"], true)
    found = fit_chain(seen, checks, loss_law=entry["loss_law"], **how)
    row["error"] = relative(found.predict(asked)["prediction"], true)
    row["choice"] = found.loss.name if isinstance(found.loss, Choice) else found.loss.law.name
    row |= _inside(found, asked, true)
    known = runs[["trunk", "mult", "params_total", "tokens"]]
    known = known.merge(last.reset_index(), on=["trunk", "mult"])
    both = pd.concat([known, asked.assign(accuracy=true)])
    both = Observations(both[["params_total", "tokens", "accuracy"]].reset_index(drop=True))
    found = plain(both, np.arange(len(both)) >= len(known), "params_total", "accuracy")
    row |= {name: relative(np.exp(logs), true) for name, logs in found.items()}
    return row


def _inside(found, asked: pd.DataFrame, true) -> dict:
    """How many of the asked runs lie inside the intervals, by level."""
    out = {}
    for level in LEVELS:
        table = chain(found.loss, replace(found.link, level=level), asked, found.beyond)
        out[f"inside_{level:.0%}"] = int(((table["low"] <= true) & (true <= table["high"])).sum())
    return out


def mixed(entry: dict) -> list[dict]:
    """A row for each size: the regressor of least cross-validated error, and others.

    Intervals are the prediction and quantiles of its cross-validated errors either way
    (cross-conformal: Vovk 2015), which assumes runs like the proxies: at their size alone.
    """
    read = lambda table: Proxies.of(read_frame(table), entry["target"])
    proxies = read(entry["table"])
    crossed = cross_validate(proxies, tuple(entry["laws"]))
    missed = {name: found / proxies.loss - 1 for name, found in crossed.items()}
    choice = min(entry["laws"], key=lambda name: np.mean(missed[name] ** 2))
    fitted = {name: fit_target(name, proxies) for name in entry["laws"]}
    fitted |= {name: fit_target(law, proxies) for name, law in baselines(proxies).items()}
    rows = []
    for size, table in entry["held_out"].items():
        asked = read(table)
        same = size == entry["size"]
        row = {"table": f"{entry['name']} {size}", "rows": len(proxies), "held_out": len(asked)}
        row |= {"choice": choice, "published_rank": entry["published"].get(size, np.nan)}
        for name, predict in fitted.items():
            found = predict(asked.shares)
            row[f"{name} rank"] = 100 * float(rank_correlation(found, asked.loss))
            error = found / asked.loss - 1
            row[f"{name} error"] = float(np.sqrt(np.mean(error**2))) if same else np.nan
            if name == choice:
                wide = np.quantile(np.abs(missed[name]), LEVELS)
                held = [float(np.mean(np.abs(error) <= end)) for end in wide]
                row |= {
                    f"inside_{level:.0%}": share if same else np.nan
                    for level, share in zip(LEVELS, held, strict=True)
                }
        rows.append(row)
    return rows


def report(chains: pd.DataFrame, mixtures: pd.DataFrame) -> str:
    """Both tables as Markdown."""
    published = {entry["name"]: entry["published"] for entry in entries("chain")}
    lines = [
        [
            row["table"],
            row["choice"],
            *(f"{row[name]:.2%}" for name in ("error", "chinchilla_error")),
            f"{min(row['nearest_run'], row['log_linear']):.2%}",
            *(f"{row[f'inside_{level:.0%}']} of {row['held_out']}" for level in LEVELS),
        ]
        for row in chains.to_dict("records")
    ]
    titles = ["task", "loss law of least rolling error", "chain", "with Chinchilla"]
    titles += ["best baseline", *(f"{level:.0%}" for level in LEVELS)]
    inside, asked = (int(chains[name].sum()) for name in ("inside_90%", "held_out"))
    told = (
        f"Accuracy through the loss, mean relative errors: {chains['error'].mean():.2%} over all "
        f"(with Chinchilla {chains['chinchilla_error'].mean():.2%}; published: "
        f"{', '.join(published.values())}); {inside} of {asked} inside their 90 % interval. The "
        "loss is predicted by the weighted mean of the laws, chosen on the ladder alone."
    )
    ranks = [name for name in mixtures if name.endswith(" rank")]
    cells = [
        [
            row["table"],
            row["choice"],
            *(f"{row[name]:.1f}" for name in ranks),
            "" if np.isnan(row["published_rank"]) else f"{row['published_rank']:.2f}",
            _percent(row[f"{row['choice']} error"]),
            *(_percent(row[f"inside_{level:.0%}"]) for level in LEVELS),
        ]
        for row in mixtures.to_dict("records")
    ]
    heads = ["mixtures", "choice", *ranks, "published", "choice's error"]
    heads += [f"{level:.0%}" for level in LEVELS]
    mixing = (
        "The loss of a mixture, from proxies: rank correlations x 100, and where the asked runs "
        "are of the proxies' size the error. The choice is by cross-validation on the proxies."
    )
    tables = [aligned(*both).rstrip("\n") for both in ((titles, lines), (heads, cells))]
    return "\n\n".join([told, tables[0], mixing, tables[1]])


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1%}"


def write(folder: Path, out: Path) -> str:
    """Judges both kinds, writes their tables, and returns the report."""
    with threadpool_limits(limits=1):
        chains = [row for entry in entries("chain") for row in chained(entry, folder)]
        mixtures = [row for entry in entries("mixture") for row in mixed(entry)]
    for name, rows in (("chains", chains), ("mixtures", mixtures)):
        pd.DataFrame(rows).to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    return stored(out)


def stored(out: Path) -> str:
    """The report of the tables that were written; nothing where there are none."""
    files = [out / f"{name}.csv" for name in ("chains", "mixtures")]
    return report(*map(pd.read_csv, files)) if all(file.exists() for file in files) else ""


def main(argv=None):
    """Judge the tables and write what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the public tables")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    print(write(options.data, options.out))


if __name__ == "__main__":
    main()
