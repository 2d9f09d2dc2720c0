"""Kinds of value: what they take, and what they refuse in one line."""

import click
import pytest

from experiments.command.options import Number, OneOf, Place
from refused import Refused

FLAG = click.Option(["--x"])


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Number(), "1e3", 1000.0),
        (Number(least=0), "0", 0.0),
        (Number(least=0, most=1), "1", 1.0),
        (Number(int), "-3", -3),
        (Number(int, least=1), 1, 1),
        (OneOf("a", "b"), "b", "b"),
        (Place(), "~/x", "HOME/x"),
        (Place(), "x/~/y", "x/~/y"),
        (Place(), "gs://bucket//x", "gs://bucket//x"),
        (Place(), "published:chinchilla", "published:chinchilla"),
    ],
)
def test_a_value_is_read(kind, text, value, monkeypatch):
    monkeypatch.setenv("HOME", "HOME")
    found = kind.convert(text, FLAG, None)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "accepted"),
    [
        (Number(), "nan", "a number"),
        (Number(), "-inf", "a number"),
        (Number(), "1e999", "a number"),
        (Number(), "1,5", "a number"),
        (Number(least=0), "-1", "a number, 0 or more"),
        (Number(above=0), "0", "a number more than 0"),
        (Number(least=0, most=1), "1.1", "a number from 0 to 1"),
        (Number(int), "1.0", "a whole number"),
        (Number(int, least=1), "0", "a whole number, 1 or more"),
        (OneOf("skip", "refuse"), "skipp", "skip, refuse; did you mean skip?"),
    ],
)
def test_a_value_that_cannot_be_is_refused(kind, text, accepted):
    with pytest.raises(Refused) as refused:
        kind.convert(text, FLAG, None)
    assert str(refused.value) == f"--x: got {text}; accepted: {accepted}"
