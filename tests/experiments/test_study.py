"""Every study file, and what a study checks."""

import warnings
from dataclasses import replace

import pytest

from data import Refused
from experiments.study import load_module, studies
from scaling import plan
from tests.corpora import STEP, study_runs


@pytest.mark.parametrize("file", studies())
def test_a_study_says_what_it_asks_and_plans_from_every_preset(file):
    module = load_module(file)
    for words in ("?", "Command", "Cost", "Compared", "Answer"):
        assert words in module.__doc__, f"{file} does not say {words}"
    for name in module.PRESETS:
        config = module.get_config(name)
        if config.corpus == "":
            with pytest.raises(Refused, match="corpus"):
                module.study(config)
            continue
        study = module.study(config)
        shared = plan(study.runs)
        assert 0 < shared.tokens <= shared.tokens_alone
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Presets that repeat data say so.
            assert study.check()
    with pytest.raises(Refused, match="preset: got nothing; accepted: cpu"):
        module.get_config("nothing")


def test_more_than_four_epochs_need_to_be_meant(corpus):
    from experiments.study import Study
    from scaling import Evaluation, wsd

    run = replace(study_runs("wsd", corpus)[0], phases=wsd(3000 * STEP, STEP, STEP))
    study = Study("long", corpus, (run,), Evaluation(128), report=lambda results: [])
    with pytest.raises(Refused, match="epochs of domain low"):
        study.check()
    with pytest.warns(UserWarning, match="is read 4"):
        epochs = replace(study, repeat=True).check()
    assert epochs["low"] > 4


def test_files_that_are_no_studies_are_refused(tmp_path):
    for text in ("x = (", "x = 1"):
        (tmp_path / "s.py").write_text(text)
        with pytest.raises(Refused, match="config: got"):
            load_module(str(tmp_path / "s.py"))
