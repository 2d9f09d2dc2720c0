"""Golden numbers: fits of published tables, each with the objective it belongs to."""

import numpy as np
import pytest

from fitting import LAWS, Observations, fit
from fitting.chain import chain
from fitting.chinchilla import allocation
from fitting.mixtures import Proxies, lightgbm, rank_correlation

# The objective, then E, A, B, alpha, beta; 240 runs unless the name says 245.
CHINCHILLA = {
    "huber": (1.8172180992, 477.825869, 2143.417366, 0.3473104989, 0.3671724327),
    "lad": (1.8168640398, 482.005718, 2085.434203, 0.3478130291, 0.3658541174),
    "least_squares_log": (1.86455010, 593.3221, 4875.638, 0.36025280, 0.40588336),
    "least_squares": (1.8828136, 567.8, 7581.9, 0.3576151, 0.4276206),
}
OBJECTIVE = {"huber": 0.0010182740178006, "least_squares_log": 0.0057309435}


@pytest.fixture(scope="module")
def chinchilla_runs():
    return Observations.read("published:chinchilla:240")


@pytest.mark.parametrize("objective", CHINCHILLA)
def test_chinchilla_optimum_of_each_objective(chinchilla_runs, objective):
    result = fit("chinchilla", chinchilla_runs, objective=objective, point_only=True)
    names, expected = ("E", "A", "B", "alpha", "beta"), CHINCHILLA[objective]
    for name, value, rtol in zip(names, expected, (1e-6, 1e-4, 1e-4, 1e-5, 1e-5), strict=True):
        assert result.parameters[name] == pytest.approx(value, rel=rtol), (objective, name)
    if objective in OBJECTIVE:
        rtol = 1e-9 if objective == "huber" else 1e-7
        assert result.optimum.objective == pytest.approx(OBJECTIVE[objective], rel=rtol)
    assert result.optimum.share > 0.6


def test_chinchilla_five_outliers_move_beta():
    result = fit("chinchilla", Observations.read("published:chinchilla"), point_only=True)
    expected = {"E": 1.8913385, "A": 495.726, "B": 12845.62, "alpha": 0.3493129, "beta": 0.4530493}
    assert result.parameters == pytest.approx(expected, rel=1e-5)
    assert result.optimum.objective == pytest.approx(0.00182601050732, rel=1e-8)


def test_chinchilla_bootstrap_matches_published_intervals(chinchilla_runs):
    result = fit("chinchilla", chinchilla_runs, draws=4000, level=0.95)
    draws = result.parameter_draws()
    # Standard errors: A 124.5, B 1293, E .0257, alpha .0154, beta .0206; another 4,000 resamples.
    published = {"A": 124.52, "B": 1293.28, "E": 0.02566, "alpha": 0.01540, "beta": 0.02060}
    for name, error in published.items():
        assert np.std(draws[name]) == pytest.approx(error, rel=0.12), name
    ends = {"E": (1.769, 1.871), "alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    for name, interval in ends.items():
        assert result.intervals[name] == pytest.approx(interval, abs=0.006), name
    share = draws["beta"] / (draws["alpha"] + draws["beta"])
    assert np.mean(share) == pytest.approx(0.513, abs=0.004)
    assert np.std(share) == pytest.approx(0.020, rel=0.12)
    assert set(result.verdicts.values()) == {"identified"}


def test_chinchilla_allocation_at_the_budget_of_chinchilla(chinchilla_runs):
    # Besiroglu's row: 7.225e10 parameters and 1.329e12 tokens at 5.76e23 FLOP.
    best = allocation(LAWS["chinchilla"].published["besiroglu table"], 5.76e23)
    assert best["params"] == pytest.approx(7.225e10, rel=1e-3)
    assert best["tokens"] == pytest.approx(1.329e12, rel=1e-3)
    # Rounding the same published fit turns 59 tokens per parameter into 93.
    for label, multiplier in (("hoffmann unrounded", 58.9), ("hoffmann rounded", 92.7)):
        best = allocation(LAWS["chinchilla"].published[label], 5.76e23)
        assert best["tokens"] / best["params"] == pytest.approx(multiplier, rel=2e-3)


def over_training_points(name: str, with_target: bool = False) -> Observations:
    """The 5 runs of the published loss fit; the 1.4B run at 20 tokens per parameter besides."""
    obs = Observations.read(f"published:over_training:{name}")
    sizes = np.unique(obs.column("params_total"))
    multiplier = np.round(obs.column("tokens") / obs.column("params_total"))
    size = obs.column("params_total")
    rows = (multiplier == 20) & (size <= sizes[4 if with_target else 3])
    return obs.only(rows | ((multiplier == 320) & (size == sizes[0])))


@pytest.mark.parametrize("name", LAWS["over_training"].published)
def test_over_training_point_fits(name):
    result = fit(
        "over_training", over_training_points(name), objective="least_squares", point_only=True
    )
    assert result.parameters == pytest.approx(LAWS["over_training"].published[name], rel=1e-5)
    assert result.interval_method == "none (5 runs, 4 parameters)"
    runs = over_training_points(name, with_target=True)
    for tasks in (17, 46):
        options = {"objective": "least_squares", "point_only": True}
        found = fit("downstream", runs, target=f"error.average_{tasks}", **options)
        expected = LAWS["downstream"].published[f"{name}, {tasks} tasks"]
        assert found.parameters == pytest.approx(expected, rel=2e-5)


def test_over_training_chain_misses_as_published():
    obs = Observations.read("published:over_training:redpajama")
    options = {"objective": "least_squares", "point_only": True}
    loss = fit("over_training", over_training_points("redpajama"), **options)
    runs = over_training_points("redpajama", with_target=True)
    error = fit("downstream", runs, target="error.average_17", **options)
    multiplier = np.round(obs.column("tokens") / obs.column("params_total"))
    sizes = np.unique(obs.column("params_total"))
    size = obs.column("params_total")
    small, large = (size == sizes[-2]) & (multiplier == 640), (size == sizes[-1])
    target = obs.only(small | (large & (multiplier == 20)))
    table = chain(loss, error, target.frame)
    loss_miss = np.abs(table["loss"] / target.column("loss") - 1)
    error_miss = np.abs(table["prediction"] / target.column("error.average_17") - 1)
    # Published notebook: 0.7103 %, 0.7320 %, 3.6365 %, 0.0464 %.
    assert sorted(100 * loss_miss) == pytest.approx([0.7103, 0.7320], abs=2e-4)
    assert sorted(100 * error_miss) == pytest.approx([0.0464, 3.6365], abs=3e-4)
    assert table[["low", "high"]].isna().all().all()


PARSCALE = {
    "stack": (0.691207, 1.1307e7, 0.189358, 0.393457, 3.676740554e-5, 0.997833),
    "pile": (1.288588, 1.9752e8, 0.196281, 0.334442, 1.81393159e-5, 0.998676),
}


@pytest.mark.parametrize("corpus", PARSCALE)
def test_parscale(corpus):
    result = fit("parscale", Observations.read(f"published:parscale:{corpus}"), draws=200)
    *expected, objective, determination = PARSCALE[corpus]
    found = [result.parameters[name] for name in ("E", "A", "alpha", "k")]
    assert found == pytest.approx(expected, rel=3e-5)
    assert result.optimum.objective == pytest.approx(objective, rel=1e-8)
    loss = result.residuals["observed"]
    missed = np.sum((loss - result.residuals["predicted"]) ** 2)
    assert 1 - missed / np.sum((loss - loss.mean()) ** 2) == pytest.approx(determination, abs=1e-6)
    assert result.verdicts["k"] == "identified"


def test_repetition_published_point_is_only_a_local_minimum():
    obs = Observations.read("published:repetition")
    law = LAWS["repetition"]
    table = {
        "params": [6.34e9, 8.67e9],
        "tokens": [242e9, 178e9],
        "unique_tokens": [25e9, 25e9],
    }
    predicted = law.predict(table, law.published["c4"])
    assert predicted == pytest.approx([2.2256440889984477, 2.2269634075087867], rel=1e-12)
    held = fit("repetition", obs, point_only=True, fixed={"R_D": 15.37176})
    assert held.optimum.objective == pytest.approx(0.0158259320691, rel=1e-8)
    assert held.parameters["R_N"] == pytest.approx(5.31513, rel=1e-3)
    result = fit("repetition", obs, draws=100)
    assert result.optimum.objective == pytest.approx(0.0158046625, rel=1e-8)
    assert result.parameters["R_D"] == pytest.approx(95.365, rel=1e-4)
    assert result.parameters["R_N"] == pytest.approx(1.7059, rel=1e-4)
    assert result.verdicts["R_D"] == "not identified"
    assert result.optimum.next_basin < 0.002


ROUTED = {
    "s-base": (-0.0830, -0.1180, 0.0099, 1.1136, 0.00323),
    "rl-r": (-0.0827, -0.1234, 0.0112, 1.1070, 0.00323),
    "hash": (-0.0874, -0.1384, 0.0126, 1.1595, 0.00298),
}


@pytest.mark.parametrize("router", ROUTED)
def test_routed(router):
    obs = Observations.read(f"published:routed:{router}")
    result = fit("routed", obs, objective="least_squares_log", draws=100)
    *expected, rms = ROUTED[router]
    found = [result.parameters[name] for name in "abcd"]
    assert found == pytest.approx(expected, abs=6e-5)
    miss = result.residuals["residual"] / np.log(10)
    assert np.sqrt(np.mean(miss**2)) == pytest.approx(rms, abs=6e-6)
    paper = LAWS["routed"].published[router]
    for name, rtol in (("a", 0.02), ("d", 0.02), ("b", 0.1), ("c", 0.12)):
        assert result.parameters[name] == pytest.approx(paper[name], rel=rtol), name
    assert result.verdicts["E_max"] != "identified"


# Spearman x 100 of the RegMix notebook at 1M.
REGMIX = {
    **{"arxiv": 99.60, "freelaw": 99.71, "pubmed_central": 99.08, "wikipedia_en": 99.45},
    **{"dm_mathematics": 97.20, "github": 99.77, "stackexchange": 99.73},
    **{"gutenberg_pg_19": 99.18, "pile_cc": 98.92, "ubuntu_irc": 96.87, "hackernews": 98.51},
    **{"pubmed_abstracts": 99.19, "uspto_backgrounds": 99.12},
}


@pytest.mark.system
def test_regmix_ranks_with_the_notebook_s_stopping_on_the_test_runs():
    train, test = (
        Observations.read(f"published:regmix:{name}").frame for name in ("train_1m", "test_1m")
    )
    for domain in REGMIX:
        fitted, held = Proxies.of(train, domain), Proxies.of(test, domain)
        trees = lightgbm(fitted.shares, fitted.loss, watch=(held.shares, held.loss))
        score = 100 * rank_correlation(trees(held.shares), held.loss)
        assert score == pytest.approx(REGMIX[domain], abs=0.006), domain
