"""Either kind of model by its path."""

import pytest

from refused import Refused
from scaling.interchange import folder, native
from scaling.interchange.opened import read
from tests.scaling.interchange.models import LIKE, assert_same, kept


def test_a_folder_and_a_file_of_one_model_are_the_same_model(tmp_path):
    one = kept(LIKE["qk_norm"])
    folder.write(tmp_path / "folder", one)
    native.write(tmp_path / "file", one)
    assert_same(read(tmp_path / "folder"), read(tmp_path / "file"))
    with pytest.raises(Refused, match="model: got .*none; accepted: a file of `espalier export`"):
        read(tmp_path / "none")
