"""A corpus that is not there: names and a vocabulary, for plans of studies that need no token."""

import re
from pathlib import Path

from data.corpus import COUNTS, SPLITS, Corpus, Domain
from refused import Refused

NAME = "stand-in"
TOKENS = 10**15  # More than any plan reads once.


def stand_in(text: str) -> Corpus:
    """Returns the corpus of a text such as `stand-in:32768,code+docs`: vocabulary and domains.

    Raises:
      Refused: another text.
    """
    found = re.fullmatch(rf"{NAME}:([1-9]\d*),(\w+(?:\+\w+)*)", text)
    if found is None:
        raise Refused("corpus", text, f"{NAME}:VOCABULARY,DOMAIN+DOMAIN, as {NAME}:32768,code")
    names = tuple(found.group(2).split("+"))
    counts = {f"{split}_{count}": TOKENS for split in SPLITS for count in COUNTS}
    return Corpus(
        name=text,
        vocabulary=int(found.group(1)),
        separator=None,
        tokenizer=NAME,
        domains={name: Domain(name, Path(text), "uint32", **counts) for name in names},
        main=names,
        content_hash=NAME,
    )
