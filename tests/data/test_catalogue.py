"""Names of corpora: each stands for one corpus, and any other is told with those that exist."""

import pytest

from data import cache_folder, load
from data.markov import parse
from refused import Refused
from tests.corpora import small_corpus


def test_unknown_names_are_refused_with_what_exists():
    with pytest.raises(
        Refused, match="corpus: got 'webtext'; accepted: wheels, wheels-bpe.*, markov"
    ):
        load("webtext")


def test_a_built_folder_is_loaded_by_its_path_and_a_source_by_its_fields(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path))
    made = small_corpus(tmp_path)
    assert load(str(tmp_path / "small")).content_hash == made.content_hash
    name = "markov:symbols=4,tokens=2000,held_out=1000"
    assert load(name).name == parse(name).name
    assert load(name).domains["markov"].folder.parent == tmp_path


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"ESPALIER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/espalier"),
        ({"HOME": "/c"}, "/c/.cache/espalier"),
    ],
)
def test_the_cache_is_the_first_folder_that_is_set(variables, folder, monkeypatch):
    for name in ("ESPALIER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == folder
