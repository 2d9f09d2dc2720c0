"""The corpora that have names: where they are kept, and what a name stands for."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from data.corpus import Corpus, open_corpus
from data.remote import is_remote
from data.stand_in import NAME, stand_in
from refused import Refused


def cache_folder() -> Path:
    """Where built corpora are kept: $ESPALIER_CACHE, $XDG_CACHE_HOME/espalier or ~/.cache/espalier.

    The first of the three that is set.
    """
    if folder := os.environ.get("ESPALIER_CACHE"):
        return Path(folder).expanduser()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder).expanduser() / "espalier"
    return Path("~/.cache/espalier").expanduser()


def load(name: str) -> Corpus:
    """The corpus of that name, built into the cache folder if it is not there yet.

    `wheels` is the default corpus (`data.wheels`), `wheels-bpe4096` its documents in that many
    BPE tokens (257 or more; pinned at 4,096 and 65,536); `markov:order=1,symbols=32,seed=0,
    tokens=2000000` (any subset of the fields) a source of known entropy (`data.markov`);
    `stand-in:VOCABULARY,DOMAIN+DOMAIN` one without tokens, for plans (`data.stand_in`);
    anything else must be the path of a built corpus folder, on disk or one that `etils.epath`
    opens, such as gs://bucket/folder. `Refused` otherwise.
    """
    from data import markov, wheels  # Here: a built folder needs neither scipy nor a tokenizer.

    if name == "wheels":
        return wheels.load(cache_folder())
    if bpe := re.fullmatch(r"wheels-bpe(\d+)", name):
        return wheels.load_bpe(cache_folder(), int(bpe[1]))
    if name.partition(":")[0] == "markov":
        return markov.load(name, cache_folder())
    if name.partition(":")[0] == NAME:
        return stand_in(name)
    if is_remote(name) or (Path(name) / "corpus.json").exists():
        return open_corpus(name)
    accepted = "wheels, wheels-bpeVOCABULARY, markov:FIELD=VALUE,... or a corpus folder"
    raise Refused("corpus", repr(name), accepted)


def built(folder: Path) -> Iterator[tuple[Path, Corpus | Refused]]:
    """Yields the corpora in a folder by name, their content unread; why, where one is unusable."""
    for record in sorted(folder.glob("*/corpus.json")):
        try:
            yield record.parent, open_corpus(record.parent, verify=False, noted=False)
        except Refused as error:
            yield record.parent, error
