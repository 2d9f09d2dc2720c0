"""Seconds of a step by the roofline: each instruction's longer side, then what is sent."""

import pytest

from scaling.chips.collectives import Collective
from scaling.chips.compiled import Account, Work
from scaling.chips.devices import Target
from scaling.chips.hlo import Array
from scaling.chips.roofline import roofline, told

TARGET = Target.of("v5e:2x4")
PEAK, BANDWIDTH, LINK = TARGET.device.peak, TARGET.device.bandwidth, TARGET.device.link


def account() -> Account:
    gradient = (Array("f32", (25,)),)
    return Account(
        works=[
            Work("dot", "dot", "a/dot", times=3, flops=2 * PEAK, bytes=BANDWIDTH),
            Work("add", "fusion", "", times=1, flops=0.0, bytes=4 * BANDWIDTH),
        ],
        collectives=[Collective("all-reduce", gradient, 5 * LINK, ("data",), 8, 2, "b/sum")],
    )


def test_nothing_is_hidden_behind_anything_else():
    found = roofline(account(), TARGET)
    assert found.inside == pytest.approx(3 * 2 + 4)  # The dot's products, the sum's bytes.
    assert found.between == pytest.approx(2 * 5)
    assert found.seconds == pytest.approx(20)
    assert found.overlapped == pytest.approx(10)  # Of 6, 7 and 10.


def test_the_costliest_are_named_with_their_seconds():
    found = roofline(account(), TARGET)
    assert found.costliest == (
        ("all-reduce b/sum", pytest.approx(10)),
        ("dot a/dot", pytest.approx(6)),
        ("fusion add", pytest.approx(4)),
    )
    (one,) = found.exchanges
    assert (one.kind, one.axes, one.count, one.bytes) == ("all-reduce", ("data",), 2, 200)
    assert told(account(), TARGET)["seconds"] == pytest.approx(20)
