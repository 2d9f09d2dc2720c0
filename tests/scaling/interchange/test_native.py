"""The project's own file: every setting and bit comes back, and what is no such file is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import ModelConfig, Quantization
from models.embeddings import Learned
from refused import Refused
from scaling.interchange import native
from tests.scaling.interchange.models import LIKE, assert_same, kept
from tests.zoo import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_comes_back_with_all_its_settings(name, tmp_path):
    one = kept(CONFIGS[name])
    if one.config.quantization is None:
        native.write(tmp_path / "m", one, "a run")
        assert_same(native.read(tmp_path / "m"), one)
    assert native.config_of(json.loads(json.dumps(native.whole(one.config)))) == one.config


def test_a_quantised_file_read_and_written_again_is_the_same_file(tmp_path):
    rule = (("layers.0.attention.*", None), ("head.*", 8))
    for number, quantization in enumerate(
        (Quantization(1.58, rule), Quantization(3), Quantization(4, scales="absmax"))
    ):
        first, again = tmp_path / f"{number}", tmp_path / f"{number} again"
        native.write(first, kept(replace(LIKE["mha"], quantization=quantization)), "id")
        native.write(again, native.read(first), "id")
        assert first.read_bytes() == again.read_bytes()
        config = native.read(first).config
        assert config.quantization == replace(quantization, scales="learned")


def test_settings_are_all_written_those_at_their_defaults_too():
    name, fields = native.whole(ModelConfig(embedding=Learned(0.5)))
    assert name == "ModelConfig" and fields["rope_base"] == 10_000.0 and fields["heads"] == 2
    assert fields["embedding"] == ["Learned", {"std": 0.5}]


def test_what_is_no_model_file_of_this_format_is_refused(tmp_path):
    file, other = tmp_path / "m", tmp_path / "other"
    native.write(file, kept(LIKE["mha"]))
    found = load_file(file)

    def changed(**fields):
        said = {"format": native.FORMAT, "model": native.whole(LIKE["mha"]), "tokenizer": None}
        save_file(found, other, {native.KEY: json.dumps(said | fields)})
        return native.read(other)

    assert_same(replace(changed(), tokenizer="bytes"), native.read(file))
    with pytest.raises(Refused, match="format 3; accepted: 2"):
        changed(format=3)
    for said in (["ModelConfig", {"novelty": 1}], ["Novelty", {}], 5, None, ["Learned", {}]):
        with pytest.raises(Refused, match="model file's configuration: got "):
            changed(model=said)
    with pytest.raises(Refused, match="model.width: got 0"):
        changed(model=["ModelConfig", {"width": 0}])
    with pytest.raises(Refused, match="no tensor layers.2"):
        changed(model=native.whole(replace(LIKE["mha"], depth=3)))
    save_file({"a": np.zeros(2)}, other, {"arrays": "{}", "model": "{}"})
    with pytest.raises(Refused, match="got no configuration in it"):
        native.read(other)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(Refused, match="accepted: a safetensors file"):
        native.read(file)
