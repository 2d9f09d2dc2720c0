"""Downstream tasks: what is read, which tokens are the answer's, and what the scores are."""

import json
import math

import jax
import numpy as np
import pytest

from data.tokenizer import BPE, Bytes
from models import Experts, held_out_nll, skeleton
from refused import Refused
from scaling.downstream import (
    Answers,
    Item,
    Task,
    answers,
    encoded,
    lengths,
    record,
    summary,
)
from tests.corpora import model

CHOICES = Task(
    "choices",
    (
        Item("one two", (" a", " three", " ß日"), 1),
        Item("", ("b", "longer than that"), 0),
        Item("A: ", ("x", "y"), 1),
    ),
)
CLOZE = Task("cloze", (Item("the end", (" of it",), 0), Item("ab" * 40, ("ab",), 0)))


def write(file, *lines) -> str:
    file.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return str(file)


def test_a_file_of_json_lines_is_a_task(tmp_path):
    lines = [
        {"context": one.context, "choices": one.choices, "answer": one.answer}
        for one in CHOICES.items
    ]
    assert Task.read(write(tmp_path / "choices.jsonl", *lines, "")) == CHOICES
    assert not CHOICES.cloze and CHOICES.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    lines = [{"context": one.context, "answer": one.choices[0]} for one in CLOZE.items]
    assert Task.read(write(tmp_path / "cloze.jsonl", *lines)) == CLOZE
    assert CLOZE.cloze and CLOZE.chance == 0.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "t.jsonl:2: got no JSON; accepted: context, choices and the answer's number"),
        ([1], "got no context"),
        ({"answer": "x"}, "got no context"),
        ({"context": "a\0", "answer": "x"}, "got no context of text without byte 0"),
        ({"context": "a", "choices": ["x"], "answer": 0}, r"got choices \['x'\]"),
        ({"context": "a", "choices": ["x", ""], "answer": 0}, "a choice that is no text, or empty"),
        ({"context": "a", "choices": ["x", 3], "answer": 0}, "a choice that is no text, or empty"),
        ({"context": "a", "choices": ["x", "y"], "answer": 2}, "got answer 2 of 2 choices"),
        ({"context": "a", "choices": ["x", "y"], "answer": "x"}, "got answer 'x' of 2 choices"),
        ({"context": "a"}, "a choice that is no text, or empty"),
        ({"context": "a", "choices": ["x", "y"], "answer": 1}, "with items of both kinds"),
    ],
)
def test_what_is_no_item_is_refused_with_its_line(line, message, tmp_path):
    file = write(tmp_path / "t.jsonl", {"context": "a", "answer": "b"}, line)
    with pytest.raises(Refused, match=message):
        Task.read(file)
    with pytest.raises(Refused, match="without items"):
        Task.read(write(tmp_path / "t.jsonl", ""))
    with pytest.raises(Refused, match="accepted: a file of JSON lines"):
        Task.read(tmp_path / "none")


def test_the_identity_is_of_items_context_and_beginning():
    short, long = model(context=32), model(context=64)
    known = {CHOICES.identity(short), CLOZE.identity(short), CHOICES.identity(long)}
    assert len(known | {CHOICES.identity(short, opened=True)}) == 4
    assert Task("renamed", CHOICES.items).identity(short) in known


def test_spaces_that_end_a_context_are_the_choices():
    text = lambda row: bytes(row.tokens.tolist())
    row = encoded(Bytes(), "A: ", "x", 32, False)
    assert text(row) == b"A: x" and row.count == 2 and not row.cut
    assert text(encoded(Bytes(), "A:", " x", 32, True)) == b"\0A: x"
    row = encoded(Bytes(), "", "日", 32, False)
    assert text(row) == b"\0" + "日".encode() and row.count == 3
    row = encoded(Bytes(), "a" * 40, "bc", 8, True)
    assert text(row) == b"a" * 7 + b"bc" and row.count == 2 and row.cut
    with pytest.raises(Refused, match="of 9 tokens; accepted: at most model.context=8"):
        encoded(Bytes(), "a", "b" * 9, 8, False)


def test_tokens_of_a_choice_are_those_after_the_contexts():
    bpe = BPE.train([b"ab cd ab cd abcd abcd "], 260)
    row = encoded(bpe, "x ab", "cd", 32, False)
    (whole,) = bpe.documents([b"x abcd"])
    (before,) = bpe.documents([b"x ab"])
    assert row.tokens.tolist() == whole.tokens.tolist()
    assert row.count == len(whole.tokens) - len(before.tokens)


def test_log_likelihoods_are_the_losses_of_the_choices_tokens():
    experts = Experts(8, 2, 0, granularity=4.0, capacity_factor=0.5)  # Which drop in training.
    config = model(separator=0, depth=1, feed_forward=experts)
    params, buffers = skeleton(config).initialise(0)
    nats = jax.jit(lambda tokens: held_out_nll(config, params, buffers, tokens))
    found = answers(config, params, buffers, Bytes(), CHOICES)
    for item, totals in zip(CHOICES.items, found.log_likelihoods, strict=True):
        for choice, total in zip(item.choices, totals, strict=True):
            row = encoded(Bytes(), item.context, choice, config.context, False)
            window = np.zeros((1, config.context + 1), np.int32)
            window[0, : len(row.tokens)] = row.tokens
            end = len(row.tokens) - 1
            expected = -np.asarray(nats(window))[0, end - row.count : end].sum()
            assert total == pytest.approx(expected, rel=1e-5)
    cloze = answers(config, params, buffers, Bytes(), CLOZE)
    assert cloze.cut == 1 and found.cut == 0


def test_answers_of_a_model_that_training_limits_have_a_name_of_their_own():
    limited, free = (
        model(feed_forward=Experts(8, 2, 0, capacity_factor=factor)) for factor in (0.5, None)
    )
    assert CLOZE.identity(limited) != CLOZE.identity(free) == CLOZE.identity(model())
    assert lengths(model(context=100)) == [16, 32, 64, 100]


def test_scores_are_those_of_lm_eval():
    # Of the first item, the first choice is the likeliest, per character (2, 6, 3) the second,
    # which is right, per byte (2, 6, 6) the third. The second item's long choice wins per either.
    likely = [np.array([-2.0, -4.5, -2.4]), np.array([-1.0, -2.0]), np.array([-3.0, -2.0])]
    greedy = [np.zeros(3, bool), np.zeros(2, bool), np.zeros(2, bool)]
    found = summary(CHOICES, Answers(likely, greedy, 1))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy_norm"] == pytest.approx(2 / 3)
    assert found["accuracy_bytes"] == pytest.approx(1 / 3)
    assert found["answer_nats"] == pytest.approx((4.5 + 1 + 2) / 3)
    assert found["answer_bits_per_byte"] == pytest.approx(7.5 / math.log(2) / (6 + 1 + 1))
    assert found["items"] == 3 and found["cut"] == 1
    hits = Answers([np.array([-1.0]), np.array([-2.0])], [np.array([True]), np.array([False])], 0)
    assert summary(CLOZE, hits)["accuracy"] == summary(CLOZE, hits)["accuracy_bytes"] == 0.5
    line = record(CLOZE, model(), False, summary(CLOZE, hits))
    assert line["evaluation"] == CLOZE.identity(model()) and line["accuracy"] == {"cloze": 0.5}
