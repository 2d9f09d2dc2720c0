"""What the tables of prediction beyond the data come to, and the rules that were tried."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fitting.tables import aligned

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
# And for laws that also see the later half of the runs alone, as they are kept now.
TRIED_HALVES = (  # rule, regret over sources, regret over tables, error over Chinchilla's
    ("kept before: all runs alone", 0.908, 0.837, 0.511),
    ("KEPT: all runs, and the later half of them", 0.759, 0.774, 0.349),
    ("all runs, and the later three quarters", 0.855, 0.819, 0.453),
    ("all runs, the later half and three quarters (more fits)", 0.754, 0.788, 0.347),
    ("all runs and the later half, twice as many cuts", 0.780, 0.806, 0.352),
    ("all runs alone, twice as many cuts", 0.960, 0.880, 0.522),
    ("all runs, by log least squares", 1.060, 1.165, 0.600),
    ("all runs, by the Huber loss and by log least squares", 1.012, 1.043, 0.553),
)
HALVES_TRIED = """\
No later half is taken of a law with a break: a fit to half of the curve of 100M put its break at
the end of the data, and the mean missed by 4.6 % instead of .08 %; without it by .02 %."""
WARNING_TRIED = """\
The eighth power was left: the gain is of one table with two held-out rows, and it lost above.
Warned of, on the same half, with the mean of fits to all runs: a plain prediction that the mean is
not shown to be better than (90 % interval of the difference of absolute rolling errors, trunks
resampled). It named one table of the 13, rw base_long_kaplan_standard_val, the only one there where
that mean was above 1.1 times the best baseline; near the farthest row only it also named owt2
base_long_kaplan_standard_val (1.05 times), a false alarm. With the later half it still names the
first, where the mean is now at a third of the baseline: a false alarm."""
INTERVALS_TRIED = """\
For intervals: misfit in proportion to the log distance, cuts weighted by the power 0, 1, 2, 4, with
and without nearness, in its square root, as the larger of noise and misfit, without subtracting
noise, with a t quantile of the effective number of cuts or of 4 degrees. Kept: the power 2 with
nearness and a normal quantile. After the second choice of weights these held 83 % of the rows on
ten tables of half "rule", 14 % on one; kept with it: the weighted variance of the laws where that
is more than the misfit (94 %, interval score .63 instead of .55 of Chinchilla's). With the fits to
the later half these are too wide. Inside 50, 80 and 90 % intervals on 16 tables of half "rule", and
interval score over Chinchilla's: as before 77, 93, 100 %, .61; without the laws' variance 64, 88,
90 %, .54; with half of their standard deviation 71, 92, 96 %, .54; that and noise times the root
mean square of the mean's rolling errors over their spreads, at least .4, .5, .6 or .7 of it: 62,
85, 91 %, .47 (KEPT); 63, 86, 92 %, .47; 66, 87, 92 %, .49; 68, 88, 93 %, .51; at least .4 with all
of the laws' standard deviation 71, 92, 92 %, .55."""


def summary(rows: pd.DataFrame) -> list[list[str]]:
    """What the rows come to, by half and together, for the (params, tokens) tables and for all."""
    out = []
    for family in ("params and tokens", "all"):
        for half in ("rule", "apart", "both"):
            some = rows if family == "all" else rows[rows["family"] == family]
            some = some if half == "both" else some[some["half"] == half]
            if len(some):
                out.append([family, half, *_figures(some)])
    return out


TITLES = ["tables", "half", "number", "error / Chinchilla's", "regret", "chosen law's regret"]
TITLES += [
    "at most 1.1 x baseline",
    "or warned",
    "inside 90 %",
    "below 70 %",
    "interval score ratio",
]


def _figures(some: pd.DataFrame) -> list[str]:
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


def report(rows: pd.DataFrame, laws: pd.DataFrame, published: Mapping, chained: str = "") -> str:
    """summary.md: what it comes to, the laws used throughout, every table, and the rules tried.

    Args:
      rows: tables.csv.
      laws: laws.csv.
      published: {table: error of the best published fit}.
      chained: what `through` has stored.
    """
    titles = ["table", "half", "law of least rolling error", "weighted mean", "Chinchilla"]
    titles += ["best baseline", "best law in hindsight", "published", "50 %", "80 %", "90 %"]
    titles += ["warned"]
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
        aligned(TITLES, summary(rows)),
        "Every law used throughout the (params, tokens) tables:",
        aligned(["law", "tables", "error / Chinchilla's", "regret"], throughout(rows, laws)),
        aligned(titles, cells),
        chained,
        'Rules tried on the (params, tokens) tables of half "rule", with six laws: geometric '
        "mean of held-out log error over the best law's, mean error over Chinchilla's.",
        aligned(["rule", "regret", "error / Chinchilla's"], [list(map(str, r)) for r in TRIED]),
        "Tried again there, with all laws. Seven of the 13 tables are of one study, so that the "
        "geometric mean of the regret over the four sources decides:",
        _tried(TRIED_AGAIN),
        "And for rows at the distances asked about:",
        _tried(TRIED_LAST),
        "And for fits to a part of the runs, beside those to all:",
        _tried(TRIED_HALVES),
        HALVES_TRIED,
        WARNING_TRIED,
        INTERVALS_TRIED,
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _tried(rules) -> str:
    titles = ["rule", "regret, sources", "regret, tables", "error / Chinchilla's"]
    return aligned(titles, [[rule, *map(str, values)] for rule, *values in rules])


def _percent(value: float) -> str:
    return "none" if not np.isfinite(value) else f"{value:.2%}"


def _share(value: float) -> str:
    return "none" if not np.isfinite(value) else f"{value:.0%}"
