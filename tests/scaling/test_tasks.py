"""Tasks made of text: the answer can be told from the context, places and order are settled."""

from collections import Counter

import numpy as np
import pytest

from data import write_corpus
from data.corpus import text_document
from refused import Refused
from scaling.downstream import Task
from scaling.tasks import LONGEST, MADE, WINDOW, last_open, made, task_of

PARTS = "quan tity sur face mea sure wei ght val uer tab lets ind exes tot alis".split()


def code(seed: int) -> bytes:
    """Returns lines of code with names that come again."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(24):
        a, b, c = ("".join(rng.choice(PARTS, 3)) for _ in range(3))
        lines.append(f"{a} = {b}({c}, [{seed}, {a}], {{{b}: {c}}}) or ({a}) and {c} of {b}")
    return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def text_corpus(tmp_path_factory):
    """A corpus of variants of one text, of which a half is held out."""
    texts = [text_document(code(seed)) for seed in range(8)]
    return write_corpus(
        tmp_path_factory.mktemp("text") / "text",
        name="text",
        vocabulary=256,
        separator=0,
        tokenizer="bytes",
        domains={"code": {"train": texts[:4], "held_out": texts[4:]}},
    )


@pytest.mark.parametrize("name", MADE)
def test_a_task_is_the_same_every_time_and_of_held_out_text(name, text_corpus):
    task = made(name, text_corpus, "code", 24)
    assert task == made(name, text_corpus, "code", 24) and len(task.items) == 24
    for item in task.items:
        assert len(item.context) == WINDOW and len(set(item.choices)) == len(item.choices)
        assert all(len(choice) <= LONGEST for choice in item.choices)
        assert not any((item.context + item.choices[0]).encode() in code(n) for n in range(4))
    assert task.cloze == (name == "word")
    if not task.cloze:
        answers = Counter(item.answer for item in task.items)
        assert len(answers) == len(task.items[0].choices)  # The order gives nothing away.


def test_the_bracket_that_closes_is_that_of_the_last_one_open(text_corpus):
    for item in made("closing", text_corpus, "code", 24).items:
        assert last_open(item.context) + item.choices[item.answer] in ("()", "[]", "{}")
    counts = Counter(i.answer for i in made("closing", text_corpus, "code", 24).items)
    assert set(counts.values()) == {8}
    assert last_open("a(b[c]") == "(" and last_open("a)b(c)") is None


def test_the_name_that_comes_again_is_the_only_choice_in_the_context(text_corpus):
    for item in made("identifier", text_corpus, "code", 24).items:
        there = [choice in item.context for choice in item.choices]
        assert there.index(True) == item.answer and sum(there) == 1


def test_a_word_ends_as_the_text_does(text_corpus):
    for item in made("word", text_corpus, "code", 24).items:
        assert (item.context + item.choices[0]).encode() in text_corpus.domains[
            "code"
        ].held_out.tobytes()


def test_what_cannot_be_made_is_refused(text_corpus, corpus, tmp_path):
    with pytest.raises(Refused, match="tasks: got closng; accepted: closing, .*did you mean clos"):
        made("closng", text_corpus, "code")
    with pytest.raises(Refused, match="tasks' domain: got docs; accepted: code"):
        made("closing", text_corpus, "docs")
    with pytest.raises(Refused, match="tasks closing: got no item in 'low'"):
        made("closing", corpus, "low")
    (tmp_path / "t.jsonl").write_text('{"context": "a", "answer": "b"}\n')
    assert task_of(str(tmp_path / "t.jsonl"), corpus, "low") == Task.read(tmp_path / "t.jsonl")
