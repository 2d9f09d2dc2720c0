"""Combinators."""

import pytest

from data import Refused
from scaling import chain, product, wsd, zipped


def test_product_varies_the_last_axis_fastest():
    assert list(product(a=[1, 2], b="xy")) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert list(product()) == [{}]


def test_zipped_walks_axes_together():
    assert list(zipped(a=[1, 2], b=[3, 4])) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(Refused, match="axes of equal length"):
        list(zipped(a=[1], b=[1, 2]))


def test_chain_keeps_each_point_once():
    assert list(chain(product(a=[1, 2]), product(a=[2, 3]))) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_lengths_of_one_trunk_share_its_plateau():
    short, long = wsd(10_000, 100, 500), wsd(20_000, 100, 500)
    assert short[0].rate == long[0].rate and short[0].prefix_closed
    assert [p.tokens for p in short + long] == [8000, 2000, 16_000, 4000]
