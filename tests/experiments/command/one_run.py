"""A study of one run on the tests' corpus, for `--config`; its report is empty."""

from ml_collections import ConfigDict

from data import Mixture, open_corpus
from experiments.evidence.study import Study
from scaling import AdamW, Data, Evaluation, Run, labelled, wsd
from tests.corpora import model

BATCH = 256  # Tokens in a batch: 8 sequences of 32.


def get_config(name: str = "cpu") -> ConfigDict:
    """Returns the preset; `corpus` is a folder."""
    return ConfigDict(dict(preset=name, corpus="", steps=100))


def study(config: ConfigDict) -> Study:
    """Builds one run: a warmup, a constant rate, and a decay over its last fifth."""
    corpus = open_corpus(config.corpus)
    data = Data(corpus.name, corpus.content_hash, Mixture.uniform(corpus.names))
    phases = wsd(config.steps * BATCH, BATCH, 4 * BATCH)
    run = Run(model(depth=1), data, AdamW(learning_rate=0.005, weight_decay=0.01), 0, tuple(phases))
    runs = (labelled(run, arm="alone"),)
    return Study("one_run", corpus, runs, Evaluation(128), lambda found: [], repeat=True)
