"""Corpora in an object store: the same batches, and only what they hold is fetched."""

import importlib.util
import pickle

import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from data import HeldOut, Mixture, Order, Piece, Reader, load
from data.build import build
from data.remote import Stream
from data.tokenizer import tokenizer_of
from refused import Refused

URL = "gs://bucket/corpora/small"
CLIENTS = importlib.import_module("fsspec.registry")._registry
CONTEXT = 32
PIECE = Piece(64, CONTEXT, Mixture.of({"low": 0.5, "middle": 0.3, "high": 0.2}))


class Bucket(MemoryFileSystem):
    """A store in memory that stands in for Google's client, and keeps what it is asked for."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs, asked = {}, [""], []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.asked.append((path, start, end))
        return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def bucket(corpus, monkeypatch):
    """Puts the corpus of three domains into the store; blocks are of 256 bytes."""
    monkeypatch.setattr("data.remote.BLOCK_BYTES", 256)
    for name in ("gs", "gcs"):
        monkeypatch.setitem(CLIENTS, name, Bucket)
    backend.fsspec_backend._get_filesystem.cache_clear()
    Bucket.store.clear()
    for file in next(iter(corpus.domains.values())).folder.iterdir():
        Bucket().pipe_file(f"{URL}/{file.name}", file.read_bytes())
    yield Bucket()
    backend.fsspec_backend._get_filesystem.cache_clear()


def ranges() -> set[tuple[str, int]]:
    """Returns the blocks that were asked for, and forgets them."""
    found = {(path.rpartition("/")[2], start) for path, start, _ in Bucket.asked}
    Bucket.asked.clear()
    return found


def test_batches_and_evaluation_windows_are_those_of_the_corpus_on_disk(corpus, bucket):
    there = load(URL)
    assert there.content_hash == corpus.content_hash and there.names == corpus.names
    assert tokenizer_of(there) == tokenizer_of(corpus)
    order, local = (Order(c, (PIECE,), 2) for c in (there, corpus))
    np.testing.assert_array_equal(
        Reader(there, order, 0, 8).read(9), Reader(corpus, local, 0, 8).read(9)
    )
    for name in there.names:
        windows = [HeldOut(c, 64, 640).windows(name) for c in (there, corpus)]
        np.testing.assert_array_equal(*windows)
        np.testing.assert_array_equal(there.domains[name].held_out, corpus.domains[name].held_out)
    again = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal(again.domains["low"].train[:9], corpus.domains["low"].train[:9])


def test_each_host_fetches_what_holds_its_rows_once(corpus, bucket, monkeypatch):
    monkeypatch.setattr("data.reader.BLOCK_TOKENS", 1)  # Batches are read one by one.
    Bucket.asked.clear()
    parts = []
    for host in range(4):
        there = load(URL)
        order = Order(there, (PIECE,), 2)
        ranges()
        reader = Reader(there, order, 0, 8, process_index=host, process_count=4)
        rows = reader.read(3)
        asked = ranges()
        domain, window = order.locate(0, np.arange(24).reshape(3, 8)[:, 2 * host : 2 * host + 2])
        wanted = {
            (f"{there.names[d]}.train.bin", byte // 256 * 256)
            for d, w in zip(domain.ravel(), window.ravel(), strict=True)
            for byte in (int(w) * CONTEXT, int(w) * CONTEXT + CONTEXT)
        }
        assert asked == wanted and 6 <= len(asked) <= 12
        Reader(there, order, 0, 8, process_index=host, process_count=4).read(3)
        assert ranges() == set()
        parts.append(rows)
    whole = Reader(corpus, Order(corpus, (PIECE,), 2), 0, 8).read(3)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize(
    "index",
    [
        5,
        -1,
        slice(None),
        slice(3, 3),
        slice(900, 130, -7),
        slice(-300, None),
        slice(990, 5000),
        np.array([[0, 999], [-1, 500]]),
        np.array([], int),
    ],
)
def test_a_stream_is_indexed_as_an_array_is(index, dtype, bucket):
    tokens = np.random.default_rng(0).integers(1, 256, 1000).astype(dtype)
    Bucket().pipe_file("gs://bucket/x.bin", tokens.tobytes())
    stream = Stream("gs://bucket/x.bin", np.dtype(dtype).str, 1000)
    assert (len(stream), stream.shape, stream.dtype) == (1000, (1000,), dtype)
    np.testing.assert_array_equal(stream[index], tokens[index])
    for place in (1000, np.array([3, -1001])):
        with pytest.raises(IndexError):
            stream[place]


def test_what_is_not_there_or_not_whole_is_refused_in_one_line(bucket, monkeypatch, tmp_path):
    def refused(call) -> str:
        with pytest.raises(Refused) as error:
            call()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "corpus: got gs://bucket/none" in refused(lambda: load("gs://bucket/none"))
    assert "KeyError: 'ftp://'" in refused(lambda: load("ftp://host/none"))
    stream = load(URL).domains["low"]
    file = f"{URL}/low.train.bin"
    whole = bucket.cat_file(file)
    bucket.pipe_file(file, whole[:-9])
    line = f"corpus file {file}: got {len(whole) - 9} bytes; accepted: {len(whole)} bytes"
    assert line in refused(lambda: load(URL))
    last = len(whole) - 1
    assert "accepted: " in refused(lambda: stream.train[last])
    bucket.rm(file)
    assert f"{file}: got no such file" in refused(lambda: load(URL))
    assert f"got {file}; accepted: a place that can be" in refused(lambda: stream.train[0])
    for name in ("gs", "gcs"):
        monkeypatch.delitem(CLIENTS, name)
    backend.fsspec_backend._get_filesystem.cache_clear()
    if not importlib.util.find_spec("gcsfs"):
        assert "pip install 'espalier[gcs]'" in refused(lambda: load(URL))
    build_there = lambda: build("gs://bucket/mine", name="mine", domains={"a": [tmp_path]})
    assert "out: got gs://bucket/mine; accepted: a folder on disk" in refused(build_there)
