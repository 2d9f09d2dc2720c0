"""Optimizers compared: certificates of their settings, speed-ups over a baseline, and their trend.

Run tables have the labels `role` (tune, rate or final), `arm`, `size` (the width), `multiplier`
(tokens per parameter) and `point`: rate and decay as multiples of the ladder's, then own settings.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from experiments.evidence.claim import HIGH, LOW, Claim, bullets, listed
from experiments.evidence.descent import Point, Tuned
from experiments.evidence.figures import per_panel
from experiments.evidence.report import Block, Picture, Table, Text
from fitting.speed_up import SpeedUp, speed_up
from fitting.style import keyed, styled
from models import count
from refused import Refused
from scaling import Recipe, unfolded
from scaling.state import optimizer_bytes, optimizer_flops

# A speed-up holds if a factor of e in parameters changes it by less than this, interval and all.
HOLDS = 0.05
# Recipe of an arm at a cell and a point.
Recipes = Callable[[str, tuple[int, int], Point], Recipe]


def optimizer_blocks(
    runs: pd.DataFrame, tuned: Mapping[str, Tuned], recipe: Recipes, baseline: str, first: tuple
) -> list[Block]:
    """Writes what is tuned so far and, for arms whose runs are all there, losses and speed-ups."""
    where = f"width {first[0]}, {first[1]} tokens per parameter"
    certificates = Table(
        "settings",
        settings_table(tuned),
        f"Settings by coordinate descent at {where}; rate and decay are multiples of the ladder's. "
        "Certified: every single step on the grids was run and none is better by the margin.",
    )
    table = unfolded(runs)
    sound = table[(table["role"] == "final") & table["diverged_step"].isna()]
    waiting = [name for name, found in tuned.items() if not found.points]
    if baseline in waiting or sound.empty:
        return [Text(f"Not tuned yet: {listed(waiting)}. Nothing is compared."), certificates]
    found = {arm: arm_speed_ups(sound, baseline, arm) for arm in sound["arm"].unique()}
    found = {arm: sizes for arm, sizes in found.items() if arm != baseline and sizes}
    claims = {
        f"{arm}, width {width}": factor(one["by_seed"]).said("", ".3f", "1")
        for arm, sizes in found.items()
        for width, one in sizes.items()
    }
    head = [
        f"Speed-up: tokens that {baseline} needs for the arm's loss at the arm's largest number of "
        "tokens, over these; 90 % intervals over seeds, settings tuned on the first. Only ends of "
        f"decays are compared. Not tuned yet: {listed(waiting)}. At an end of a grid, beyond which "
        f"better values may lie: {listed(ends_of_grids(tuned))}."
    ]
    return [
        Text(bullets(claims, head)),
        Table(
            "speed_ups",
            speed_up_table(found, sound, tuned, recipe, baseline),
            "Other seeds alone: without the one that settings were tuned on. In time: times the "
            "ratio of seconds per token, of runs as they were timed, so not to be quoted where the "
            "machine did other work. Pooled: means over seeds; its interval is of lack of fit, and "
            "needs three lengths. Step: FLOPs of the optimizer's matrix products over a step's "
            "training FLOPs.",
        ),
        Table(
            "effective",
            effective_table(found, baseline),
            f"At equal compute: ((loss of {baseline} − its asymptote) / (the arm's loss − it)) to "
            "the power of 1 / exponent, means over seeds, with the asymptote pinned at what its "
            "losses give; 90 % intervals of lack of fit. Drift: of its log per log FLOP.",
        ),
        Table("trend", trend_table(found, sound), "Change of the log speed-up per log parameter."),
        certificates,
        Table("rates", rates_table(tuned), "Tuned multiples of the ladder's rate."),
        Table("losses", loss_table(sound), "Held-out loss at the end of the decay (nats/token)."),
        Picture("losses", picture(sound), "Held-out loss against tokens; means over seeds."),
    ]


def settings_table(tuned: Mapping[str, Tuned]) -> pd.DataFrame:
    """Shows where every descent over all settings has come, and its certificate."""
    rows = []
    for arm, found in tuned.items():
        first = found.first
        least = min(first.excess, default=np.nan)
        row = {"arm": arm, "settings": ", ".join(f"{k} {v:g}" for k, v in first.point.items())}
        row |= {"loss (nats/token)": first.loss, "moves": first.moves}
        row |= {"certified": "yes" if first.certified else "no", "neighbours": len(first.excess)}
        row |= {"best neighbour's excess": least, "at an edge": listed(first.edges)}
        rows.append(row)
    return pd.DataFrame(rows)


def ends_of_grids(tuned: Mapping[str, Tuned]) -> list[str]:
    """Names the arms with the settings that ended at an end of their grid."""
    return [f"{arm} ({listed(one.first.edges)})" for arm, one in tuned.items() if one.first.edges]


def rates_table(tuned: Mapping[str, Tuned]) -> pd.DataFrame:
    """Shows the rate of every cell: where it was tuned, and where it is extrapolated."""
    rows = []
    for arm, found in tuned.items():
        for (width, multiplier), point in sorted(found.points.items()):
            own = found.others.get((width, multiplier))
            how = "all settings" if point is found.first.point else "extrapolated"
            row = {"arm": arm, "width": width, "tokens/parameter": multiplier}
            row |= {"rate": point["rate"], "tuned": "rate alone" if own else how}
            rows.append(row | {"at an edge": "yes" if own and own.edges else ""})
    return pd.DataFrame(rows)


def loss_table(sound: pd.DataFrame) -> pd.DataFrame:
    """Shows means and standard deviations over seeds."""
    keys = ["arm", "width", "multiplier", "tokens"]
    by_cell = sound.sort_values(keys[1:]).groupby(keys, sort=False)["loss"]
    by_cell = by_cell.agg(["mean", "std", "count"]).reindex(sound["arm"].unique(), level="arm")
    names = {"mean": "loss", "std": "sd over seeds", "count": "seeds"}
    return by_cell.rename(columns=names).reset_index()


def arm_speed_ups(sound: pd.DataFrame, baseline: str, arm: str) -> dict[int, dict]:
    """Returns by width the speed-ups: of every seed by itself, `by_seed`, and over means of seeds.

    `whole` is in tokens with the baseline's asymptote fitted, `pinned` in FLOPs at that asymptote.
    """
    found = {}
    for width, rows in sound.groupby("width"):
        base, own = (rows[rows["arm"] == name] for name in (baseline, arm))
        whole = tried(base, own)
        if whole is None:
            continue
        seeds = sorted({*base["seed"]} & {*own["seed"]})
        each = [tried(base[base["seed"] == s], own[own["seed"] == s]) for s in seeds]
        values = [np.nan if one is None else one.value for one in each]
        pinned = tried(base, own, "flops", whole.asymptote)
        found[int(width)] = {"whole": whole, "pinned": pinned, "by_seed": np.array(values)}
    return found


def factor(values: np.ndarray) -> Claim:
    """Claims a factor from independent ones, compared with 1: their logarithms' mean."""
    logs = Claim.of(np.log(values))
    return Claim(*np.exp([logs.value, logs.low, logs.high]), count=logs.count, than=1.0)


def tried(base: pd.DataFrame, own: pd.DataFrame, along="tokens", asymptote=None) -> SpeedUp | None:
    """Returns the speed-up; None where the runs do not give one."""
    try:
        return speed_up(base, own, along, asymptote=asymptote) if len(own) else None
    except Refused:  # Too few lengths of the baseline, or losses that do not fall.
        return None


def speed_up_table(found, sound, tuned, recipe: Recipes, baseline: str) -> pd.DataFrame:
    """Sets speed-ups in tokens and in time beside what the optimizer keeps and multiplies."""
    seconds = (1 / sound["tokens_per_second"]).groupby([sound["arm"], sound["width"]]).median()
    rows = []
    for arm, sizes in found.items():
        for width, one in sizes.items():
            in_tokens = factor(one["by_seed"])
            slower = seconds[arm, width] / seconds[baseline, width]
            whole, cell = one["whole"], max(c for c in tuned[arm].points if c[0] == width)
            plan = recipe(arm, cell, tuned[arm].points[cell])
            accounts = count(plan.model)
            batch = sound.loc[sound["width"] == width, "batch_tokens"].iloc[0]
            row = {"arm": arm, "width": width, "params_total": accounts.params_total}
            row |= in_tokens.columns("in tokens") | {"verdict": in_tokens.verdict}
            row |= {"other seeds alone": factor(one["by_seed"][1:]).value}
            row |= {"in time": in_tokens.value / slower, "pooled": whole.value}
            row |= {"pooled low": whole.low, "pooled high": whole.high}
            row |= {"state (bytes/parameter)": optimizer_bytes(plan) / accounts.params_total}
            step = optimizer_flops(plan) / (accounts.flops_train * batch)
            rows.append(row | {"step (% of FLOPs)": 100 * step})
    return pd.DataFrame(rows)


def effective_table(found, baseline: str) -> pd.DataFrame:
    """Shows the speed-ups at a pinned asymptote, and the curves that they are of."""
    rows = []
    for arm, sizes in found.items():
        for width, one in sizes.items():
            pinned = one["pinned"]
            row = {"arm": arm, "width": width, "effective speed-up": pinned.value}
            row |= {LOW: pinned.low, HIGH: pinned.high, "drift": pinned.drift}
            row |= {f"asymptote of {baseline}": pinned.asymptote, "exponent": pinned.exponent}
            rows.append(row)
    return pd.DataFrame(rows)


def trend_table(found, sound: pd.DataFrame) -> pd.DataFrame:
    """Says for every arm whether its speed-up grows, holds or falls with size."""
    params = sound.groupby("width")["params_total"].first()
    rows = []
    for arm, sizes in found.items():
        x = np.log([params[width] for width in sizes])
        by_seed = zip(*(one["by_seed"] for one in sizes.values()), strict=False)
        fitted = lambda values, x=x: np.polyfit(x, np.log(values), 1)[0]
        slopes = [fitted(values) for values in by_seed] if len(x) > 1 else []
        claim = Claim.of(slopes)
        rows.append({"arm": arm} | claim.columns("slope") | {"verdict": trend(claim)})
    return pd.DataFrame(rows, columns=["arm", "slope", LOW, HIGH, "verdict"])


def trend(slope: Claim) -> str:
    """Returns the verdict on a slope of log speed-up over log parameters."""
    if slope.low > -HOLDS and slope.high < HOLDS:
        return "holds"
    return {"higher": "grows", "lower": "falls"}.get(slope.verdict, "not resolved")


@styled
def picture(sound: pd.DataFrame):
    """Draws loss over tokens, a panel per width, a line per arm."""
    labels, title = ("tokens (millions)", "held-out loss (nats/token)"), "width {}".format
    shown = sound.assign(millions=sound["tokens"] / 1e6)
    settings = dict(x="millions", by="arm", share=False, ticks="plain")
    return keyed(per_panel(shown, "width", "loss", labels, title, **settings)[0])
