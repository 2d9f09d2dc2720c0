"""Proposals: bounds, the simulated average, the convex optimum, and distances."""

import numpy as np
import pytest
from scipy.optimize import minimize

from fitting.mixtures import MixingLaw, Proxies, Weighted, fit_target
from fitting.observations import read_frame
from fitting.proposals import Bounds, convex, distances, needs_epochs, simulate
from refused import Refused

DOMAINS = ("a", "b", "c", "d")
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
LAWS = Weighted(
    (0.5, 0.5),
    (
        MixingLaw(1.0, np.array([0.5, -1.0, 0.2, -0.3])),
        MixingLaw(1.2, np.array([-0.5, 0.3, 0.1, -2.0])),
    ),
)


@pytest.fixture(scope="module")
def proxies():
    shares = np.random.default_rng(0).dirichlet(np.ones(4), 40)
    return Proxies(DOMAINS, shares, {"a": 0.5, "b": 0.5}, np.ones((40, 2)))


@pytest.fixture(scope="module")
def published():
    return Proxies.of(read_frame("published:regmix:train_1m"), "pile_cc")


@pytest.fixture(scope="module")
def prior(published):
    row = read_frame("published:regmix_prior").iloc[0]
    return np.array([row[f"mixture.{name}"] for name in published.domains])


def test_the_best_simulated_mixture_is_mostly_pile_cc(published, prior):
    # RegMix, config_1b/regmix.yaml: .870; here 20,000 draws and the same best part of them.
    trees = fit_target("lightgbm", published)
    found = simulate(trees, prior, Bounds.of(published.domains), count=20_000, averaged=26)
    shares = dict(zip(published.domains, found, strict=True))
    assert 0.83 <= shares["pile_cc"] <= 0.89
    assert sorted(shares, key=shares.get)[-2] in ("ubuntu_irc", "wikipedia_en")
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_the_convex_proposal_of_the_published_table_stays_between_prior_and_pile_cc(
    published, prior
):
    laws, bounds = fit_target("log_linear", published), Bounds.of(published.domains)
    at = published.domains.index("pile_cc")
    shares = [convex(laws, prior, bounds, kl)[at] for kl in (0.0, 0.01, 0.05, 0.5, 1e6)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.999 and shares[-1] == pytest.approx(prior[at], abs=1e-5)


def objective(x, kl):
    return float(LAWS(x[None])[0] + kl * np.sum(x * np.log(np.maximum(x, 1e-300) / PRIOR)))


BOUNDS = {
    "free": Bounds(DOMAINS, np.zeros(4), np.ones(4)),
    "boxed": Bounds(DOMAINS, np.array([0.15, 0.0, 0.1, 0.0]), np.array([1.0, 0.3, 1.0, 0.35])),
    "point": Bounds(DOMAINS, np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.2, 0.3, 0.4])),
}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("kl", [0.0, 0.05, 1.0])
def test_the_convex_proposal_is_the_optimum_that_slsqp_finds(name, kl):
    bounds = BOUNDS[name]
    found = convex(LAWS, PRIOR, bounds, kl)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (found >= bounds.low).all() and (found <= bounds.high).all()
    start = bounds.project(np.full((1, 4), 0.25))[0]
    other = minimize(
        objective,
        start,
        (kl,),
        method="SLSQP",
        bounds=list(zip(np.maximum(bounds.low, 1e-12), bounds.high, strict=True)),
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert objective(found, kl) <= other.fun + 1e-8
    assert found == pytest.approx(other.x, abs=2e-4)


def test_a_domain_without_prior_gets_none_and_cannot_be_asked_for():
    prior = np.array([0.5, 0.5, 0.0, 0.0])
    found = convex(LAWS, prior, BOUNDS["free"], 0.05)
    assert (found[2:] == 0).all() and found.sum() == pytest.approx(1)
    with pytest.raises(Refused, match="bounds.c: got a smallest share of 0.1; accepted: at most 0"):
        convex(LAWS, prior, BOUNDS["boxed"], 0.05)


def test_the_convex_proposer_takes_log_linear_laws_and_a_weight_of_0_or_more(proxies):
    with pytest.raises(Refused, match="regressor: got not log-linear"):
        convex(Weighted((1.0,), (lambda x: x[:, 0],)), PRIOR, BOUNDS["free"])
    with pytest.raises(Refused, match="kl: got -1"):
        convex(LAWS, PRIOR, BOUNDS["free"], kl=-1)


def test_simulation_finds_the_corner_of_a_linear_loss_and_keeps_bounds_exactly():
    predict = lambda x: x @ np.array([1.0, 2.0, 3.0, 4.0])
    free = simulate(predict, PRIOR, BOUNDS["free"], count=20_000, averaged=20)
    assert free[0] > 0.99
    bounds = Bounds.of(DOMAINS, smallest={"d": 0.1}, largest={"a": 0.55, "b": 0.2})
    found = simulate(predict, PRIOR, bounds, count=20_000, averaged=20)
    assert found == pytest.approx([0.55, 0.2, 0.15, 0.1], abs=0.02)
    assert (found >= bounds.low).all() and (found <= bounds.high).all()
    assert found.sum() == pytest.approx(1, abs=1e-12)
    again = simulate(predict, PRIOR, bounds, count=20_000, averaged=20)
    assert (found == again).all()
    with pytest.raises(Refused, match="averaged: got 30; accepted: 1 to 20"):
        simulate(predict, PRIOR, bounds, count=20, averaged=30)


def test_projections_are_the_nearest_mixtures_and_leave_those_inside_alone():
    bounds = BOUNDS["boxed"]
    drawn = np.random.default_rng(1).dirichlet(np.ones(4) / 2, 200)
    found = bounds.project(drawn)
    inside = ((drawn >= bounds.low) & (drawn <= bounds.high)).all(axis=1)
    assert inside.any() and (found[inside] == drawn[inside]).all()
    assert (found >= bounds.low).all() and (found <= bounds.high).all()
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    feasible = found[np.random.default_rng(2).permutation(200)]
    # The angle at a projection, towards any feasible mixture, is not acute.
    assert np.max(np.sum((drawn - found) * (feasible - found), axis=1)) < 1e-9


def test_sizes_cap_shares_at_the_epochs_allowed():
    sizes = {"a": 30.0, "b": 100.0, "c": 500.0, "d": 1000.0}
    bounds = Bounds.of(DOMAINS, sizes=sizes, tokens=200.0)
    assert bounds.high == pytest.approx([0.15, 0.5, 1.0, 1.0])
    bounds = Bounds.of(DOMAINS, largest={"a": 0.1}, sizes=sizes, tokens=200.0, epochs=4)
    assert bounds.high == pytest.approx([0.1, 1.0, 1.0, 1.0])
    found = convex(LAWS, PRIOR, Bounds.of(DOMAINS, sizes=sizes, tokens=1000.0), 0.05)
    assert (found * 1000 <= np.array(list(sizes.values()))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": {"z": 0.1}}, "smallest.z: got an unknown domain; accepted: a, b, c, d"),
        ({"largest": {"a": 1.5}}, "largest.a: got 1.5"),
        ({"largest": {"z": 0.5}}, "largest.z: got an unknown domain"),
        ({"smallest": {"a": 0.6}, "largest": {"a": 0.5}}, "bounds.a: got a smallest share of 0.6"),
        ({"smallest": {"a": 0.6, "b": 0.6}}, "bounds: got smallest shares that sum to 1.2"),
        ({"largest": dict.fromkeys(DOMAINS, 0.2)}, "bounds: got largest shares that sum to 0.8"),
        (
            {"smallest": {"a": 0.5}, "sizes": dict.fromkeys(DOMAINS, 40.0), "tokens": 100.0},
            "share of a: got 0.5 of 100 tokens, 1.25 epochs; accepted: at most 1 epochs, a share",
        ),
        (
            {"sizes": dict.fromkeys(DOMAINS, 10.0), "tokens": 100.0},
            "bounds: got largest shares that sum to 0.4",
        ),
        ({"sizes": dict.fromkeys(DOMAINS, 10.0)}, "tokens: got None"),
    ],
)
def test_bounds_that_no_mixture_meets_are_refused_by_name(options, message):
    with pytest.raises(Refused, match=message):
        Bounds.of(DOMAINS, **options)


def test_epochs_of_an_empty_domain():
    needs_epochs("a", 0.0, 0.0, 100.0, 1.0)
    with pytest.raises(Refused, match="share of a: got 0.5 of 100 tokens, inf epochs"):
        needs_epochs("a", 0.5, 0.0, 100.0, 1.0)


def test_distances_are_total_variation_to_the_nearest_sampled_mixture(proxies):
    table = distances({"one": proxies.shares[3], "corner": np.eye(4)[0]}, proxies)
    one, corner = table.itertuples(index=False)
    assert one.distance == 0 and one.farther == 1
    assert corner.distance == pytest.approx(1 - proxies.shares[:, 0].max())
    assert 0 <= corner.farther < 0.5
