"""Every study file, and what a study checks."""

import importlib
import warnings
from dataclasses import replace

import pytest

from experiments.command.studies import names
from refused import Refused
from scaling import plan
from scaling.events import folder_name
from tests.corpora import STEP, study_runs


def quickly(config):
    """Takes the bytes of the default corpus where a study takes its pairs: a minute to build."""
    if config.corpus.startswith("wheels-bpe"):
        config.corpus = "wheels"
    return config


@pytest.mark.parametrize("name", names())
def test_a_study_says_what_it_asks_and_plans_from_every_preset(name):
    module = importlib.import_module(f"experiments.{name}")
    for words in ("?", "Command", "Cost", "Compared", "Answer"):
        assert words in module.__doc__, f"{name} does not say {words}"
    for preset in module.PRESETS:
        config = module.get_config(preset)
        if config.corpus == "":
            with pytest.raises(Refused, match="corpus"):
                module.study(config)
            continue
        study = module.study(quickly(config))
        shared = plan(study.runs)
        assert 0 < shared.tokens <= shared.tokens_alone
        assert all(item.labels for item in study.runs)
        roots = [segment.words for segment in shared.segments.values() if segment.parent is None]
        assert len(set(roots)) == len(roots), "two trunks have one name in plan and progress"
        folders = {folder_name(shared, index)[4:] for index in range(len(shared.runs))}
        assert len(folders) == len(shared.runs), "two runs have one name in TensorBoard"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Presets that repeat data say so.
            assert study.check()
    with pytest.raises(Refused, match="preset: got nothing; accepted: cpu"):
        module.get_config("nothing")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("over_training", {"tokens": (0,)}, "tokens: got 0; accepted: enough for a stable and a"),
        ("over_training", {"tokens": (-8, 8)}, "tokens: got -8; accepted: enough for a stable"),
        ("over_training", {"batch_tokens": 0}, "batch_tokens: got 0; accepted: 1 or more"),
        (
            "over_training",
            {"seeds": (0,) * 5},
            "config.seeds: got .*; accepted: numbers from 1, one",
        ),
        ("qat_ratio", {"seeds": ()}, "config.seeds: got .*; accepted: numbers from 1, one"),
        ("moe_leverage", {"granularities": (2, 3)}, "config.granularities: got 3; accepted: 2 or"),
        ("moe_leverage", {"experts": (4, 8)}, "config.fine_experts: got 16; accepted: one of"),
        ("moe_leverage", {"rates": (1.0,)}, "config.rates: got .*; accepted: two, of dense and"),
        ("moe_leverage", {"sweep_rates": (0.0,)}, "learning_rate: got 0.0; accepted: more than 0"),
        ("learning_rate", {"factors": (0.0,)}, "learning_rate: got 0.0; accepted: more than 0"),
        ("learning_rate", {"widths": (0,)}, "width: got 0; accepted: a multiple of 8"),
        ("learning_rate", {"seeds": 0}, "study: got no runs; accepted: values of its conf"),
        ("binary_codes", {"tokens": -1}, "tokens: got -1; accepted"),
        (
            "binary_codes",
            {"rates": (0.0, 1.0, 2.0)},
            "config.rates: got .*; accepted: three or more",
        ),
        ("binary_codes", {"width": 0}, "width: got 0; accepted: 1 or more"),
        ("stem", {"seeds": -1}, "study: got no runs; accepted: values of its conf"),
        ("parscale", {"published_shapes": True}, "width: got 32; accepted: of published shapes"),
        ("regmix", {"context": 0}, "context: got 0; accepted: a number above 0"),
        ("tokenformer_growth", {"rows": (8,)}, "config.rows: got .*; accepted: as many as config"),
        ("tokenformer_growth", {"baseline": (44, 2)}, "config.baseline: got .*; accepted: width"),
        ("tokenformer_growth", {"rate": 0.0}, "learning_rate: got 0.0; accepted: more than 0"),
    ],
)
def test_values_that_make_no_study_are_refused_in_one_line(name, values, message):
    module = importlib.import_module(f"experiments.{name}")
    config = quickly(module.get_config())
    config.update(values)
    with pytest.raises(Refused, match=message) as refused:
        module.study(config)
    assert "\n" not in str(refused.value)


def test_more_than_four_epochs_need_to_be_meant(corpus):
    from experiments.evidence.study import Study
    from scaling import Evaluation, labelled, wsd

    run = replace(study_runs("wsd", corpus)[0], phases=wsd(3000 * STEP, STEP, STEP))
    study = Study(
        "long", corpus, (labelled(run, arm="long"),), Evaluation(128), report=lambda results: []
    )
    with pytest.raises(Refused, match="epochs of domain low"):
        study.check()
    with pytest.warns(UserWarning, match="is read 4"):
        epochs = replace(study, repeat=True).check()
    assert epochs["low"] > 4


def test_a_study_of_runs_without_labels_is_refused(corpus):
    from experiments.evidence.study import Study
    from scaling import Evaluation

    runs = tuple(study_runs("wsd", corpus))
    with pytest.raises(Refused, match=r"study: got runs without labels; accepted: .*labelled\("):
        Study("bare", corpus, runs, Evaluation(128), report=lambda results: [])
