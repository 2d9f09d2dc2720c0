"""The reader: resumes from any step, and divides over processes."""

import numpy as np
import pytest

from data import Mixture, Order, Piece, Reader
from data.reader import BatchSource, tokens_per_second
from refused import Refused

WEIGHTS = Mixture.of({"low": 0.5, "middle": 0.3, "high": 0.2})


@pytest.fixture
def order(corpus):
    return Order(corpus, (Piece(64, 32, WEIGHTS), Piece(640, 64, WEIGHTS)), 2)


def test_batches_are_the_windows_that_the_order_names(corpus, order):
    found = Reader(corpus, order, 1, 8).read(5)
    assert found.shape == (5, 8, 65)
    domain, window = order.locate(1, np.arange(40))
    streams = [d.train for d in corpus.domains.values()]
    for row, d, w in zip(found.reshape(40, 65), domain, window, strict=True):
        np.testing.assert_array_equal(row, streams[d][int(w) * 64 : int(w) * 64 + 65])


def test_any_step_can_be_resumed_at(corpus, order):
    whole = Reader(corpus, order, 1, 8).read(40)
    for start in (0, 1, 17, 39):
        resumed = Reader(corpus, order, 1, 8, start_step=start)
        assert resumed.step == start
        np.testing.assert_array_equal(resumed.read(40 - start), whole[start:])
    one_by_one = Reader(corpus, order, 1, 8)
    for row in whole[:5]:
        np.testing.assert_array_equal(next(one_by_one), row)
    assert one_by_one.step == 5


def test_blocks_do_not_show(corpus, order, monkeypatch):
    import data.reader

    whole = Reader(corpus, order, 1, 8).read(30)
    monkeypatch.setattr(data.reader, "BLOCK_TOKENS", 7 * 8 * 64)
    np.testing.assert_array_equal(Reader(corpus, order, 1, 8).read(30), whole)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_read_contiguous_rows_of_one_batch(corpus, order, count):
    whole = Reader(corpus, order, 1, 8).read(3)
    parts = [
        Reader(corpus, order, 1, 8, process_index=i, process_count=count).read(3)
        for i in range(count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_rows_that_do_not_divide_are_refused(corpus, order):
    with pytest.raises(Refused, match="a multiple of 3 processes"):
        Reader(corpus, order, 1, 8, process_count=3)


def test_a_source_has_no_end_before_the_order_has(corpus, order):
    source = BatchSource(corpus, order, 1, 8, slice(None))
    assert source[len(source) // 8].shape == (8, 65)
    with pytest.raises(Refused, match="fewer than 2\\^32 sequences"):
        source[len(source) - 1]


def test_speed_is_measured(corpus, order):
    assert tokens_per_second(corpus, order, 8, steps=64) > 0
