"""How a study of mixtures is written up: does the proposal win, and do small runs rank large ones?

`design` and `found` are a study's `Design` and `Found` (`experiments.regmix`): what was asked for,
and what followed from the proxies.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.evidence.comparison import differences
from experiments.evidence.report import Block, Picture, Table, Text, subplots
from fitting.mixtures import baselines, cross_validate, fit_target, scores, usable
from fitting.proposals import distances
from scaling import unfolded

DIFFERENCES = (
    "Each mixture against the proposal at the larger size, nats/token on the target, paired by "
    "seed; 90 % intervals are Student's. Higher than the proposal means that the proposal wins."
)
TRANSFER = (
    "Sampled mixtures trained at both sizes: rank correlation with the losses at the larger size "
    "(one seed), 90 % intervals over mixtures. The proxies' losses themselves, what a regressor "
    "fitted to the other proxies predicts, and the baselines."
)
MIXTURES = (
    "Shares; the target's loss at the proxies' size as each regressor predicts it (nats/token); "
    "total variation distance to the nearest proxy's mixture, and the fraction of proxies that "
    "are farther from their own nearest neighbour."
)
FIGURE = (
    "Left: proxies, observed against predicted without their fold. Middle: the same mixtures at "
    "both sizes. Right: the larger runs, a grey "
    "line per seed, a bar at the mean."
)


def mixture_report(design, found, runs: pd.DataFrame) -> list[Block]:
    """Writes the verdicts, the proxies' predictability, the ranks at both sizes, the mixtures."""
    kept = len(found.proxies) - -(-len(found.proxies) // design.config.folds)
    names = usable(kept, len(design.domains))
    crossed = cross_validate(found.proxies, names, design.config.folds)
    scored = scores(crossed, found.proxies.loss, design.config.regressor)
    arms, pairs = arm_table(design, found, runs), both_sizes(design, runs)
    blocks: list[Block] = [Text(verdict(design, found, arms))]
    if len(arms):
        blocks.append(Table("arms", *arm_summary(design, arms)))
        blocks.append(Table("differences", differences(arms, "proposal", "target"), DIFFERENCES))
    caption = (
        f"The {len(found.proxies)} proxies' losses on {design.config.target}, each predicted "
        "without its fold: rank correlation and mean absolute error (nats/token) with 90 % "
        f"intervals over mixtures; differences of rank correlations from {design.config.regressor}."
    )
    blocks += [
        Text(spoken(scored, design.config.regressor)),
        Table("cross_validated", scored, caption),
    ]
    if len(pairs) > 2:
        ranks = transfer_table(design, found, names, pairs)
        blocks += [Text(carried(ranks)), Table("transfer", ranks, TRANSFER)]
    return [
        *blocks,
        Table("mixtures", mixture_table(design, found, names), MIXTURES),
        Picture("regmix", picture(found, crossed, arms, pairs), FIGURE),
    ]


def target_loss(runs: pd.DataFrame, target: Mapping[str, float], what: str = "loss") -> pd.Series:
    """The target's loss (nats/token) or bits per byte of every run of a table."""
    return sum(weight * runs[f"{what}.{name}"] for name, weight in target.items())


def arm_table(design, found, runs: pd.DataFrame) -> pd.DataFrame:
    """The larger runs of the proposal, simple mixtures and best sampled, one row per seed."""
    every = unfolded(runs)
    every = every[every["role"] == "candidate"]
    names = found.trained | design.simple
    table = pd.concat([every[every["arm"] == arm] for arm in names], ignore_index=True)
    if "proposal" not in set(table["arm"]):
        return table[:0]
    table["rate"] = 1.0
    return table.assign(
        target=target_loss(table, design.target),
        target_bits=target_loss(table, design.target, "bits_per_byte"),
    )


def arm_summary(design, arms: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Means over seeds by arm, and the table's caption."""
    rows = []
    for arm, group in arms.groupby("arm", sort=False):
        row = {"mixture": arm, "seeds": int(group["target"].notna().sum())}
        row |= {"loss (nats/token)": group["target"].mean(), "sd": group["target"].std()}
        rows.append(row | {"bits per byte": group["target_bits"].mean()})
    first = arms.iloc[0]
    caption = (
        f"Larger runs: {first['params_total']:,} parameters ({first['params_non_embedding']:,} "
        f"without embeddings), {first['tokens']:,} tokens; held-out {design.config.target}, "
        "means over seeds."
    )
    return pd.DataFrame(rows), caption


def verdict(design, found, arms: pd.DataFrame) -> str:
    """Says, arm by arm, whether the proposal wins, and what it mostly is."""
    if not len(arms):
        return "The larger runs of the proposal are not trained yet."
    said = {
        "higher": "the proposal **wins**",
        "lower": "the proposal **loses**",
        "not resolved": "not resolved",
    }
    lines = [
        f"- against **{row.arm}**: {row.difference:+.4f} nats/token [{row.low:+.4f}, "
        f"{row.high:+.4f}]: {said[row.verdict]}."
        for row in differences(arms, "proposal", "target").itertuples()
    ]
    alike = 0.5 * sum(abs(share - 1 / len(design.domains)) for _, share in design.natural.weights)
    note = ""
    if alike < 0.05:
        note = (
            f" Natural and stratified shares differ by {alike:.3f} in total variation here, so "
            "they are one comparison made twice."
        )
    head = (
        f"Loss on held-out `{design.config.target}` at the larger size, each mixture minus the "
        f"proposal of `{design.config.regressor}` (positive: the proposal is better), "
        f"{design.config.seeds} seeds, 90 % intervals."
    )
    name, share = max(found.trained["proposal"].weights, key=lambda pair: pair[1])
    mostly = f"The proposal is {share:.0%} `{name}`".replace("%", " %")
    if share > 0.9:
        mostly += (
            ", close to that domain alone: the comparison tells which domain to pick more than how "
            "to mix"
        )
    return "\n".join([head + note, "", *lines, "", mostly + "."])


def spoken(scored: pd.DataFrame, regressor: str) -> str:
    """Says which predictors rank the proxies worse or better than the study's regressor."""
    rows = scored.set_index("predictor")
    lines = [
        f"Out of fold, `{regressor}` ranks the proxies with {rows.loc[regressor, 'spearman']:.3f}."
    ]
    for name, row in rows.drop(regressor).iterrows():
        told = "separable" if row["separable"] else "**not separable**"
        lines.append(
            f"{name} with {row['spearman']:.3f} (difference {row['difference']:+.3f} "
            f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], {told})."
        )
    return " ".join(lines)


def carried(ranks: pd.DataFrame) -> str:
    """Says how what was learned at the small size ranks the larger runs."""
    said = [
        f"{row.predictor} {row.spearman:.2f} [{row.spearman_low:.2f}, {row.spearman_high:.2f}]"
        for row in ranks.itertuples()
    ]
    return (
        f"Small to large, rank correlation over {ranks['mixtures'].iloc[0]} sampled mixtures: "
        f"{'; '.join(said)}. Where the share's interval reaches the proxies', these mixtures do "
        "not show that proxies rank better than one share does."
    )


def both_sizes(design, runs: pd.DataFrame) -> pd.DataFrame:
    """Sampled mixtures trained at both sizes: columns mixture, small and large (nats/token)."""
    sound = runs[runs["diverged_step"].isna()].set_index("run")
    losses = target_loss(sound, design.target)
    rows = []
    for mixture in design.transferred:
        small, large = design.proxy(mixture).identity, design.larger(mixture).identity
        if small in losses and large in losses:
            rows.append({"mixture": mixture, "small": losses[small], "large": losses[large]})
    return pd.DataFrame(rows, columns=["mixture", "small", "large"])


def transfer_table(design, found, names, pairs: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of predictions from the small size with losses at the larger one."""
    shares = np.array([mixture.array(design.domains) for mixture in pairs["mixture"]])
    # A regressor must not have seen the proxies whose larger runs it ranks.
    apart = np.abs(found.proxies.shares[:, None] - shares[None]).sum(axis=2).min(axis=1)
    unseen = found.proxies.only(apart > 5e-3)
    predictions = {"proxies' losses": pairs["small"].to_numpy()}
    for name in names:
        if name in usable(len(unseen), len(design.domains)):
            predictions[name] = fit_target(name, unseen)(shares)
    for name, regressor in baselines(found.proxies).items():
        predictions[name] = fit_target(regressor, unseen)(shares)
    table = scores(predictions, pairs["large"].to_numpy())
    shown = table[["predictor", "spearman", "spearman_low", "spearman_high"]]
    return shown.assign(mixtures=len(pairs))


def mixture_table(design, found, names) -> pd.DataFrame:
    """Shares of the arms and of the other proposals, predicted losses and distances."""
    mixtures = found.trained | found.others | design.simple
    arrays = {name: mixture.array(design.domains) for name, mixture in mixtures.items()}
    far = distances(arrays, found.proxies).set_index("mixture")
    fitted = {name: fit_target(name, found.proxies) for name in names}
    rows = []
    for name, shares in arrays.items():
        row = {"mixture": name} | dict(zip(design.domains, shares.tolist(), strict=True))
        row |= {f"{n} predicts": float(p(shares[None])[0]) for n, p in fitted.items()}
        row |= {"distance": far.loc[name, "distance"], "farther": far.loc[name, "farther"]}
        rows.append(row)
    return pd.DataFrame(rows)


def picture(found, crossed, arms: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Draws predicted against observed, small against large, and the larger runs by mixture."""
    figure, (left, middle, right) = subplots(1, 3, figsize=(13, 4.2))
    observed = found.proxies.loss
    shown = [name for name in crossed if name != "stratified"]
    for name, mark in zip(shown, "o^sx", strict=False):
        left.plot(crossed[name], observed, mark, ms=4, alpha=0.7, label=name)
    ends = [observed.min(), observed.max()]
    left.plot(ends, ends, "k-", lw=0.8)
    left.set(xlabel="predicted (nats/token)", ylabel="observed (nats/token)")
    left.set_title("proxies, each predicted without its fold", fontsize=10)
    left.legend(fontsize=8)
    middle.plot(pairs["small"], pairs["large"], "o", ms=5)
    middle.set(xlabel="proxy (nats/token)", ylabel="larger run (nats/token)")
    middle.set_title("sampled mixtures at both sizes", fontsize=10)
    order = list(dict.fromkeys(arms["arm"]))
    for _, group in arms.groupby("seed"):
        at = [order.index(arm) for arm in group["arm"]]
        right.plot(at, group["target"], "o-", ms=5, lw=0.6, color="0.6")
    for index, arm in enumerate(order):
        mean = arms.loc[arms["arm"] == arm, "target"].mean()
        right.hlines(mean, index - 0.25, index + 0.25, color="C3", lw=2)
    right.set_xticks(range(len(order)), [arm.replace(" ", "\n") for arm in order])
    right.set_ylabel("larger run (nats/token)")
    right.set_title("mixtures at the larger size", fontsize=10)
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    return figure
