"""Runs that start from a model: its bits, its hash in the identity, its tokenizer's corpus."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from data import Mixture, write_corpus
from data.corpus import Document
from data.tokenizer import BPE
from experiments.command import models_kept
from models import Quantization, Streams, skeleton
from refused import Refused
from scaling import (
    AdamW,
    AddStreams,
    Data,
    Evaluation,
    GrowParameterTokens,
    Phase,
    Run,
    Start,
    Store,
    Worker,
    make_mesh,
    plan,
    wsd,
)
from scaling.interchange import folder, native
from scaling.interchange.begin import begin, first_state
from scaling.interchange.kept import Kept
from scaling.runs import canonical
from scaling.specs import decoded
from scaling.state import initial
from tests.corpora import STEP, tokenformer
from tests.scaling.interchange.models import LIKE, kept


@pytest.fixture
def file(tmp_path):
    """A model's file."""
    native.write(tmp_path / "m", kept(LIKE["qk_norm"]))
    return tmp_path / "m"


def run(config, corpus, start) -> Run:
    """Returns a run from a start, or from a draw."""
    data = Data.of(corpus, Mixture.uniform(corpus.names))
    phases = wsd(10 * STEP, STEP, 2 * STEP)
    return Run(
        model=config,
        data=data,
        optimizer=AdamW(learning_rate=0.01),
        seed=0,
        phases=phases,
        start=start,
    )


def test_a_run_starts_from_the_models_values_with_fresh_moments(file, corpus):
    config, start = begin(file, corpus)
    state = first_state(run(config, corpus, start))
    for path, value in kept(LIKE["qk_norm"]).params.items():
        np.testing.assert_array_equal(state.params[path], value)
    fresh = initial(run(config, corpus, None).recipe, 0)
    assert state.moments.keys() == fresh.moments.keys()
    longer = replace(config, context=64, dtype="bfloat16", separator=0)
    assert first_state(run(longer, corpus, start)).params.keys() == state.params.keys()


def test_the_identity_is_of_the_content_and_not_of_the_place(file, corpus, tmp_path):
    config, start = begin(file, corpus)
    one = run(config, corpus, start)
    elsewhere = replace(one, start=replace(start, place="/elsewhere"))
    assert one == elsewhere and one.identity == elsewhere.identity
    drawn = replace(one, start=None)
    other = replace(one, start=Start("0" * 64, start.place))
    assert len({r.identity for r in (one, drawn, other)}) == 3
    assert len({r.trunk for r in (one, drawn, other)}) == 3
    assert canonical(drawn).keys() == canonical(one).keys() - {"start"}
    assert decoded(Run, canonical(one)) == one
    with pytest.raises(Refused, match="content .*; accepted: the model with the content 00000"):
        first_state(other)
    with pytest.raises(Refused, match="by its hash alone; accepted: a run of a study"):
        first_state(decoded(Run, canonical(one)))


def test_arrays_of_another_model_are_refused(file, corpus):
    config, start = begin(file, corpus)
    wider = replace(config, ff_width=64)
    with pytest.raises(Refused, match=r"down: got shape \(48, 16\); accepted: \(64, 16\), as"):
        first_state(run(wider, corpus, start))
    with pytest.raises(Refused, match="layers.0.attention.key_bias: got shape none"):
        first_state(run(replace(config, qkv_bias=True), corpus, start))
    with pytest.raises(Refused, match="run.start parameter: got layers.0.attention.key_norm"):
        first_state(run(replace(config, qk_norm=False), corpus, start))
    quantised = replace(config, quantization=Quantization(4))
    with pytest.raises(Refused, match=":scale: got shape none"):
        first_state(run(quantised, corpus, start))


def test_a_quantised_model_goes_on_quantised_or_with_its_rounded_weights(corpus, tmp_path):
    config = replace(LIKE["mha"], quantization=Quantization(4))
    native.write(tmp_path / "m", kept(config))
    config, start = begin(tmp_path / "m", corpus)
    state = first_state(run(config, corpus, start))
    plain = first_state(run(replace(config, quantization=None), corpus, start))
    assert state.params.keys() - plain.params.keys() == {
        path for path in state.params if path.endswith(":scale")
    }


def test_a_corpus_of_another_tokenizer_is_refused(file, corpus, tmp_path):
    native.write(tmp_path / "symbols", kept(replace(LIKE["mha"], vocabulary=20), tokenizer=None))
    with pytest.raises(Refused, match="corpus: got bytes, 256 tokens; accepted: at most 20"):
        begin(tmp_path / "symbols", corpus)
    with pytest.raises(Refused, match="corpus: got 'small' of symbols; accepted"):
        begin(file, replace(corpus, tokenizer="symbols"))
    bpe = BPE.train([b"some words of a text "], 260).json
    config = replace(LIKE["mha"], vocabulary=260)
    native.write(tmp_path / "bpe", kept(config, tokenizer=bpe))
    with pytest.raises(Refused, match="corpus: got 'small' of another bytes; accepted: one of the"):
        begin(tmp_path / "bpe", corpus)
    document = Document(np.arange(1, 5), 4)
    found = write_corpus(
        tmp_path / "corpus",
        name="words",
        vocabulary=260,
        separator=0,
        tokenizer="bpe",
        tokenizer_json=json.dumps(json.loads(bpe), indent=1),
        domains={"a": {"train": [document], "held_out": [document]}},
    )
    assert begin(tmp_path / "bpe", found)[0] == config


def grown(corpus, place, change) -> Run:
    """Returns a run that grows a model before its first step."""
    config, start = begin(place, corpus)
    phases = (Phase(0, STEP), Phase(4 * STEP, STEP, change=change))
    return replace(run(config, corpus, start), phases=phases)


def test_a_folder_of_theirs_grows_by_streams_around_its_own_bits(corpus, tmp_path):
    folder.write(tmp_path / "m", kept(replace(LIKE["qk_norm"], depth=1)))
    one = grown(corpus, tmp_path / "m", AddStreams(Streams(2, prefix=4), freeze=True))
    store = Store.at(tmp_path / "runs")
    mesh = make_mesh("data:1")
    Worker(plan([one]), store, corpus, Evaluation(128), mesh, keep_params=True).run()
    model, state = models_kept.ended(store, one)
    assert model == one.model_at(-1) and model.stream_count == 2
    theirs, there = first_state(one).params, state.params
    moved = {path for path in there if not np.array_equal(there[path], theirs.get(path))}
    assert moved == there.keys() - theirs.keys() != set()
    fresh = one.phases[-1].change.state(first_state(one), one.recipe_at(-1), 0).params
    assert any(not np.array_equal(there[path], fresh[path]) for path in moved)
    native.write(tmp_path / "back", Kept(model, there, state.buffers, "bytes"))
    assert begin(tmp_path / "back", corpus)[0] == model


def test_a_tokenformer_grows_by_rows_that_change_no_logit(corpus, tmp_path):
    native.write(tmp_path / "m", kept(tokenformer(depth=1)))
    one = grown(corpus, tmp_path / "m", GrowParameterTokens(20, 48))
    before, model = first_state(one), one.model_at(-1)
    after = one.phases[-1].change.state(before, one.recipe_at(-1), 0)
    shapes = {path: leaf.shape for path, leaf in skeleton(model).params.items()}
    assert {path: value.shape for path, value in after.params.items()} == shapes
    assert shapes != {path: value.shape for path, value in before.params.items()}
    tokens = np.arange(40, 56, dtype=np.int32)[None]
    run_ = lambda config, state: jax.jit(skeleton(config).merge(state.params, state.buffers))(
        tokens
    )
    np.testing.assert_allclose(run_(one.model, before), run_(model, after), rtol=0, atol=1e-6)
