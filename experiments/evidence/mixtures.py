"""Mixtures: does a proposal win, and how do small runs and regressors rank large ones?

Figures and tables of `experiments/regmix.py`; `design` and `found` are its `Design` and `Found`:
what was asked for, and what followed from the proxies.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.evidence.claim import Claim, bullets, counted
from experiments.evidence.comparison import against, differences
from experiments.evidence.figures import finish, panels
from experiments.evidence.report import Block, Picture, Table, Text
from fitting.mixtures import baselines, cross_validate, fit_target, scores, usable
from fitting.proposals import distances
from fitting.style import HELD_OUT, QUIET, keyed, styled
from scaling import unfolded


def mixture_blocks(design, found, runs: pd.DataFrame) -> list[Block]:
    """Writes the verdicts, the proxies' predictability, the ranks at both sizes, the mixtures."""
    kept = len(found.proxies) - -(-len(found.proxies) // design.config.folds)
    names, regressor = usable(kept, len(design.domains)), design.config.regressor
    crossed = cross_validate(found.proxies, names, design.config.folds)
    scored = scores(crossed, found.proxies.loss, regressor)
    arms, pairs = arm_table(design, found, runs), both_sizes(design, runs)
    return [
        *larger_blocks(design, found, arms),
        Text(predicted_text(scored, regressor)),
        Table(
            "cross_validated",
            scored,
            f"The {len(found.proxies)} proxies' losses on {design.config.target}, each predicted "
            "without its fold: rank correlation and mean absolute error (nats/token) with 90 % "
            f"intervals over mixtures; differences of rank correlations from {regressor}.",
        ),
        *transfer_blocks(design, found, names, pairs),
        Table(
            "mixtures",
            mixture_table(design, found, names),
            "Shares; the target's loss at the proxies' size as each regressor predicts it "
            "(nats/token); total variation distance to the nearest proxy's mixture, and the "
            "fraction of proxies that are farther from their own nearest neighbour.",
        ),
        Picture(
            "regmix",
            picture(found, crossed, arms, pairs),
            "Left: proxies, observed against predicted without their fold. Middle: the same "
            "mixtures at both sizes. Right: the larger runs, a grey line per seed, a bar at the "
            "mean.",
        ),
    ]


def target_loss(runs: pd.DataFrame, target: Mapping[str, float], what: str = "loss") -> pd.Series:
    """The target's loss (nats/token) or bits per byte of every run of a table."""
    return sum(weight * runs[f"{what}.{name}"] for name, weight in target.items())


def arm_table(design, found, runs: pd.DataFrame) -> pd.DataFrame:
    """The larger runs of the proposal, simple mixtures and best sampled, one row per seed."""
    every = unfolded(runs)
    every = every[every["role"] == "candidate"].assign(
        rate=1.0,
        target=lambda some: target_loss(some, design.target),
        target_bits=lambda some: target_loss(some, design.target, "bits_per_byte"),
    )
    names = found.trained | design.simple
    return pd.concat([every[every["arm"] == arm] for arm in names], ignore_index=True)


def larger_blocks(design, found, arms: pd.DataFrame) -> list[Block]:
    """Says, arm by arm, whether the proposal wins at the larger size, and what it mostly is."""
    if "proposal" not in set(arms["arm"]):
        return [Text("The larger runs of the proposal are not trained yet.")]
    claims, count = against(arms, "proposal", "target"), len(design.domains)
    alike = 0.5 * sum(abs(share - 1 / count) for _, share in design.natural.weights)
    same = (
        f"Natural and stratified shares differ by {alike:.3f} in total variation here, so they are "
        "one comparison made twice."
    )
    head = (
        f"Loss on held-out `{design.config.target}` at the larger size, each mixture minus the "
        f"proposal of `{design.config.regressor}` (where it is higher the proposal wins), "
        f"{counted(design.config.seeds, 'seed')}, 90 % intervals."
    )
    name, share = max(found.trained["proposal"].weights, key=lambda pair: pair[1])
    near = (
        ", close to that domain alone: the comparison tells which domain to pick more than how to "
        "mix"
    )
    mostly = f"The proposal is {100 * share:.0f} % `{name}`{near if share > 0.9 else ''}."
    said = {arm: claim.said("nats/token", than="the proposal") for arm, claim in claims.items()}
    rows = arms.groupby("arm", sort=False).agg(
        **{"seeds": ("target", "count"), "loss (nats/token)": ("target", "mean")},
        **{"sd": ("target", "std"), "bits per byte": ("target_bits", "mean")},
    )
    first = arms.iloc[0]
    return [
        Text(f"{bullets(said, [head, same if alike < 0.05 else ''])}\n\n{mostly}"),
        Table(
            "arms",
            rows.rename_axis("mixture").reset_index(),
            f"Larger runs: {first['params_total']:,} parameters ({first['params_non_embedding']:,} "
            f"without embeddings), {first['tokens']:,} tokens; held-out {design.config.target}, "
            "means over seeds.",
        ),
        Table(
            "differences",
            differences(claims, "nats/token"),
            "Each mixture against the proposal at the larger size, nats/token on the target, "
            "paired by seed; 90 % intervals are Student's.",
        ),
    ]


def predicted_text(scored: pd.DataFrame, regressor: str) -> str:
    """Says which predictors rank the proxies worse or better than the study's regressor."""
    rows, said = scored.set_index("predictor"), {}
    for name, row in rows.drop(regressor).iterrows():
        claim = Claim(*row[["difference", "difference_low", "difference_high"]])
        said[name] = f"{row['spearman']:.3f}, {claim.said('', '+.3f', regressor)}"
    head = (
        f"Out of fold, `{regressor}` ranks the proxies with {rows.loc[regressor, 'spearman']:.3f}; "
        "the others:"
    )
    return bullets(said, [head])


def both_sizes(design, runs: pd.DataFrame) -> pd.DataFrame:
    """Sampled mixtures trained at both sizes: columns mixture, small and large (nats/token)."""
    sound = runs[runs["diverged_step"].isna()].set_index("run")
    losses = target_loss(sound, design.target)
    pairs = pd.DataFrame({"mixture": design.transferred})
    for size, run in (("small", design.proxy), ("large", design.larger)):
        pairs[size] = [losses.get(run(mixture).identity) for mixture in design.transferred]
    return pairs.dropna()


def transfer_blocks(design, found, names, pairs: pd.DataFrame) -> list[Block]:
    """Ranks the larger runs by predictions from the small size."""
    if len(pairs) < 3:
        return []
    shares = np.array([mixture.array(design.domains) for mixture in pairs["mixture"]])
    # A regressor must not have seen the proxies whose larger runs it ranks.
    apart = np.abs(found.proxies.shares[:, None] - shares[None]).sum(axis=2).min(axis=1)
    unseen = found.proxies.only(apart > 5e-3)
    able = usable(len(unseen), len(design.domains))
    chosen = {name: name for name in names if name in able} | baselines(found.proxies)
    predictions = {"proxies' losses": pairs["small"].to_numpy(float)}
    predictions |= {name: fit_target(way, unseen)(shares) for name, way in chosen.items()}
    columns = ["predictor", "spearman", "spearman_low", "spearman_high"]
    table = scores(predictions, pairs["large"].to_numpy(float))[columns]
    said = [f"{name} {rank:.2f} [{low:.2f}, {high:.2f}]" for name, rank, low, high in table.values]
    return [
        Text(
            f"Small to large, rank correlation over {len(pairs)} sampled mixtures: "
            f"{'; '.join(said)}. Where the share's interval reaches the proxies', these mixtures "
            "do not show that proxies rank better than one share does."
        ),
        Table(
            "transfer",
            table.assign(mixtures=len(pairs)),
            "Sampled mixtures trained at both sizes: rank correlation with the losses at the "
            "larger size (one seed), 90 % intervals over mixtures. The proxies' losses "
            "themselves, what a regressor fitted to the other proxies predicts, and the baselines.",
        ),
    ]


def mixture_table(design, found, names) -> pd.DataFrame:
    """Shares of the arms and of the other proposals, predicted losses and distances."""
    mixtures = found.trained | found.others | design.simple
    arrays = {name: mixture.array(design.domains) for name, mixture in mixtures.items()}
    shares = np.array(list(arrays.values()))
    table = pd.DataFrame(shares, columns=design.domains).assign(mixture=list(arrays))
    for name in names:
        table[f"{name} predicts"] = fit_target(name, found.proxies)(shares)
    table = table.merge(distances(arrays, found.proxies), on="mixture")
    return table[["mixture", *table.columns.drop("mixture")]]


@styled
def picture(found, crossed, arms: pd.DataFrame, pairs: pd.DataFrame):
    """Draws predicted against observed, small against large, and the larger runs by mixture."""
    figure, (left, middle, right) = panels(3, height=2.4)
    observed = found.proxies.loss
    shown = [name for name in crossed if name != "stratified"]
    for name, mark in zip(shown, "o^sx", strict=False):
        left.plot(crossed[name], observed, mark, alpha=0.7, label=name)
    ends = [observed.min(), observed.max()]
    left.plot(ends, ends, "-", color=QUIET, lw=0.8)
    middle.plot(pairs["small"], pairs["large"], "o")
    order = list(dict.fromkeys(arms["arm"]))
    for _, group in arms.groupby("seed"):
        at = [order.index(arm) for arm in group["arm"]]
        right.plot(at, group["target"], "o-", lw=0.6, color=QUIET)
    means = arms.groupby("arm")["target"].mean()[order]
    at = np.arange(len(order))
    right.hlines(means, at - 0.25, at + 0.25, color=HELD_OUT, lw=1.8)
    flat, larger = dict(xscale="linear"), "larger run (nats/token)"
    finish(left, "predicted (nats/token)", "observed (nats/token)", xscale="linear")
    finish(middle, "proxy (nats/token)", larger, **flat)
    finish(right, "", larger, **flat)
    right.set_xticks(at, [arm.replace(" ", "\n") for arm in order])
    return keyed(figure)
