"""Exchanges between devices are read with their groups, axes and the bytes that a device sends."""

import numpy as np
import pytest

from refused import Refused
from scaling.chips.collectives import along, collective, groups_of
from scaling.chips.hlo import instruction, read
from scaling.mesh import make_mesh


def groups(text: str) -> list[list[int]]:
    line = f"  %x = f32[8]{{0}} all-reduce(%a), replica_groups={text}, to_apply=%sum"
    return groups_of(instruction(line), 8).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[4,2]<=[8]", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh['a'=4,'b'=2] {'b'}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=4,'b'=2] {'a'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
    ],
)
def test_every_notation_of_groups_is_read(text, expected):
    assert groups(text) == expected


def test_another_notation_is_refused():
    with pytest.raises(Refused, match="replica_groups: got <odd>"):
        groups("<odd>")


def test_groups_name_the_axes_along_which_their_members_differ():
    mesh = make_mesh("fsdp:4,data:2")  # Data comes first: device 4·data + fsdp.
    assert along(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), mesh) == ("fsdp",)
    assert along(np.array([[0, 4], [1, 5], [2, 6], [3, 7]]), mesh) == ("data",)
    assert along(np.arange(8)[None], mesh) == ("data", "fsdp")


TEXT = """HloModule m

%all-reduce-scatter.1 (p: f32[8,16]) -> f32[1,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %sum = f32[8,16]{1,0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add
}

ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %gather = f32[64,16]{1,0} all-gather(%a), replica_groups=[1,8]<=[8], dimensions={0}
  %sum = f32[8,16]{1,0} all-reduce(%a), replica_groups=[2,4]<=[8], to_apply=%add
  %swap = f32[8,16]{1,0} all-to-all(%a), replica_groups=[1,8]<=[8], dimensions={0}
  %shift = f32[8,16]{1,0} collective-permute(%a), source_target_pairs={{0,1},{1,0},{2,2},{3,3}}
  ROOT %alone = f32[8,16]{1,0} all-reduce(%a), replica_groups=[8,1]<=[8], to_apply=%add
}
"""


def found(name: str, inside: str = "main"):
    module, mesh = read(TEXT), make_mesh("fsdp:4,data:2")
    computation = module.computations[inside]
    return collective(computation, computation.instructions[name], mesh, times=3)


@pytest.mark.parametrize(
    ("name", "wire", "result", "axes"),
    [
        ("gather", 512 * 7, 512 * 8, ("data", "fsdp")),
        ("sum", 512 * 2 * 3 / 4, 512, ("fsdp",)),
        ("swap", 512 * 7 / 8, 512, ("data", "fsdp")),
        ("shift", 512 * 2 / 8, 512, ("fsdp",)),  # Two of eight devices send.
    ],
)
def test_a_device_sends_what_a_ring_needs(name, wire, result, axes):
    one = found(name)
    assert (one.wire, one.bytes, one.axes, one.times) == (wire, result, axes, 3)


def test_a_sum_of_which_a_slice_is_kept_is_a_sum_into_parts():
    one = found("sum", "all-reduce-scatter.1")
    assert (one.kind, one.wire, one.bytes) == ("reduce-scatter", 512 * 7 / 8, 64)


def test_a_group_of_one_device_exchanges_nothing():
    assert found("alone") is None
