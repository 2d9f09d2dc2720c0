"""The part of a report that every study of a law in parameters and tokens shares."""

from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.evidence.report import Block, Picture, Table, Text
from experiments.evidence.study import Results
from fitting import Fit, Observations, baselines, fit, seed_standard_deviation
from fitting import figures as draw
from fitting import tables as write
from scaling.plan import Plan

# The nearest run's loss, a straight line in log compute, and the Chinchilla law with E = 0.
BASELINES = {
    "nearest_run": "nearest run",
    "log_linear": "log-linear in compute",
    "chinchilla_no_floor": "Chinchilla with E = 0",
}

GOAL = 0.035  # Worst relative error at which the first split counts as predicted.

Split = Callable[[pd.DataFrame], pd.Series]


def law_report(results: Results, near: Split, far: Split) -> list[Block]:
    """Fits the over-training and Chinchilla laws and says how well they predict held-out runs.

    `near` and `far` mark the held-out runs of an easy and of a hard split. Every error stands
    beside the baselines' and the seeds' standard deviation.
    """
    sound = results.runs[results.runs["diverged_step"].isna()].reset_index(drop=True)
    observations = Observations(sound)
    spread, degrees = seed_standard_deviation(observations, params="params_total")
    relative = spread / sound["loss"].mean() if spread else None
    held_out = near(sound).to_numpy(bool)
    law = fit("over_training", observations, held_out=held_out, params="params_total")
    rival = fit("chinchilla", observations, held_out=held_out, params="params_total")
    both = errors(observations, held_out, {"over-training law": law, "Chinchilla law": rival})
    hard = far(sound).to_numpy(bool)
    fits = {
        "over-training law": fit(
            "over_training", observations, held_out=hard, params="params_total"
        ),
        "Chinchilla law": fit("chinchilla", observations, held_out=hard, params="params_total"),
    }
    beyond = errors(observations, hard, fits)
    return [
        Text(summary(results, sound, relative, degrees)),
        Text("## Held out: the largest width at its two largest token counts"),
        Text(near_verdict(both, relative)),
        error_table("held_out", both, relative, held_out),
        fit_table("fit_over_training", law),
        fit_table("fit_chinchilla", rival),
        Text(unidentified([law, rival])),
        *conventions(observations, held_out),
        Picture(
            "loss_against_compute",
            draw.loss_against_compute(law, observations.only(held_out)),
            "Held-out loss against compute by token multiplier; lines are the over-training law.",
        ),
        Picture(
            "predicted_against_actual",
            draw.predicted_against_actual(law),
            "Predicted against actual loss; held-out runs are squares with their interval.",
        ),
        Picture("residuals", draw.residuals(law), "Residuals of the over-training law."),
        Picture("profiles", draw.profile_likelihood(law), "Profile likelihood of each parameter."),
        Text("## A harder split: all runs above a quarter of the largest compute held out"),
        Text(far_verdict(beyond, relative)),
        error_table("held_out_compute", beyond, relative, hard),
        Text("## The plan"),
        Picture("plan", plan_tree(results.plan), "Segments by tokens; a dot is the end of a run."),
        Text("## The runs"),
        run_table(sound),
    ]


def summary(results: Results, sound: pd.DataFrame, relative, degrees) -> str:
    """Says how many runs there are, what sharing trunks saved, and how far seeds spread."""
    left_out = len(results.runs) - len(sound)
    plan = results.plan
    spread = f"{100 * relative:.2f} % ({degrees} degrees of freedom)" if relative else "unknown"
    diverged = f" {left_out} runs diverged and are left out of all fits." if left_out else ""
    return (
        f"{len(plan.runs)} runs in {len(plan.segments)} segments: {plan.tokens:,} tokens "
        f"trained, {plan.tokens / plan.tokens_alone:.4f} of what the same runs take apart. The "
        f"standard deviation of a loss over seeds is {spread}.{diverged}"
    )


def run_table(sound: pd.DataFrame) -> Table:
    """Lists the runs that the fits are made from."""
    names = ["width", "seed", "params_total", "tokens", "token_multiplier", "flops", "loss"]
    units = {
        "token_multiplier": "tokens/param",
        "flops": "FLOPs",
        "loss": "loss (nats/token)",
        "bits_per_byte": "bits/byte",
    }
    table = sound[[*names, "bits_per_byte"]].rename(columns=units)
    return Table("run_table", table, "Runs; held-out loss is the mean over the domains.")


def errors(observations: Observations, held_out: np.ndarray, fits: dict[str, Fit]) -> pd.DataFrame:
    """Returns absolute relative errors on held-out runs, a column per law and baseline."""
    table = baselines(observations, held_out, params="params_total")
    columns = {name: found.held_out["relative_error"].abs() for name, found in fits.items()}
    columns |= {shown: table[name].abs() for name, shown in BASELINES.items()}
    return pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})


def error_table(name: str, frame: pd.DataFrame, relative, held_out: np.ndarray) -> Table:
    """Summarises held-out errors by median and worst."""
    rows = [
        {
            "prediction": c,
            "median error (%)": 100 * frame[c].median(),
            "worst (%)": 100 * frame[c].max(),
        }
        for c in frame
    ]
    rows.append(
        {
            "prediction": "seeds' standard deviation",
            "median error (%)": 100 * relative if relative else None,
            "worst (%)": None,
        }
    )
    caption = f"Relative errors on {held_out.sum()} held-out runs; {(~held_out).sum()} were fitted."
    return Table(name, pd.DataFrame(rows), caption)


def fit_table(name: str, found: Fit) -> Table:
    """Shows a fit's parameters with intervals and verdicts."""
    rows = [
        {
            "parameter": row["parameter"],
            "value": row["value"],
            "low": row["low"],
            "high": row["high"],
            "unit": row["unit"],
            "verdict": row["verdict"],
        }
        for row in write.rows(found)
    ]
    return Table(name, pd.DataFrame(rows), write.caption(found), write.as_latex(found))


def near_verdict(frame: pd.DataFrame, relative) -> str:
    """Says whether the over-training law predicts the near split."""
    worst = frame["over-training law"].max()
    nearest = frame["nearest run"].max()
    enough = worst <= GOAL and worst < nearest
    return (
        f"The over-training law's worst relative error is {100 * worst:.2f} %, the nearest run's "
        f"{100 * nearest:.2f} %"
        + (f"; seeds differ by {100 * relative:.2f} %" if relative else "")
        + f". At most {100 * GOAL:g} % and less than the nearest run's was asked for: "
        + ("**met**." if enough else "**not met**.")
    )


def far_verdict(frame: pd.DataFrame, relative) -> str:
    """Says plainly whether the laws beat the baselines on the far split."""
    median = {name: 100 * frame[name].median() for name in frame}
    law = median["over-training law"]
    best = min(BASELINES.values(), key=median.get)
    margin = 100 * (relative or 0.0)
    shown = f"{law:.2f} % against {median[best]:.2f} % for the best baseline ({best})"
    if law < median[best] - margin:
        return f"The over-training law beats every baseline: median error {shown}."
    if law > median[best] + margin:
        return f"The over-training law does **not** beat the baselines: median error {shown}."
    return (
        "The over-training law and the best baseline are not told apart, because they differ by "
        f"less than the seeds do: median error {shown}."
    )


def unidentified(fits: list[Fit]) -> str:
    """Names the parameters that the data do not identify."""
    rows = [
        f"{name} of the {found.law.name.replace('_', '-')} law ({verdict})"
        for found in fits
        for name, verdict in found.verdicts.items()
        if verdict != "identified"
    ]
    if not rows:
        return "The profiles identify every parameter of both laws within the range of these runs."
    return "The data do not pin down " + ", ".join(rows) + "; these values are not to be quoted."


def conventions(observations: Observations, held_out: np.ndarray) -> list[Block]:
    """Fits the over-training law under two conventions of counting, with both exponents."""
    counted = {
        "params_total, 6·params·tokens (as published)": ("over_training", "params_total"),
        "params_non_embedding, exact FLOPs": ("over_training_exact", "params_non_embedding"),
    }
    rows = []
    for name, (law, params) in counted.items():
        found = fit(law, observations, held_out=held_out, params=params)
        low, high = found.intervals.get("eta", (None, None))
        rows.append(
            {
                "convention": name,
                "eta": found.parameters["eta"],
                "90 % low": low,
                "90 % high": high,
                "worst held-out error (%)": 100 * found.held_out["relative_error"].abs().max(),
            }
        )
    how = found.interval_method
    return [Table("conventions", pd.DataFrame(rows), f"The exponent by convention; {how}.")]


def plan_tree(plan: Plan) -> Figure:
    """Draws the plan: a line per segment over tokens, branches below their trunk."""
    figure = Figure(figsize=(8, max(2.5, 0.14 * len(plan.segments) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    height, ticks = 0, []
    widths = sorted({s.config.width for s in plan.segments.values()})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(widths)))
    colours = dict(zip(widths, shades, strict=True))
    for root in plan.children.get(None, []):
        top = height
        stack = [(root, height)]
        while stack:
            id, y = stack.pop()
            segment = plan.segments[id]
            x = (segment.first_token / 1e6, segment.run.tokens / 1e6)
            style = "-" if segment.phase.prefix_closed else ":"
            axis.plot(x, (y, y), style, color=colours[segment.config.width], lw=1.8)
            if id in plan.leaves:
                axis.plot(x[1], y, "o", ms=3, color=colours[segment.config.width])
            children = plan.children.get(id, [])
            for child in children[:-1]:
                height += 1
                axis.plot((x[1], x[1]), (y, height), color="0.8", lw=0.8, zorder=0)
                stack.append((child, height))
            if children:
                stack.append((children[-1], y))
        segment = plan.segments[root]
        ticks.append((top, f"width {segment.config.width}, seed {segment.run.seed}"))
        height += 2
    axis.set_yticks([y for y, _ in ticks], [name for _, name in ticks], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("tokens (millions); solid: shared warmup and plateau, dotted: cooldown")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
