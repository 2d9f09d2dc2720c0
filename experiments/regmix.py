"""Does a mixture proposed from small proxies beat simple ones at a larger size?

Command    espalier run --config=experiments/regmix.py:cpu --fleet=4
           (trains the proposal's runs too, which follow from the proxies' losses; in fleets the
           proxies are a tenth to a third faster on two CPU cores)
Cost       cpu: 7 CPU-minutes; gpu: some hours on one accelerator, see `espalier plan`
Compared   RegMix, Liu et al. 2024 (arXiv:2407.01492): 512 proxies of 1M parameters rank mixtures
           at 1B with a Spearman correlation of 0.971 (LightGBM), where the target's own share
           ranks as well (experiments/results/published_mixtures/report.md); Olmix
           (arXiv:2602.12237): log-linear laws and a convex proposal.
Answer     Whether the proposal wins over stratified, natural and the best sampled mixture at the
           larger size, paired by seed: an interval leaves out zero. `cpu`: by 0.15 nats/token over
           the first two, not resolved from the third; mostly one domain, whose share alone ranks
           the larger runs as well as the proxies do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from data import Mixture, candidates, largest_shares, on_grid
from data.order import PERIOD
from experiments.evidence.mixtures import mixture_blocks, target_loss
from experiments.evidence.report import Block, Text
from experiments.evidence.setup import Setup
from experiments.evidence.study import CPU, GPU, MOST_EPOCHS, Results, Study, configured
from fitting.mixtures import Proxies, enough, fit_target, usable
from fitting.proposals import Bounds, convex, needs_epochs, simulate
from models import count
from refused import Refused
from scaling import Data, Evaluation, Labelled, Run, labelled

# `kl` is a fifth of Olmix's 0.05, chosen before anything was trained; of a few domains of one
# kind of text none needs the prior's protection as much as among the Pile's seventeen.
COMMON = dict(
    trained="code,docs,headers,tests",
    target="networkx",
    epochs=1.0,
    smallest="",
    largest="",
    regressor="log_linear",
    kl=0.01,
    folds=8,
)
PRESETS = {
    "cpu": dict(
        CPU | COMMON,
        proxies=64,
        proxy_width=16,
        proxy_tokens=384_000,
        width=40,
        tokens=768_000,
        seeds=4,
        transfer=12,
        evaluation_tokens=65_536,
    ),
    "gpu": dict(
        GPU | COMMON,
        proxies=512,
        proxy_width=64,
        proxy_tokens=4_096_000,
        width=256,
        tokens=16_384_000,
        seeds=4,
        transfer=64,
        batch_tokens=8192,
        warmup_tokens=25 * 8192,
        evaluation_tokens=81_920,
        repeat=False,
    ),
}
get_config = configured(PRESETS)

LEAST_LARGER = 4  # times the proxies' parameters, with and without embeddings
SEED = 0  # of the candidates, the proxies, the transfer runs and the folds
# RegMix simulates a million mixtures of 17 domains and averages 100; of few domains fewer will do.
SIMULATED, AVERAGED = 20_000, 20


@dataclass(frozen=True, eq=False)
class Design(Setup):
    """What a configuration asks for: domains, target, bounds, sampled mixtures and runs.

    Every property raises `Refused`, naming the value of the configuration, where it cannot be.
    """

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The domains that mixtures are made of, sorted."""
        text = self.config.trained
        domains = tuple(sorted({name.strip() for name in text.split(",") if name.strip()}))
        for name in domains:
            if name not in self.corpus.domains:
                raise Refused("config.trained", name, ", ".join(self.corpus.names))
        if len(domains) < 2:
            raise Refused("config.trained", text, "two or more domains")
        return domains

    @cached_property
    def target(self) -> dict[str, float]:
        """The target's weights by domain."""
        text = self.config.target
        weights = dict(Mixture.parse(text).weights) if "=" in text else {text: 1.0}
        for name in weights:
            if name not in self.corpus.domains:
                raise Refused("config.target", name, ", ".join(self.corpus.names))
        overlap = set(weights) & set(self.domains)
        if overlap and len(weights) == 1:
            accepted = (
                "a domain that is not trained on, or weights over several; the best mixture for "
                "one trained domain is that domain alone"
            )
            raise Refused("config.target", text, accepted)
        most = 1.0 if overlap else MOST_EPOCHS
        if not 0 < self.config.epochs <= most:
            why = "is trained on" if overlap else "is not trained on"
            accepted = f"above 0 and at most {most:g}, as the target {why}"
            raise Refused("config.epochs", self.config.epochs, accepted)
        return weights

    @cached_property
    def limits(self) -> Bounds:
        """Smallest and largest shares of the larger runs, in multiples of 1/`PERIOD`."""
        config = self.config
        smallest, largest = (shares_of(config[name], name) for name in ("smallest", "largest"))
        sizes = {n: self.corpus.domains[n].train_tokens for n in self.domains}
        found = Bounds.of(self.domains, smallest, largest, sizes, config.tokens, config.epochs)
        caps = self.caps(config.tokens)
        high = np.minimum(found.high, [caps[name] for name in self.domains])
        low = np.ceil(found.low * PERIOD - 1e-9) / PERIOD
        return Bounds(self.domains, low, np.floor(high * PERIOD + 1e-9) / PERIOD)

    def caps(self, tokens: int) -> dict[str, float]:
        """The largest shares within the epochs allowed, for runs of so many tokens."""
        config = self.config
        return largest_shares(self.corpus, tokens, config.epochs, config.context, self.domains)

    @cached_property
    def natural(self) -> Mixture:
        """The domains by their training tokens."""
        return Mixture.natural(self.corpus, self.domains)

    @cached_property
    def sampled(self) -> tuple[Mixture, ...]:
        """The proxies' mixtures: RegMix's draw around the natural shares."""
        caps = self.caps(self.config.proxy_tokens)
        return candidates(self.natural, self.config.proxies, SEED, caps)

    @cached_property
    def eligible(self) -> list[Mixture]:
        """The sampled mixtures that lie within the bounds of the larger runs."""
        low, high = self.limits.low - 1e-9, self.limits.high + 1e-9
        arrays = [mixture.array(self.domains) for mixture in self.sampled]
        inside = [((low <= shares) & (shares <= high)).all() for shares in arrays]
        return [mixture for mixture, good in zip(self.sampled, inside, strict=True) if good]

    @property
    def transferred(self) -> list[Mixture]:
        """The sampled mixtures that are trained at the larger size as well."""
        return self.eligible[: self.config.transfer]

    def on(self, mixture: Mixture, width: int, tokens: int, seed: int) -> Run:
        """A run on a mixture."""
        rung, data = self.rung(width, tokens), Data.of(self.corpus, mixture)
        return Run.of(rung, data, seed, self.phases(tokens))

    def proxy(self, mixture: Mixture) -> Run:
        """A proxy run."""
        return self.on(mixture, self.config.proxy_width, self.config.proxy_tokens, SEED)

    def larger(self, mixture: Mixture, seed: int = SEED) -> Run:
        """A run at the larger size."""
        return self.on(mixture, self.config.width, self.config.tokens, seed)

    @cached_property
    def by_proxy(self) -> dict[str, Mixture]:
        """The sampled mixtures by the identities of their proxies."""
        return {self.proxy(mixture).identity: mixture for mixture in self.sampled}

    def proxies(self) -> list[Labelled]:
        """The proxy runs; an arm's number is that of the sampled mixture."""
        return [
            labelled(self.proxy(mixture), role="proxy", arm=f"sampled {number}")
            for number, mixture in enumerate(self.sampled)
        ]

    def transfers(self) -> list[Labelled]:
        """Larger runs of sampled mixtures, called as their proxies are."""
        return [
            labelled(self.larger(mixture), role="transfer", arm=f"sampled {number}")
            for number, mixture in enumerate(self.sampled)
            if mixture in self.transferred
        ]

    def repeated(self, mixtures: Mapping[str, Mixture]) -> list[Labelled]:
        """Larger runs of mixtures with every seed."""
        return [
            labelled(self.larger(mixture, seed), role="candidate", arm=arm)
            for arm, mixture in mixtures.items()
            for seed in range(self.config.seeds)
        ]

    @cached_property
    def simple(self) -> dict[str, Mixture]:
        """The mixtures that need no proxies."""
        return {"stratified": Mixture.uniform(self.domains), "natural": self.natural}

    def check(self) -> None:
        """Refuses what a property does not see by itself."""
        config = self.config
        if not 2 <= config.folds <= config.proxies:
            raise Refused("config.folds", config.folds, f"2 to {config.proxies}, the proxies")
        kept = config.proxies - -(-config.proxies // config.folds)
        note = f" (of {config.proxies}, one of {config.folds} folds left out)"
        enough(config.regressor, kept, len(self.domains), note)
        if config.seeds < 2:
            raise Refused("config.seeds", config.seeds, "2 or more, for intervals")
        if not 3 <= config.transfer <= len(self.eligible):
            accepted = f"3 to {len(self.eligible)}, the sampled mixtures within the bounds"
            raise Refused("config.transfer", config.transfer, accepted)
        widths = ((config.proxy_width, config.proxy_tokens), (config.width, config.tokens))
        small, large = (count(self.rung(*pair).model) for pair in widths)
        for name in ("params_total", "params_non_embedding"):
            least = LEAST_LARGER * getattr(small, name)
            if getattr(large, name) < least:
                said = f"{config.width}, {getattr(large, name)} {name}"
                raise Refused("config.width", said, f"a width with {least} or more")
        for mixture in self.simple.values():
            for name, share in mixture.weights:
                size = self.corpus.domains[name].train_tokens
                needs_epochs(name, share, size, config.tokens, config.epochs)


def shares_of(text: str, field: str) -> dict[str, float]:
    """Shares written as "code=0.1,docs=0.2", which need not sum to 1."""
    shares = {}
    for item in filter(None, text.split(",")):
        name, _, share = item.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            accepted = "DOMAIN=SHARE, as in code=0.1,docs=0.2"
            raise Refused(f"config.{field}", item, accepted) from None
    return shares


def study(config) -> Study:
    """Builds the proxies and the larger runs known beforehand; the others follow from losses.

    Raises:
      Refused: a target that the corpus lacks or that is a single trained domain, fewer than two
        trained domains, too few proxies, a larger size below four times the proxies', bounds that
        no mixture meets, or a share that needs more epochs than allowed.
    """
    design = Design.of(config)
    target = design.target
    design.check()
    # As costly as what will follow, and like it in neither list yet.
    stand_in = Mixture.uniform(design.domains)
    awaited = [
        labelled(design.larger(stand_in, seed), role="candidate", arm="to be proposed")
        for seed in range(1000, 1000 + 2 * config.seeds)
    ]
    return design.study(
        report,
        (*design.proxies(), *design.transfers(), *design.repeated(design.simple)),
        evaluation=Evaluation(config.evaluation_tokens, domains=tuple(target)),
        then=lambda results: tuple(design.repeated(Found.of(results).trained)),
        awaited=tuple(awaited),
    )


@dataclass(frozen=True, eq=False)
class Found:
    """What follows from the proxies.

    `trained` are the proposal and the sampled mixture of the lowest loss, which are trained at
    the larger size; `others` are proposals made in other ways, only predicted.
    """

    proxies: Proxies
    trained: dict[str, Mixture]
    others: dict[str, Mixture]

    @classmethod
    def of(cls, results: Results) -> "Found":
        """Fits the proxies that a study has trained, and proposes."""
        design = Design(results.config, results.corpus)
        proxies = proxy_table(design, results.runs)
        limits, prior = design.limits, design.natural.array(design.domains)
        made = {}
        for name in usable(len(proxies), len(design.domains)):
            fitted = fit_target(name, proxies)
            if name == "log_linear":
                made[name, "convex"] = convex(fitted, prior, limits, design.config.kl)
            made[name, "simulated"] = simulate(fitted, prior, limits, SIMULATED, AVERAGED)
        mixtures = {
            how: Mixture.of(dict(zip(design.domains, on_grid(shares).tolist(), strict=True)))
            for how, shares in made.items()
        }
        regressor = results.config.regressor
        how = "convex" if regressor == "log_linear" else "simulated"
        proposal = mixtures.pop((regressor, how))
        sound = results.runs[results.runs["diverged_step"].isna()].set_index("run")
        losses, eligible = target_loss(sound, design.target), set(design.eligible)
        tried = {run: m for run, m in design.by_proxy.items() if run in losses and m in eligible}
        best = tried[min(tried, key=lambda run: (losses[run], run))]
        others = {", ".join(how): mixture for how, mixture in mixtures.items()}
        return cls(proxies, {"proposal": proposal, "best sampled": best}, others)


def proxy_table(design: Design, runs: pd.DataFrame) -> Proxies:
    """The finished proxies of a run table with their losses on the target."""
    columns = [f"mixture.{name}" for name in design.domains]
    columns += [f"loss.{name}" for name in design.target]
    rows = runs.loc[runs["run"].isin(design.by_proxy), [*columns, "diverged_step"]]
    return Proxies.of(rows, design.target)


def report(results: Results) -> list[Block]:
    """Writes whether the proposal wins, how proxies rank larger runs, and what was proposed."""
    design = Design(results.config, results.corpus)
    missing = set(design.by_proxy) - set(results.runs["run"])
    if missing:
        return [Text(f"{len(missing)} proxies are not trained yet: nothing is fitted.")]
    return mixture_blocks(design, Found.of(results), results.runs)
