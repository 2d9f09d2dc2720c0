"""Compiled text is read: shapes, memory spaces, operands, and how often loops run."""

import jax
import jax.numpy as jnp
import pytest

from refused import Refused
from scaling.chips.hlo import Array, arrays, count, read

# In the manner of TPU text: no trip counts, on-chip memory as S(1), bounds carried by the loop.
TPU = """HloModule jit_f, is_scheduled=true

%inner (p: s32[]) -> s32[] {
  %p = s32[]{:T(128)} parameter(0)
  %two = s32[]{:T(128)} constant(2)
  ROOT %sum = s32[]{:T(128)} add(%p, %two), metadata={op_name="jit(f)/while/body/add"}
}

%body (c: (s32[], f32[4,8], s32[])) -> (s32[], f32[4,8], s32[]) {
  %c = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %x = f32[4,8]{1,0:T(8,128)S(1)} get-tuple-element(%c), index=1
  %n = s32[]{:T(128)} get-tuple-element(%c), index=2
  %next = s32[]{:T(128)} fusion(%i), kind=kLoop, calls=%inner
  ROOT %out = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) tuple(%next, %x, %n)
}

%cond (c: (s32[], f32[4,8], s32[])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %n = s32[]{:T(128)} get-tuple-element(%c), index=2
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[4,8], steps: s32[]) -> f32[4,8] {
  %a = f32[4,8]{1,0:T(8,128)} parameter(0)
  %steps = s32[]{:T(128)} parameter(1)
  %one = s32[]{:T(128)} constant(1)
  %bound = s32[]{:T(128)} constant(12)
  %start = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) tuple(%one, %a, %bound)
  %loop = (s32[]{:T(128)}, f32[4,8]{1,0}, s32[]) while(%start), condition=%cond, body=%body
  ROOT %end = f32[4,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_types_are_read_with_their_memory_space():
    found = arrays("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[]{:T(128)}, pred[5]{0})")
    assert found == (Array("bf16", (2, 3), 1), Array("f32", ()), Array("pred", (5,)))
    assert [x.bytes for x in found] == [12, 4, 5] and [x.moved for x in found] == [0, 4, 5]


def loop_of(text: str):
    module = read(text)
    return module, module.entry.instructions["loop"]


def test_a_loops_condition_gives_its_trip_count_where_the_text_has_none():
    module, loop = loop_of(TPU)
    assert module.trips(module.entry, loop) == 6  # 1, 3, …, 11.
    assert module.computations["body"].root.operands == ("next", "x", "n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tuple(%one, %a, %bound)", "tuple(%one, %a, %steps)"),  # A bound that is data.
        ("tuple(%next, %x, %n)", "tuple(%next, %x, %i)"),  # A bound that moves.
        ("add(%p, %two)", "multiply(%p, %two)"),  # No constant step.
    ],
)
def test_a_trip_count_that_the_text_does_not_give_is_none(old, new):
    module, loop = loop_of(TPU.replace(old, new))
    assert module.trips(module.entry, loop) is None


@pytest.mark.parametrize(
    ("direction", "left", "right", "trips"),
    [
        ("LT", (0, 1), (5, 0), 5),
        ("LE", (0, 2), (5, 0), 3),
        ("GT", (5, -1), (0, 0), 5),
        ("GE", (5, 0), (0, 1), 6),
        ("NE", (0, 1), (5, 0), 5),
        ("NE", (0, 2), (5, 0), None),
        ("LT", (0, 0), (5, 0), None),
        ("LT", (7, 1), (5, 0), 0),
    ],
)
def test_trip_counts_follow_from_first_value_and_step(direction, left, right, trips):
    assert count(direction, left, right) == trips


def test_lowered_text_and_compiled_text_agree_on_a_loops_trip_count():
    def f(x):
        return jax.lax.fori_loop(0, 7, lambda i, x: jnp.sin(x @ x), x)

    lowered = jax.jit(f).lower(jax.ShapeDtypeStruct((4, 4), jnp.float32))
    for text in (lowered.as_text(dialect="hlo"), lowered.compile().as_text()):
        module = read(text)
        loops = [(c, i) for c in module.computations.values() for i in c if i.opcode == "while"]
        assert [module.trips(*loop) for loop in loops] == [7]


def test_what_is_no_program_is_refused():
    with pytest.raises(Refused, match="program: got nonsense; accepted: the text of a compiled"):
        read("nonsense")
