"""Folders: written whole, read back with their shards, and refused where they are no such thing."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import Quantization
from models.export import rounded
from refused import Refused
from scaling.interchange import folder
from tests.scaling.interchange.models import LIKE, assert_same, kept


@pytest.mark.parametrize("name", LIKE)
def test_a_folder_comes_back_the_same(name, tmp_path):
    one = kept(LIKE[name])
    folder.write(tmp_path / "m", one, "id")
    back = folder.read(tmp_path / "m")
    assert_same(replace(back, notes=()), one)


def test_a_folder_in_shards_is_the_same_folder(tmp_path):
    one = kept(LIKE["gqa"])
    folder.write(tmp_path / "m", one, largest=30_000)
    index = json.loads((tmp_path / "m" / folder.INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3 and files[0].startswith("model-00001-of-0000")
    assert_same(folder.read(tmp_path / "m"), one)
    (tmp_path / "m" / files[1]).unlink()
    with pytest.raises(Refused, match=f"{files[1]}; accepted: a readable safetensors file"):
        folder.read(tmp_path / "m")


def test_without_our_own_file_their_settings_count(tmp_path):
    one = kept(replace(LIKE["tied"], z_loss=1e-3))
    folder.write(tmp_path / "m", one)
    theirs = folder.families.read(folder.record(tmp_path / "m" / "config.json"))[0]
    assert folder.read(tmp_path / "m").config == one.config != theirs
    config = tmp_path / "m" / "config.json"
    # Once config.json says otherwise, what we wrote beside it holds no more.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-4}))
    assert folder.read(tmp_path / "m").config == replace(theirs, norm_epsilon=1e-4)
    (tmp_path / "m" / folder.OWN).unlink()
    assert folder.read(tmp_path / "m").content == one.content


def test_a_quantised_model_has_its_rounded_weights_there(tmp_path):
    one = kept(replace(LIKE["mha"], quantization=Quantization(4)))
    folder.write(tmp_path / "m", one)
    back = folder.read(tmp_path / "m")
    assert back.config == replace(one.config, quantization=None)
    for path, value in rounded(one.config, dict(one.params)).items():
        np.testing.assert_array_equal(back.params[path], value)


def test_notes_say_what_is_not_alike(tmp_path):
    notes = folder.write(tmp_path / "a", kept(LIKE["tied"], tokenizer=None))
    assert len(notes) == 2 and "symbols" in notes[0] and "within a document" in notes[1]
    assert not (tmp_path / "a" / "tokenizer.json").exists()
    assert folder.read(tmp_path / "a").notes[0].startswith("no tokenizer.json")
    with pytest.raises(Refused, match="--out: got .*; accepted: a folder that is not there yet"):
        folder.write(tmp_path / "a", kept(LIKE["tied"]))
    with pytest.raises(Refused, match="export model.feed_forward: got gelu"):
        folder.write(tmp_path / "b", kept(replace(LIKE["mha"], feed_forward="gelu")))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(Refused, match="accepted: a readable config.json"):
        folder.read(tmp_path)
    place = tmp_path / "m"
    folder.write(place, kept(LIKE["mha"]))
    found = load_file(place / "model.safetensors")
    save_file(found | {"more": np.zeros(1)}, place / "model.safetensors")
    with pytest.raises(Refused, match="tensors: got more"):
        folder.read(place)
    (place / "model.safetensors").unlink()
    with pytest.raises(Refused, match="without safetensors"):
        folder.read(place)
    index = {"weight_map": {"model.norm.weight": "../x.safetensors"}}
    (place / folder.INDEX).write_text(json.dumps(index))
    with pytest.raises(Refused, match="accepted: names of files in the folder"):
        folder.read(place)
