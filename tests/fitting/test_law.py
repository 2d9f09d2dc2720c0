from dataclasses import replace

import numpy as np
import pytest

from fitting import LAWS
from fitting.law import shape_derivatives
from fitting.laws import law_named
from refused import Refused


def settings(law, rows=7, seed=0):
    rng = np.random.default_rng(seed)
    ranges = {
        **{"params": (1e7, 1e10), "params_active": (1e7, 1e10), "params_non_embedding": (1e8, 4e9)},
        **{"tokens": (1e9, 1e11), "unique_tokens": (1e9, 1e10), "flops": (1e18, 1e21)},
        **{"tokens_qat": (1e8, 1e10), "tokens_fp": (1e9, 1e11), "bits": (2, 8), "streams": (1, 8)},
        **{"params_total": (1e10, 1e11), "learning_rate": (1e-4, 1e-2), "loss": (2, 4)},
        **{"batch_tokens": (1e5, 1e7), "unigram_loss": (6, 8)},
        **{"experts": (1, 512), "activation_ratio": (0.02, 0.5), "granularity": (2, 16)},
    }
    out = {}
    for name in law.predictors:
        low, high = ranges.get(name, (0.1, 0.9))
        out[name] = np.exp(rng.uniform(np.log(low), np.log(high), rows))
    return out


def shapes(law, rng):
    return [
        np.array([[rng.uniform(*parameter.start)]])
        for parameter in law.parameters
        if not parameter.linear
    ]


@pytest.mark.parametrize("name", [n for n, law in LAWS.items() if law.gradient is not None])
def test_written_gradients_equal_complex_step(name):
    law, rng = LAWS[name], np.random.default_rng(1)
    columns, shape = settings(law), shapes(LAWS[name], rng)
    terms = law.terms(columns, *shape)
    written = shape_derivatives(law, columns, terms, shape)
    stepped = shape_derivatives(replace(law, gradient=None), columns, terms, shape)
    for ours, theirs in zip(written, stepped, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            one, other = 0 if one is None else one, 0 if other is None else other
            assert np.allclose(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_complete(name):
    law = LAWS[name]
    assert law.formula and law.source and all(parameter.unit for parameter in law.parameters)
    linear = [parameter.linear for parameter in law.parameters]
    assert linear == sorted(linear, reverse=True)
    terms = law.terms(settings(law), *shapes(law, np.random.default_rng(0)))
    assert len(terms) in (law.linear_count, law.linear_count + 1)
    for values in law.published.values():
        known = law.derived(dict.fromkeys(law.names, 1.0)) if law.derived else {}
        assert set(values) <= set(law.names) | set(known)


@pytest.mark.parametrize("name", LAWS)
def test_batched_predictions_equal_single_ones(name):
    law, rng = LAWS[name], np.random.default_rng(2)
    columns = settings(law)
    rows = [
        {p.name: 1.1 if p.linear else rng.uniform(*p.start) for p in law.parameters}
        for _ in range(3)
    ]
    batch = {p: np.array([row[p] for row in rows]) for p in law.names}
    together = law.predict(columns, batch)
    for row, parameters in enumerate(rows):
        assert np.allclose(together[row], law.predict(columns, parameters), rtol=1e-13)


def test_an_unknown_law_lists_the_known():
    with pytest.raises(Refused, match="over_training"):
        law_named("chincilla")
    with pytest.raises(Refused, match="did you mean chinchilla\\?$"):
        law_named("chincilla")
