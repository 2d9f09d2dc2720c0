"""The papers' own figures for laws without a public table, and limits every law must meet."""

import numpy as np
import pytest

from fitting import LAWS, Observations, fit
from fitting.chinchilla import allocation
from fitting.leverage import measured_leverage
from fitting.moe import at_experts
from fitting.parscale import PARSCALE
from fitting.qat import optimal_fraction
from fitting.repetition import C4_BASE, REPETITION, optimal_params
from fitting.routed import effective_experts

LEVERAGE = {  # activation ratio, granularity, FLOP -> leverage
    (0.031, 12, 1e20): 4.553508,
    (0.031, 2, 1e20): 3.310183,
    (2 / 64, 2, 3e20): 3.689649,
    (0.031, 12, 1e22): 7.244898,
    (13 / 385, 4096 / 384, 1e22): 6.982165,
    (12 / 384, 12, 1e22): 7.220154,
    (9 / 257, 8, 1e24): 10.666801,
}


@pytest.mark.parametrize("setting", LEVERAGE)
def test_leverage_of_the_paper(setting):
    columns = dict(zip(("activation_ratio", "granularity", "flops"), setting, strict=True))
    law = LAWS["leverage"]
    found = law.predict({k: [v] for k, v in columns.items()}, law.published["paper"])
    assert found[0] == pytest.approx(LEVERAGE[setting], rel=1e-6)


def test_leverage_limits():
    law = LAWS["leverage"]
    published = law.published["paper"]
    best = law.uses["best_granularity"].answer(law, published, {})["granularity"]
    assert best == pytest.approx(11.34, abs=0.005)
    dense = {"activation_ratio": [1.0, 1.0], "granularity": [12, 2], "flops": [1e22, 1e20]}
    assert np.all(np.abs(law.predict(dense, published) - 1) < 0.02)
    ratios = np.geomspace(0.01, 0.9, 9)
    table = {"activation_ratio": ratios, "granularity": 8 + 0 * ratios, "flops": 1e20 + 0 * ratios}
    assert np.all(np.diff(law.predict(table, published)) < 0)


def test_leverage_fit_recovers_planted_values():
    rng = np.random.default_rng(0)
    law = LAWS["leverage"]
    rows = [
        (ratio, fine, flops)
        for ratio in (2 / 256, 4 / 256, 8 / 256, 16 / 256, 32 / 256)
        for fine in (2, 4, 8, 12, 16)
        for flops in (1e18, 1e19, 1e20)
    ]
    columns = dict(zip(law.predictors, np.array(rows).T, strict=True))
    truth = law.predict(columns, law.published["paper"])
    noisy = truth * np.exp(0.02 * rng.normal(size=len(truth)))
    frame = {**columns, "leverage": noisy}
    import pandas as pd

    result = fit(law, Observations(pd.DataFrame(frame)), draws=100)
    assert np.max(np.abs(law.predict(columns, result.parameters) / truth - 1)) < 0.03


def test_measured_leverage_is_the_compute_ratio_at_equal_loss():
    dense, moe = {"alpha": 40.0, "beta": 0.05}, {"alpha": 39.0, "beta": 0.0505}
    law, flops = LAWS["compute"], 1e20
    gain = measured_leverage(dense, moe, flops)
    reached = law.predict({"flops": [flops * gain]}, dense)
    assert reached == pytest.approx(law.predict({"flops": [flops]}, moe), rel=1e-12)
    assert measured_leverage(dense, dense, flops) == pytest.approx(1.0)


def test_optimal_qat_share_of_the_paper():
    # The paper's law depends on tokens per weight byte only: one parameter of 8 bits is one byte.
    found = optimal_fraction(1.0, np.array([10, 40, 100, 1e3, 1e4, 1e5]), 8)
    expected = [0.053790, 0.161327, 0.231926, 0.377485, 0.481587, 0.557365]
    assert found == pytest.approx(expected, abs=1e-6)
    by_bits = optimal_fraction(1e9, 20e9, np.array([1, 2, 3, 4, 6, 8]))
    assert 100 * by_bits == pytest.approx([26.6, 21.5, 18.4, 16.1, 12.9, 10.6], abs=0.06)
    assert np.all(optimal_fraction(1.0, np.array([0.5, 1.0]), 8) == 0)
    assert optimal_fraction(1.0, 16463.6, 8) == pytest.approx(0.5, abs=1e-5)


QAT = {
    **{"alpha": 1.7, "beta": 0.55, "zeta": 0.75, "theta": 0.5, "phi": 0.6, "lambda": 0.5},
    **{"gamma": 0.33, "eta": 0.32, "kappa": 1.1, "chi": 0.9, "psi": 0.2, "omega": 0.5},
    **{"mu": 1.0, "nu": 0.15, "xi": -0.1, "rho": 0.35},
}


def test_qat_law_limits():
    law = LAWS["qat"]
    table = {"params": 1e8, "tokens_qat": 1e9, "tokens_fp": 9e9}

    def loss(bits, qat=1e9):
        changed = table | {"bits": bits, "tokens_qat": qat, "tokens_fp": 1e10 - qat}
        return float(law.predict(changed, QAT))

    plain = 1.7 + 0.55 + 0.75
    assert loss(16.0, 0.0) == pytest.approx(plain, rel=1e-12)
    assert loss(60.0) == pytest.approx(plain, abs=1e-12)
    losses = [loss(bits) for bits in (2.0, 3.0, 4.0, 6.0, 8.0)]
    assert np.all(np.diff(losses) < 0) and losses[-1] > plain


JOINT = LAWS["joint_moe"].published["paper"]


def test_joint_moe_tables_of_the_paper():
    # Table 4: the law at one expert count; Table 1: optimum at 1e21 FLOP.
    table_4 = {1: (30.36, 0.1817, 53.98, 0.1965), 8: (21.83, 0.1676, 119.9, 0.2338)}
    for experts, expected in table_4.items():
        law = at_experts(JOINT, experts)
        found = [law[name] for name in ("A", "alpha", "B", "beta")]
        assert found == pytest.approx(expected, rel=5e-3)
    table_1 = {1: (5.7e9, 29.3e9), 8: (3.8e9, 44.3e9)}
    for experts, (params, tokens) in table_1.items():
        best = allocation(at_experts(JOINT, experts), 1e21)
        assert best["params"] == pytest.approx(params, rel=0.01)
        assert best["tokens"] == pytest.approx(tokens, rel=0.01)
    columns = {"params_active": [1.1e9] * 3, "tokens": [16e9] * 3, "experts": [1, 4, 8]}
    loss = LAWS["joint_moe"].predict(columns, JOINT)
    assert loss == pytest.approx([2.58840, 2.54816, 2.52307], abs=6e-6)


def test_routed_limits():
    published = LAWS["routed"].published["s-base"]
    columns = {"params_active": [1.3e9] * 2, "experts": [1, 64]}
    loss = LAWS["routed"].predict(columns, published)
    assert loss == pytest.approx([2.23736, 2.04978], abs=6e-6)
    assert effective_experts(1.0, 1.847, 314.478) == pytest.approx(1.847)
    assert effective_experts(1e12, 1.847, 314.478) == pytest.approx(314.478)
    law, setting = LAWS["routed"], {"params_active": 1.3e9, "experts": 64.0}
    dense = law.uses["effective_params"].answer(law, published, setting)["params"]
    alone = LAWS["routed"].predict({"params_active": [dense], "experts": [1]}, published)
    assert alone[0] == pytest.approx(loss[1], rel=1e-10)


def test_repetition_reduces_to_chinchilla_without_repeats():
    unique = 1e11
    params = 0.5 * optimal_params(C4_BASE, unique)
    table = {"params": [params], "tokens": [unique], "unique_tokens": [unique]}
    plain = LAWS["chinchilla"].predict(table, C4_BASE)
    assert REPETITION.predict(table, {"R_D": 15.0, "R_N": 5.0}) == pytest.approx(plain, rel=1e-13)


def test_parscale_streams_count_as_parameters():
    published = LAWS["parscale"].published["stack"]
    effective = LAWS["parscale"].uses["effective_params"].answer
    settings = [{"params_non_embedding": 1.0, "streams": streams} for streams in (2, 4, 8)]
    factor = [effective(PARSCALE, published, setting)["params"] for setting in settings]
    assert factor == pytest.approx([1.27, 1.55, 1.82], abs=0.005)


def test_the_parscale_law_recovers_planted_parameters_in_natural_logarithms():
    import pandas as pd

    truth = {"E": 0.7, "A_alpha": 1.1e7**0.19, "alpha": 0.19, "k": 0.39}
    size, streams = (axis.ravel() for axis in np.meshgrid([5e8, 1e9, 2e9, 4e9], [1, 2, 4, 8]))
    frame = pd.DataFrame({"params_non_embedding": size, "streams": streams})
    doubled = 0.39 * np.log(2)  # What k would be if the law were in powers of two.
    by_two = 1 + doubled * np.log2(frame["streams"])
    frame["loss"] = 0.7 + (1.1e7 / (frame["params_non_embedding"] * by_two)) ** 0.19
    result = fit("parscale", Observations(frame), point_only=True)
    for name, value in truth.items():
        assert result.parameters[name] == pytest.approx(value, rel=1e-3)
