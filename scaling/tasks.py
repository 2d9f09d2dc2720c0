"""Downstream tasks made from a corpus's held-out text, the same on every machine.

Contexts are short, so that models of 64 bytes see them whole. Which places of the text are asked
about, and in which order the choices stand, is decided by hashes.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data import Corpus
from data.tokenizer import tokenizer_of
from refused import Refused, listed
from scaling.downstream import Item, Task

WINDOW = 48  # Characters of a context.
LONGEST = 16  # Characters of a choice.
ITEMS = 600
CLOSERS = {")": "(", "]": "[", "}": "{"}
NAME = re.compile(r"(?<!\w)[A-Za-z_]\w{4,15}(?!\w)")
WORD = re.compile(r"(?<![A-Za-z])[a-z]{6,16}(?![A-Za-z])")


def made(name: str, corpus: Corpus, domain: str, count: int = ITEMS) -> Task:
    """Returns a task of `MADE`, of at most `count` items of a domain's held-out text.

    Raises:
      Refused: another task or domain, a corpus without text, or text that gives no item.
    """
    if name not in MADE:
        raise Refused("tasks", name, listed(MADE, name))
    if domain not in corpus.domains:
        raise Refused("tasks' domain", domain, listed(corpus.names, domain))
    items = MADE[name](documents(corpus, domain), count)
    if not items:
        raise Refused(f"tasks {name}", f"no item in {domain!r}", "a domain with such text")
    return Task(name, tuple(items))


def task_of(text: str, corpus: Corpus, domain: str) -> Task:
    """Returns a task by its name in `MADE`, of a domain, or from its file (`Task.read`)."""
    return Task.read(text) if text.endswith((".jsonl", ".json")) else made(text, corpus, domain)


def documents(corpus: Corpus, domain: str) -> list[str]:
    """Returns the documents of a domain's held-out text."""
    tokenizer = tokenizer_of(corpus)
    stream = np.asarray(corpus.domains[domain].held_out)
    starts = np.flatnonzero(stream == tokenizer.separator)
    pieces = np.split(stream, starts)[1:]
    return [tokenizer.decode(piece[1:].tolist()).decode("utf-8") for piece in pieces]


def rank(*what) -> str:
    """Returns a text by which things are put into an order that means nothing."""
    return hashlib.sha256(repr(what).encode()).hexdigest()


def places(texts: Sequence[str], kind: str, pattern: re.Pattern) -> list[tuple[int, re.Match]]:
    """Returns the matches behind a whole window, with their documents, in an order by hash."""
    found = [
        (number, match)
        for number, text in enumerate(texts)
        for match in pattern.finditer(text, WINDOW)
    ]
    return sorted(found, key=lambda place: rank(kind, place[0], place[1].start()))


def shuffled(context: str, right: str, wrong: Sequence[str]) -> Item:
    """Returns a question whose choices stand in an order by hash."""
    choices = sorted((right, *wrong), key=lambda choice: rank(context, choice))
    return Item(context, tuple(choices), choices.index(right))


def closing(texts: Sequence[str], count: int) -> list[Item]:
    """Which of three brackets closes the last one opened; each is right equally often."""
    kept: dict[str, list[Item]] = {closer: [] for closer in CLOSERS}
    for number, match in places(texts, "closing", re.compile(r"[)\]}]")):
        at, closer = match.start(), match.group()
        context = texts[number][at - WINDOW : at]
        if last_open(context) == CLOSERS[closer]:
            kept[closer].append(Item(context, tuple(CLOSERS), [*CLOSERS].index(closer)))
    each = min(count // len(CLOSERS), *map(len, kept.values()))
    return [items[index] for index in range(each) for items in kept.values()]


def last_open(context: str) -> str | None:
    """Returns the last bracket that a text opens and does not close."""
    closed = 0
    for character in reversed(context):
        if character in CLOSERS:
            closed += 1
        elif character in CLOSERS.values():
            if not closed:
                return character
            closed -= 1
    return None


def identifier(texts: Sequence[str], count: int) -> list[Item]:
    """Which of four names of a document comes next: one that stands in the context already."""
    found, names = [], [sorted(set(NAME.findall(text))) for text in texts]
    for number, match in places(texts, "identifier", NAME):
        at, name = match.start(), match.group()
        context = texts[number][at - WINDOW : at]
        others = [other for other in names[number] if other not in context and other != name]
        if name not in NAME.findall(context) or len(others) < 3:
            continue
        near = sorted(others, key=lambda other: (abs(len(other) - len(name)), rank(at, other)))
        found.append(shuffled(context, name, near[:3]))
        if len(found) == count:
            break
    return found


def continuation(texts: Sequence[str], count: int) -> list[Item]:
    """Which of four pieces of text goes on after a word; three are of other places."""
    spots = places(texts, "continuation", re.compile(r"(?<=\w)(?= )"))
    pieces = []
    for number, match in spots:
        piece = texts[number][match.start() : match.start() + LONGEST]
        if len(piece) == LONGEST and "\n" not in piece:
            pieces.append((texts[number][match.start() - WINDOW : match.start()], piece))
    found = []
    for index, (context, right) in enumerate(pieces[:count]):
        wrong = [piece for _, piece in pieces[index + 1 :] + pieces[:index] if piece != right]
        if len(set(wrong[:3])) == 3:
            found.append(shuffled(context, right, wrong[:3]))
    return found


def word(texts: Sequence[str], count: int) -> list[Item]:
    """How a word ends that has begun with four letters (cloze)."""

    def items() -> Iterator[Item]:
        for number, match in places(texts, "word", WORD):
            at = match.start() + 4
            yield Item(texts[number][at - WINDOW : at], (match.group()[4:],), 0)

    return [*itertools.islice(items(), count)]


MADE: dict[str, Callable[[Sequence[str], int], list[Item]]] = {
    "closing": closing,
    "identifier": identifier,
    "continuation": continuation,
    "word": word,
}
