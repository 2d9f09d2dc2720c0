"""Token streams in an object store: what is read of them is fetched in blocks, and kept.

A host that reads its rows of every batch fetches what holds those rows and nothing else.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import numpy as np

from refused import Refused

BLOCK_BYTES = 1 << 14  # About a window: larger ones would fetch what no row of this host needs.
BLOCKS = 1 << 12  # Asked for at once: 64 MiB.


def is_remote(path: str | os.PathLike) -> bool:
    """Says whether a path is in an object store, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


class Stream:
    """Tokens [tokens] of one file, indexed as an array is.

    What was fetched is kept in a temporary file of this process (in $TMPDIR), which grows to at
    most the stream's own size. `Refused` where the file cannot be read, or not whole.
    """

    def __init__(self, url: str, dtype: str, tokens: int):
        from fsspec.core import url_to_fs  # Here: a corpus on disk needs none.

        self.url, self.dtype, self.shape = url, np.dtype(dtype), (tokens,)
        with told(url):
            self.files, self.path = url_to_fs(url)
        with tempfile.TemporaryFile() as file:
            file.truncate(tokens * self.dtype.itemsize)
            self.bytes = np.memmap(file, np.uint8, mode="r+")  # Keeps the file open.
        self.tokens = self.bytes.view(self.dtype)
        self.fetched = np.zeros(-(-len(self.bytes) // BLOCK_BYTES), bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        """Returns the tokens at an integer, a slice or an array of integers of any shape."""
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            begin, end = (begin, end) if step > 0 else (end + 1, begin + 1)
            ends = np.array([begin, max(begin, end - 1)])
            first, last = np.clip(ends, 0, len(self) - 1) * self.dtype.itemsize // BLOCK_BYTES
            self.fetch(np.arange(first, last + 1) if begin < end else np.array([], int))
        else:
            places = np.asarray(index)
            places = np.where(places < 0, places + len(self), places)
            wanted = places[(places >= 0) & (places < len(self))]
            self.fetch(np.unique(wanted * self.dtype.itemsize // BLOCK_BYTES))
        return self.tokens[index]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self.fetch(np.arange(len(self.fetched)))
        return np.array(self.tokens, dtype)

    def fetch(self, blocks: np.ndarray) -> None:
        """Fetches those of the numbered blocks that are not kept."""
        missing = blocks[~self.fetched[blocks]]
        for part in np.split(missing, range(BLOCKS, len(missing), BLOCKS)):
            begins = (part * BLOCK_BYTES).tolist()
            ends = [min(begin + BLOCK_BYTES, len(self.bytes)) for begin in begins]
            with told(self.url):
                paths = [self.path] * len(part)
                found = self.files.cat_ranges(paths, begins, ends, on_error="raise")
            for begin, end, body in zip(begins, ends, found, strict=True):
                if len(body) != end - begin:
                    got = f"{len(body)} bytes from byte {begin} on"
                    raise Refused(f"corpus file {self.url}", got, f"{end - begin} bytes")
                self.bytes[begin:end] = np.frombuffer(body, np.uint8)
            self.fetched[part] = True


@contextlib.contextmanager
def told(place: str | os.PathLike) -> Iterator[None]:
    """Makes whatever a store's client raises into one line."""
    try:
        yield
    except Refused:
        raise
    except ImportError as error:
        accepted = "its client installed, as by pip install 'espalier[gcs]' for gs://"
        raise Refused("corpus", f"{place} ({error})", accepted) from None
    except Exception as error:  # Each client has errors of its own.
        said = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise Refused("corpus", place, f"a place that can be read ({said})") from None
