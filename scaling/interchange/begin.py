"""Runs that go on from a model that is there, whoever trained it."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from data import Corpus
from data.tokenizer import BPE, tokenizer_of
from models import ModelConfig, skeleton
from models.quantize import SUFFIX
from refused import Refused
from scaling.first import by_host, on_devices
from scaling.interchange.kept import Kept
from scaling.interchange.opened import read
from scaling.interchange.tokens import meaning
from scaling.runs import Run
from scaling.start import Start
from scaling.state import State, initial, started


def begin(path: str | os.PathLike, corpus: Corpus | None = None) -> tuple[ModelConfig, Start]:
    """Returns the configuration of a model and what a `Run` of it starts from.

    `path` is what `read` takes. Fields that shape no array may be replaced in the configuration,
    such as `context`, `dtype` and `separator`; phases may change it further.

    Raises:
      Refused: what `read` refuses, or a corpus whose tokens are not those of the model.
    """
    place = str(Path(path).expanduser().absolute())
    kept = read(place)
    if corpus is not None:
        check_tokens(kept, corpus)
    return kept.config, Start(kept.content, place)


def check_tokens(kept: Kept, corpus: Corpus) -> None:
    """Refuses a corpus that another tokenizer made."""
    if kept.tokenizer is None:
        got = f"{corpus.tokenizer}, {corpus.vocabulary} tokens"
        if corpus.vocabulary > kept.config.vocabulary:
            raise Refused("corpus", got, f"at most {kept.config.vocabulary} tokens, the model's")
        return
    theirs, ours = kept.text(), tokenizer_of(corpus)
    if type(theirs) is not type(ours) or (
        isinstance(ours, BPE) and meaning(theirs.json) != meaning(ours.json)
    ):
        accepted = "one of the tokenizer that `espalier import --tokenizer=FILE` writes"
        raise Refused("corpus", f"{corpus.name!r} of another {corpus.tokenizer}", accepted)


def values(start: Start) -> Kept:
    """Reads what a run starts from; `Refused` where it is gone or another by now."""
    if not start.place:
        accepted = "a run of a study, whose file says where the model is"
        raise Refused("run.start", f"{start.content[:12]}… by its hash alone", accepted)
    kept = read(start.place)
    if kept.content != start.content:
        got = f"{start.place} with the content {kept.content[:12]}…"
        raise Refused("run.start", got, f"the model with the content {start.content[:12]}…")
    return kept


def first_state(run: Run, mesh: Mesh | None = None) -> State:
    """Returns the state before a run's first step, as numpy arrays or, on a mesh, on its devices.

    For the one device of a CPU it is numpy's arrays as well.

    Raises:
      Refused: a start that cannot be read, or whose arrays are not those of the run's model.
    """
    here = mesh is None or by_host(mesh)
    if run.start is None and here:
        return initial(run.recipe, run.seed)
    if run.start is None:
        bones = skeleton(run.recipe.model)
        buffers = bones.initialise(run.seed, bones.buffers)[1]
        return on_devices(run.recipe, mesh, bones.drawn(run.seed), buffers.items())
    kept, bones = values(run.start), skeleton(run.model)
    found = []
    for kind, leaves, there in (
        ("parameter", bones.params, kept.params),
        ("buffer", bones.buffers, kept.buffers),
    ):
        for path, leaf in leaves.items():
            got = there[path].shape if path in there else "none"
            if got != leaf.shape:
                accepted = f"{leaf.shape}, as run.model has it; see scaling.interchange.begin"
                raise Refused(f"run.start {kind} {path}", f"shape {got}", accepted)
        extra = [path for path in there if path not in leaves and not path.endswith(SUFFIX)]
        if extra:
            raise Refused(f"run.start {kind}", extra[0], "those of run.model alone")
        found.append(in_float32(there, leaves))
    return started(run.recipe, *map(dict, found)) if here else on_devices(run.recipe, mesh, *found)


def in_float32(there: Mapping, leaves: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields some of the arrays that are there, one after the other."""
    for path in leaves:
        yield path, np.array(there[path], np.float32)
