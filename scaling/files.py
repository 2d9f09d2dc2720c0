"""Files of a store: on disk before they have their name, and nothing left of those that failed."""

import contextlib
import os
import re
import shutil
from pathlib import Path

from etils import epath


def is_local(path: epath.Path) -> bool:
    """Says whether a path is a file system's, where files can be appended to."""
    return "://" not in os.fspath(path)


def write_atomically(file: epath.Path, content: str | bytes) -> None:
    """Writes a whole file or nothing: to one beside it of this process's own, synced, then renamed.

    Object stores show an object only once it is whole.
    """
    data = content.encode() if isinstance(content, str) else content
    if not is_local(file):
        file.write_bytes(data)
        return
    beside = file.parent / f".{file.name}.{os.getpid()}"
    try:
        with open(beside, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    sync(file.parent)


def sync(path: epath.Path) -> None:
    """Has the system put a file or a folder's names on disk, where it can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # Some file systems sync no folders.
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: epath.Path) -> None:
    """Has the system put all of a folder on disk."""
    for where, _, names in os.walk(folder):
        for path in (*(os.path.join(where, name) for name in names), where):
            sync(path)


def sweep(folder: epath.Path) -> None:
    """Deletes what `write_atomically` left in a folder when it was killed."""
    if not is_local(folder) or not folder.exists():
        return
    for file in folder.iterdir():
        if re.fullmatch(r"\..+\.\d+", file.name):
            remove(file)


def remove(path: epath.Path) -> None:
    """Deletes a folder or a file, if it is there; another worker may be doing the same."""
    for _ in range(3):
        try:
            if path.is_dir():
                path.rmtree()
            elif path.exists():
                path.unlink()
            return
        except OSError:
            continue


def free_bytes(path: epath.Path) -> int | None:
    """Returns how much room there is where a path is or would be made; None where none is told."""
    if not is_local(path):
        return None
    there = next(p for p in (Path(path), *Path(path).parents) if p.exists())
    return shutil.disk_usage(there).free
