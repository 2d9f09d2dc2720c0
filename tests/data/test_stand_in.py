"""A corpus without tokens, for plans."""

import pytest

from data import load
from refused import Refused


def test_a_stand_in_has_names_and_a_vocabulary_and_no_tokens():
    corpus = load("stand-in:32768,code+docs")
    assert corpus.vocabulary == 32768
    assert corpus.names == corpus.main == ("code", "docs")
    with pytest.raises(FileNotFoundError):
        corpus.domains["code"].train  # noqa: B018


@pytest.mark.parametrize("text", ["stand-in:", "stand-in:0,code", "stand-in:12", "stand-in:1,a b"])
def test_what_is_no_stand_in_is_refused(text):
    with pytest.raises(Refused, match="accepted: stand-in:VOCABULARY,DOMAIN"):
        load(text)
