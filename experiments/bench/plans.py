"""What is planted in the study of coverage, a truth for every law, and where a wrong law is fitted.

Those of laws with a public table are in `planted_tables`; here are grids of runs of the sizes that
papers use.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.bench import planted_tables as public
from experiments.bench.planted import Plan, mesh
from fitting import LAWS
from fitting.chain import LINK
from fitting.kaplan import searched as kaplan_searched
from fitting.repetition import C4_BASE
from fitting.skaling import searched as skaling_searched

_SIZES, _TOKENS = np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 6)
# k as fitted to the gemstone and marin tables; the other values put the losses between 2 and 4.
SKALING = skaling_searched({"E": 1.6, "A": 4e4, "B": 3e5, "alpha": 0.5, "beta": 0.55, "k": 0.4})
CHINCHILLA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def skaling() -> Plan:
    """36 runs, 6 sizes by 6 numbers of tokens."""
    return Plan("skaling", mesh(params_total=_SIZES, tokens=_TOKENS), SKALING)


def skaling_no_floor() -> Plan:
    """The same runs with E = 0."""
    parameters = {name: value for name, value in SKALING.items() if name != "E"}
    return replace(skaling(), law="skaling_no_floor", parameters=parameters)


def chinchilla_no_floor() -> Plan:
    """The same runs under a Chinchilla law with E = 0 and slower falls."""
    parameters = {"A": 30.0, "B": 60.0, "alpha": 0.16, "beta": 0.18}
    return replace(skaling(), law="chinchilla_no_floor", parameters=parameters)


def kaplan() -> Plan:
    """25 runs under the published parameters."""
    frame = mesh(params_total=np.geomspace(1e6, 1e9, 5), tokens=np.geomspace(1e8, 2e10, 5))
    return Plan("kaplan", frame, kaplan_searched(LAWS["kaplan"].published["paper"]))


def size() -> Plan:
    """12 sizes."""
    frame = mesh(params_total=np.geomspace(1e8, 1e10, 12))
    return Plan("size", frame, {"E": 1.7, "A": 60.0, "alpha": 0.2}, 0.001)


def size_no_floor() -> Plan:
    """12 sizes under the published parameters."""
    published = dict(LAWS["size_no_floor"].published["kaplan"])
    return replace(size(), law="size_no_floor", parameters=published, noise=0.003)


def data() -> Plan:
    """12 numbers of tokens."""
    frame = mesh(tokens=np.geomspace(1e9, 1e11, 12))
    return Plan("data", frame, {"E": 1.7, "B": 410.0, "beta": 0.28}, 0.001)


def data_no_floor() -> Plan:
    """12 numbers of tokens under the published parameters."""
    published = dict(LAWS["data_no_floor"].published["kaplan"])
    return replace(data(), law="data_no_floor", parameters=published, noise=0.003)


def compute_floor() -> Plan:
    """12 budgets."""
    frame = mesh(flops=np.geomspace(1e17, 1e21, 12))
    return Plan("compute_floor", frame, {"E": 1.7, "alpha": 600.0, "beta": 0.15}, 0.001)


def compute() -> Plan:
    """The same budgets without a floor."""
    return replace(
        compute_floor(), law="compute", parameters={"alpha": 25.0, "beta": 0.05}, noise=0.003
    )


def broken_data() -> Plan:
    """30 numbers of tokens with a break at 1e9."""
    parameters = {"E": 1.5, "b": 30.0, "c0": 0.1, "c1": 0.25, "d": 1e9, "f": 0.3}
    return Plan("broken_data", mesh(tokens=np.geomspace(1e6, 1e12, 30)), parameters)


def broken_size() -> Plan:
    """30 sizes with a break at 1e8."""
    parameters = {"E": 1.5, "b": 20.0, "c0": 0.1, "c1": 0.25, "d": 1e8, "f": 0.3}
    return Plan("broken_size", mesh(params_total=np.geomspace(1e5, 1e11, 30)), parameters)


def broken_compute() -> Plan:
    """30 budgets with a break at 1e18."""
    parameters = {"E": 1.5, "b": 60.0, "c0": 0.08, "c1": 0.15, "d": 1e18, "f": 0.3}
    return Plan("broken_compute", mesh(flops=np.geomspace(1e14, 1e22, 30)), parameters)


def farseer() -> Plan:
    """56 runs, 7 sizes by 8 numbers of tokens."""
    frame = mesh(params_non_embedding=np.geomspace(1e7, 3e9, 7), tokens=np.geomspace(1e9, 2e11, 8))
    parameters = {
        **{"E": 2.0, "floor_slope": -0.08, "gamma": -0.1, "B": 3000.0, "slope": 0.3},
        **{"beta": 0.05, "rate": 0.36, "rate_slope": 0.03, "alpha": 0.1},
    }
    return Plan("farseer", frame, parameters)


def sparsity() -> Plan:
    """100 runs, 5 sizes by 5 numbers of tokens by 4 activation ratios."""
    frame = mesh(
        params_total=np.geomspace(1e8, 1e10, 5),
        tokens=np.geomspace(1e9, 1e11, 5),
        activation_ratio=np.geomspace(0.02, 1.0, 4),
    )
    parameters = {
        **{"e": 1.0, "a": 2000.0, "b": 5000.0, "c": 0.4, "d": 18.0, "alpha": 0.45},
        **{"beta": 0.4, "lambda": -0.2, "delta": 0.15, "gamma": 0.16},
    }
    return Plan("sparsity", frame, parameters)


def routed_floor() -> Plan:
    """60 runs, 6 active sizes by 10 numbers of experts."""
    frame = mesh(params_active=np.geomspace(1e7, 2e9, 6), experts=2.0 ** np.arange(10))
    parameters = {"E": 1.4, "K": 1.9, "a": 0.2, "b": -0.15, "c": 0.012}
    return Plan("routed_floor", frame, parameters | {"E_start": 2.0, "E_max": 300.0})


def joint_moe() -> Plan:
    """80 runs under the published parameters, 4 sizes by 4 numbers of tokens by 5 of experts."""
    frame = mesh(
        params_active=np.geomspace(3e7, 3e9, 4),
        tokens=np.geomspace(1e9, 2e11, 4),
        experts=(1.0, 4.0, 16.0, 64.0, 256.0),
    )
    return Plan("joint_moe", frame, dict(LAWS["joint_moe"].published["paper"]))


def leverage() -> Plan:
    """75 leverages under the published parameters, 5 ratios by 5 granularities by 3 budgets."""
    frame = mesh(
        activation_ratio=(0.01, 0.03, 0.1, 0.3, 0.7),
        granularity=(2.0, 4.0, 8.0, 12.0, 16.0),
        flops=(1e18, 1e19, 3e20),
    )
    return Plan("leverage", frame, dict(LAWS["leverage"].published["paper"]), 0.03)


def repetition_free() -> Plan:
    """75 runs, 5 sizes by 3 corpora by 5 numbers of epochs; the published base and constants."""
    frame = mesh(
        params_total=np.geomspace(2e8, 1e10, 5),
        unique_tokens=(1e9, 4e9, 16e9),
        epochs=(1.0, 2.0, 4.0, 12.0, 40.0),
    )
    frame["tokens"] = frame["unique_tokens"] * frame.pop("epochs")
    by_tokens = C4_BASE["B"] * 1e10 ** -C4_BASE["beta"]
    ratio = C4_BASE["A"] * 1e8 ** -C4_BASE["alpha"] / by_tokens
    parameters = {name: C4_BASE[name] for name in ("E", "alpha", "beta")}
    parameters |= {"S": by_tokens, "ratio": ratio, "R_D": 15.39, "R_N": 5.31}
    return Plan("repetition_free", frame, parameters)


def vocabulary() -> Plan:
    """80 runs under the published parameters, 5 bodies by 4 vocabularies by 4 numbers of tokens."""
    frame = mesh(
        params_non_embedding=np.geomspace(3e7, 1e9, 5),
        vocabulary=np.geomspace(4e3, 1e5, 4),
        tokens=np.geomspace(1e9, 2e10, 4),
    )
    words = frame.pop("vocabulary")
    width = 64 * (frame["params_non_embedding"] / 1e6) ** 0.4
    frame["params_total"] = frame["params_non_embedding"] + words * width
    frame["unigram_loss"] = 4.5 + 0.3 * np.log(words)
    return Plan("vocabulary", frame, dict(LAWS["vocabulary"].published["paper"]))


def rate_batch_response() -> Plan:
    """30 runs, 6 rates by 5 batches; a quadratic, fitted by least squares."""
    frame = mesh(learning_rate=np.geomspace(3e-4, 1e-2, 6), batch_tokens=np.geomspace(1e5, 4e6, 5))
    parameters = {"base": 2.9, "rate": -0.02, "rate2": 0.03}
    parameters |= {"batch": 0.04, "batch2": 0.02, "rate_batch": -0.02}
    return Plan("rate_batch_response", frame, parameters, objective="least_squares_log")


def rate_response() -> Plan:
    """12 rates; a parabola, fitted by least squares."""
    frame = mesh(learning_rate=np.geomspace(3e-4, 1e-2, 12))
    parameters = {"base": 2.9, "rate": -0.02, "rate2": 0.03}
    return Plan("rate_response", frame, parameters, objective="least_squares_log")


def best_rate() -> Plan:
    """20 best rates known to 10 %, under the published parameters."""
    frame = mesh(params_non_embedding=np.geomspace(6e7, 1e9, 4), tokens=np.geomspace(1e9, 1e11, 5))
    return Plan("best_rate", frame, dict(LAWS["best_rate"].published["step law"]), 0.1)


def best_batch() -> Plan:
    """12 best batches known to 10 %, under the published parameters."""
    frame = mesh(tokens=np.geomspace(1e9, 1e11, 12))
    return Plan("best_batch", frame, dict(LAWS["best_batch"].published["step law"]), 0.1)


_E_A, _FLOOR = {"E_a": 1.6}, {"floor": 0.25}


def loss_to_loss() -> Plan:
    """20 losses; the floor of the first corpus is known."""
    parameters = {"E_b": 0.6, "K": 0.52, "kappa": 1.29} | _E_A
    return Plan("loss_to_loss", mesh(loss=np.linspace(2.2, 4.5, 20)), parameters, fixed=_E_A)


def downstream_sigmoid() -> Plan:
    """25 accuracies; chance is known, and the fit is by least squares as in `espalier chain`."""
    parameters = {"reach": 0.9, "steepness": 4.0, "middle": 1.1} | _FLOOR
    frame = mesh(loss=np.linspace(0.4, 2.5, 25))
    how = {"fixed": _FLOOR, "objective": LINK["objective"]}
    return Plan("downstream_sigmoid", frame, parameters, 0.005, **how)


def _farther() -> tuple[pd.DataFrame, dict]:
    """49 runs, 7 sizes by 7 numbers of tokens, and new ones 4, 16 and 64 times beyond."""
    frame = mesh(params_total=np.geomspace(5e7, 2e9, 7), tokens=np.geomspace(1e9, 6e10, 7))
    new = {
        times: {"params_total": [2e9 * times**0.5], "tokens": [6e10 * times**0.5]}
        for times in (4, 16, 64)
    }
    return frame, new


def skaling_as_chinchilla() -> Plan:
    """A wrong law: the truth is Skaling's."""
    frame, new = _farther()
    return Plan("skaling", frame, SKALING, fitted="chinchilla", new=new)


def chinchilla_without_its_floor() -> Plan:
    """A wrong law: the truth has a floor."""
    frame, new = _farther()
    return Plan("chinchilla", frame, CHINCHILLA, fitted="chinchilla_no_floor", new=new)


def chinchilla_as_it_is() -> Plan:
    """The right law on the runs of the two wrong ones, which must not pay for its misfit."""
    frame, new = _farther()
    return Plan("chinchilla", frame, CHINCHILLA, new=new)


PLANS: dict[str, Callable[[], Plan]] = {
    plan.__name__: plan
    for plan in (
        *public.ON_TABLES,
        *(skaling, kaplan, farseer, vocabulary, sparsity, routed_floor, joint_moe, leverage),
        *(repetition_free, rate_batch_response, rate_response, best_rate, best_batch),
        *(loss_to_loss, downstream_sigmoid, size, data, compute_floor, broken_data, broken_size),
        *(broken_compute, size_no_floor, data_no_floor, compute, chinchilla_no_floor),
        *(skaling_no_floor, skaling_as_chinchilla, chinchilla_without_its_floor),
        chinchilla_as_it_is,
    )
}
