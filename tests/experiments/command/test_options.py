"""Kinds of value: what they take, and what they refuse in one line."""

import click
import pytest

from experiments.command import options
from experiments.command.options import Columns, Number, OneOf, Place
from fitting.reading import Question, Unsure
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


def test_a_name_with_a_comma_is_quoted():
    read = lambda text: Columns().convert(text, FLAG, None)
    assert read('"loss, nats"=loss, n = params_total[M]') == {
        "loss, nats": "loss",
        "n": "params_total[M]",
    }
    assert read("a=b=tokens") == {"a=b": "tokens"}
    with pytest.raises(Refused, match='"a, b"=loss where a name has commas'):
        read("loss, nats=loss")


UNSURE = [
    Question("params", "embeddings counted or not?", ("params_total", "params_non_embedding")),
    Question("step", "tokens in each?", ("tokens[TOKENS_PER_STEP]",)),
]


def doubtful(columns):
    if not columns or "step" not in columns:
        raise Unsure(UNSURE, {"eval/loss": "loss"})
    return columns


def test_without_a_terminal_the_line_to_use_is_told():
    with pytest.raises(Unsure) as unsure:
        options.asked({}, doubtful)
    line = "--columns='params=params_total,step=tokens[TOKENS_PER_STEP],eval/loss=loss'"
    assert line in str(unsure.value)


def test_on_a_terminal_what_a_table_does_not_say_is_asked(monkeypatch, capsys):
    answers = {"params": "params_non_embedding", "step": 1048576.0}
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    asks = lambda text, **_: answers[text.partition(":")[0]]
    monkeypatch.setattr("click.prompt", asks)
    assert options.asked({"x": "run"}, doubtful) == {
        "x": "run",
        "eval/loss": "loss",
        "params": "params_non_embedding",
        "step": "tokens[1048576]",
    }
    line = "--columns='eval/loss=loss,x=run,params=params_non_embedding,step=tokens[1048576]'"
    assert line in capsys.readouterr().err
