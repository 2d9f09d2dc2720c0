"""Data-mixing laws: the log-linear law, and the regressions of RegMix."""

import numpy as np

from fitting.law import Law, Parameter
from fitting.observations import Observations, Refused


def mixing_law(domains, target: str) -> Law:
    """The log-linear mixing law for the loss on one domain.

    Shares sum to one, so one rate is redundant with k: that of the last domain is zero.

    Args:
      domains: names of the training domains, columns `mixture.<domain>`; at least two.
      target: column of the loss, for instance `loss.pile_cc`.
    """
    domains = tuple(domains)
    if len(domains) < 2:
        raise Refused("domains", len(domains), "at least two")
    columns_of = tuple(f"mixture.{domain}" for domain in domains)

    def terms(columns, *rates):
        return 1.0, np.exp(
            sum(t * columns[name] for t, name in zip(rates, columns_of, strict=False))
        )

    def gradient(columns, found, *rates):
        return tuple((None, columns[name] * found[1]) for name in columns_of[: len(rates)])

    rates = (Parameter(f"t.{d}", "1", 0.0, 60.0, (-1.0, 1.0), positive=False) for d in domains[:-1])
    return Law(
        name=f"mixing for {target}",
        formula=f"{target} = c + k exp(sum of t.<domain> x share), t = 0 for {domains[-1]}",
        predictors=columns_of,
        parameters=(Parameter("c", "nats/token"), Parameter("k", "nats/token"), *rates),
        terms=terms,
        gradient=gradient,
        target=target,
        source="Ye et al. 2024 (arXiv:2403.16952) eq. 1",
    )


def mixture_columns(obs: Observations) -> list[str]:
    """Names of the mixture columns; Refused if there are fewer than two."""
    names = [name for name in obs.frame if str(name).startswith("mixture.")]
    if len(names) < 2:
        raise Refused("mixture", f"{len(names)} columns", "two or more mixture.<domain> columns")
    return names


def linear_regression(train: Observations, test: Observations, target: str) -> np.ndarray:
    """Least-squares prediction of a loss from the shares, (test rows,) nats/token."""
    names = mixture_columns(train)
    design = np.column_stack([train.frame[names].to_numpy(float), np.ones(len(train))])
    solved = np.linalg.lstsq(design, train.column(target), rcond=None)[0]
    return np.column_stack([test.frame[names].to_numpy(float), np.ones(len(test))]) @ solved


def tree_regression(train, test, target: str, stop_on: Observations | None = None, seed: int = 42):
    """LightGBM prediction of a loss from the shares, with RegMix's settings.

    Args:
      stop_on: runs for early stopping. The published numbers stop on the test runs themselves; the
        default keeps the last eighth of the training runs for it, which leaks nothing.

    Returns:
      (test rows,) nats/token. Needs LightGBM (`pip install espalier[regression]`).
    """
    import lightgbm

    names = mixture_columns(train)
    if stop_on is None:
        kept = np.arange(len(train)) >= len(train) - len(train) // 8
        train, stop_on = train.only(~kept), train.only(kept)
    # Learning rate, rounds, patience and seed: RegMix (arXiv:2407.01492), its regression notebook.
    # It watches l1 and l2: stopping on l2 alone trains longer and ranks three domains better.
    options = {"objective": "l2", "metric": ["l1", "l2"], "learning_rate": 0.01}
    options |= {"seed": seed, "num_threads": 1, "verbosity": -1}
    fitted = lightgbm.Dataset(train.frame[names].to_numpy(float), train.column(target))
    watched = fitted.create_valid(stop_on.frame[names].to_numpy(float), stop_on.column(target))
    model = lightgbm.train(
        options,
        fitted,
        num_boost_round=1000,
        valid_sets=[watched],
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
    )
    return np.asarray(model.predict(test.frame[names].to_numpy(float)))


def rank_correlation(predicted, observed) -> float:
    """Spearman correlation; the only fair score when sizes differ in level."""
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, observed).statistic)
