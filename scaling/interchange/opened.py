"""Any model that can be read, by its path."""

from pathlib import Path

from refused import Refused
from scaling.interchange import folder, native
from scaling.interchange.kept import Kept


def read(path) -> Kept:
    """Reads a model: a file of `espalier export`, or a folder that transformers opens.

    Raises:
      Refused: neither, or one that cannot be used.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return folder.read(path)
    if not path.exists():
        raise Refused("model", path, "a file of `espalier export`, or a folder with config.json")
    return native.read(path)
