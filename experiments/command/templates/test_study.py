"""The study example: what it would train, on a corpus that is made here."""

import example

from scaling import plan

CORPUS = "markov:order=1,symbols=32,seed=0,tokens=200000"


def test_every_arm_is_trained_at_every_rate_with_every_seed():
    config = example.get_config("cpu")
    config.corpus, config.evaluation_tokens = CORPUS, 1024
    study = example.study(config)
    study.check()
    planned = plan(study.runs)
    assert len(planned.runs) == len(example.ARMS) * len(config.rates) * config.seeds
    assert {item.labels["arm"] for item in study.runs} == set(example.ARMS)
    assert all(run.tokens == config.tokens for run in planned.runs)
