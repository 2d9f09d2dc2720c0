"""What is said, in one line, of a disk or a store that fails."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from etils import epath

from refused import Refused
from scaling.files import is_local

FAILED = os.EX_IOERR  # "An error occurred while doing I/O on some file", sysexits.h.


class Failed(Exception):
    """Something outside failed; the line says what, and what was saved."""


@contextmanager
def of_disk(store: str) -> Iterator[None]:
    """Turns errors of the disk inside into one line; of several processes each has its own.

    Raises:
      Failed: with that line.
    """
    try:
        yield
    except OSError as error:
        if jax.process_count() > 1 or error.errno is None:
            raise
        where = error.filename or store
        saved = f"what was finished or checkpointed before is in --store={store}"
        line = f"{where}: {error.strerror or error}; {saved}, and the same command goes on"
        raise Failed(line) from error


def reachable(store: str) -> None:
    """Refuses a file, and a bucket that cannot be looked at, as where its reader is missing."""
    if is_local(store):
        if (path := Path(store)).exists() and not path.is_dir():
            raise Refused("--store", store, "a folder, which need not be there yet; this is a file")
        return
    try:
        epath.Path(store).exists()
    except ImportError as error:
        accepted = f"pip install 'espalier[gcs]' for a bucket ({error})"
        raise Refused("--store", store, accepted) from None
    except Exception as error:  # noqa: BLE001 — whatever its client raises.
        said = " ".join(str(error).split())[:200]
        raise Refused("--store", store, f"a bucket that can be reached ({said})") from None


def say(line: str) -> None:
    """Writes a line to stderr."""
    print(line, file=sys.stderr)
