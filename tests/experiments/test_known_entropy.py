"""The known-entropy study: the correction of a finite sample."""

import numpy as np
import pytest

from data.markov import parse
from experiments import known_entropy


def test_the_corrected_loss_of_the_true_source_is_its_entropy_rate():
    config = known_entropy.get_config("cpu")
    study = known_entropy.study(config)
    entropy, correction = known_entropy.sample_correction(config, study.corpus)
    source = parse(config.corpus)
    windows = study.evaluation.held_out(study.corpus, config.context).windows("markov")
    truth = source.negative_log_likelihood(windows)[:, 1:].mean()
    assert truth + correction == pytest.approx(entropy, abs=1e-12)
    assert 0 < abs(correction) < 0.01
    assert entropy < np.log(source.symbols)


def test_counts_grow_by_the_root_of_two_and_share_trunks():
    config = known_entropy.get_config("cpu")
    assert len(config.tokens) == 9
    ratios = np.diff(np.log2(config.tokens))
    np.testing.assert_allclose(ratios, 0.5, atol=0.02)
    assert config.seeds >= 6
