"""A model's content hash."""

from dataclasses import replace

from data.tokenizer import Bytes
from tests.scaling.interchange.models import LIKE, kept


def test_the_content_is_that_of_every_value_and_its_path():
    one = kept(LIKE["mha"])
    assert one.content == kept(LIKE["mha"]).content != kept(LIKE["mha"], seed=1).content
    assert replace(one, tokenizer=None).content == one.content
    gain, other = "final_norm.gain", "layers.0.attention_norm.gain"
    moved = one.params[gain].copy()
    moved[3] += 1e-6
    assert replace(one, params={**one.params, gain: moved}).content != one.content
    swapped = {**one.params, gain: one.params[other], other: one.params[gain]}
    assert replace(one, params=swapped).content != one.content
    assert replace(one, buffers={"more": moved}).content != one.content


def test_bytes_are_the_tokenizer_of_their_name():
    assert kept(LIKE["mha"]).text() == Bytes()
    assert kept(LIKE["mha"], tokenizer=None).text() is None
