"""Downstream tasks by log-likelihood: multiple choice and cloze, read from JSONL.

A line of a task's file is an object with `context`, `choices` (two or more texts) and `answer`, the
number of the right one from 0 on; or, for cloze, with `context` and `answer`, the text itself. A
choice goes on right where the context ends: a space between them belongs to one of the two.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.tokenizer import BPE, Bytes
from models import ModelConfig, skeleton
from models.embeddings import logits
from refused import Refused

ROWS = 16  # Sequences of one forward pass.
SHORTEST = 16  # Tokens: lengths are rounded up to powers of two from here on, one program each.


def lifted(config: ModelConfig) -> str:
    """Returns what an evaluation's name says of a model that only training limits.

    Evaluations from before the limit was lifted have the name without it, and are made again.
    """
    return "" if config.evaluated == config else " without training's limits"


class Item(NamedTuple):
    """One question: its context, the choices, and which of them is right (cloze has one)."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Task:
    """Named questions of one kind: all multiple choice, or all cloze."""

    name: str
    items: tuple[Item, ...]

    @classmethod
    def read(cls, file: Path | str) -> "Task":
        """Reads a task's file; its name is the file's.

        Raises:
          Refused: no such file, a line that is no item, or items of both kinds.
        """
        file = Path(file)
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("tasks", file, f"a file of JSON lines ({error})") from None
        found = [item(f"{file}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]
        if not found:
            raise Refused("tasks", f"{file} without items", "one item or more")
        if len({len(one.choices) == 1 for one in found}) == 2:
            accepted = "multiple choice alone, or cloze alone"
            raise Refused("tasks", f"{file} with items of both kinds", accepted)
        return cls(file.stem, tuple(found))

    @property
    def cloze(self) -> bool:
        """Says whether an item has an answer and no other choices."""
        return len(self.items[0].choices) == 1

    @property
    def chance(self) -> float:
        """The accuracy of a guess among the choices; 0 for cloze, where any text may follow."""
        return 0.0 if self.cloze else float(np.mean([1 / len(i.choices) for i in self.items]))

    @cached_property
    def content(self) -> str:
        """A hash of the items, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.items).encode()).hexdigest()

    def identity(self, config: ModelConfig, opened: bool = False) -> str:
        """Names an evaluation: the items, the context length, and `opened` (see `encoded`)."""
        said = f"downstream {self.content} {config.context} {opened}{lifted(config)}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def item(place: str, line: str) -> Item:
    """Returns the item of a line; `Refused`, with its place, where it is none."""
    accepted = "context, choices and the answer's number; or context and the answer's text"
    wrong = lambda got: Refused(f"tasks {place}", got, accepted)
    try:
        said = json.loads(line)
    except ValueError:
        raise wrong("no JSON") from None
    text = lambda x: isinstance(x, str) and "\0" not in x
    if not isinstance(said, dict) or not text(said.get("context")):
        raise wrong("no context of text without byte 0")
    choices, answer = said.get("choices"), said.get("answer")
    if choices is None:
        choices, answer = [answer], 0
    elif not isinstance(choices, list) or len(choices) < 2:
        raise wrong(f"choices {choices!r}")
    if not all(text(choice) and choice for choice in choices):
        raise wrong("a choice that is no text, or empty")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise wrong(f"answer {answer!r} of {len(choices)} choices")
    return Item(said["context"], tuple(choices), answer)


class Row(NamedTuple):
    """The tokens of a context with one choice, of which the last `count` are the choice's."""

    tokens: np.ndarray
    count: int
    cut: bool


def encoded(tokenizer: Bytes | BPE, context: str, choice: str, longest: int, opened: bool) -> Row:
    """Returns the tokens of a context and a choice, at most `longest` + 1, cut at their beginning.

    As lm-evaluation-harness does it (`TemplateLM._encode_pair` of version 0.4): spaces that end the
    context are the choice's, both are encoded as one text, and the choice's tokens are those after
    as many as the context alone has. An empty context is a separator; with `opened`, as documents
    in training, every context begins with one.
    """
    bare = context.rstrip()
    choice, context = context[len(bare) :] + choice, bare
    texts = [(context + choice).encode(), context.encode()]
    whole, before = (document.tokens for document in tokenizer.documents(texts))
    count = len(whole) - len(before)
    if opened or not len(before):
        whole = np.concatenate([[tokenizer.separator], whole])
    if count < 1:
        raise Refused("tasks", f"{choice!r} after {context[-20:]!r}", "a choice of a token or more")
    if count > longest:
        got = f"{choice[:40]!r} of {count} tokens"
        raise Refused("tasks", got, f"at most model.context={longest}")
    return Row(whole[-(longest + 1) :].astype(np.int32), count, len(whole) > longest + 1)


@functools.partial(jax.jit, static_argnums=0)
def scores(config: ModelConfig, params: dict, buffers: dict, windows: jax.Array):
    """Returns each target's nats [B, L], and whether it was the likeliest token."""
    model = skeleton(config.evaluated).merge(params, buffers)
    hidden, _ = model.hidden(windows[:, :-1])
    found = logits(hidden, model.head_kernel())
    chosen = jnp.take_along_axis(found, windows[:, 1:, None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(found, axis=-1) - chosen
    return nats, jnp.argmax(found, axis=-1) == windows[:, 1:]


def lengths(config: ModelConfig) -> list[int]:
    """Returns the lengths that sequences are filled up to: what follows changes no token before."""
    powers = (SHORTEST << n for n in range(32))
    return [*(p for p in powers if p < config.context), config.context]


def log_likelihoods(
    config: ModelConfig, params: dict, buffers: dict, rows: Sequence[Row]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's log-likelihood of its choice in nats, and whether it is the greedy one."""
    totals, greedy = np.zeros(len(rows)), np.zeros(len(rows), bool)
    for length, some in batches(rows, lengths(config)):
        windows = np.zeros((ROWS, length + 1), np.int32)
        for place, index in enumerate(some):
            windows[place, : len(rows[index].tokens)] = rows[index].tokens
        nats, likeliest = map(np.asarray, scores(config, params, buffers, windows))
        for place, index in enumerate(some):
            end = len(rows[index].tokens) - 1
            own = slice(end - rows[index].count, end)
            totals[index] = -nats[place, own].sum(dtype=np.float64)
            greedy[index] = likeliest[place, own].all()
    return totals, greedy


def batches(rows: Sequence[Row], allowed: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Yields a length and the numbers of at most `ROWS` rows that it holds."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        fits = next(length for length in allowed if length >= len(row.tokens) - 1)
        groups.setdefault(fits, []).append(index)
    for length, some in sorted(groups.items()):
        for at in range(0, len(some), ROWS):
            yield length, some[at : at + ROWS]


class Answers(NamedTuple):
    """What a model makes of a task: per item and choice the log-likelihood, and greedy hits."""

    log_likelihoods: list[np.ndarray]
    greedy: list[np.ndarray]
    cut: int


def answers(
    config: ModelConfig,
    params: dict,
    buffers: dict,
    tokenizer: Bytes | BPE,
    task: Task,
    opened: bool = False,
) -> Answers:
    """Asks a model every question of a task."""
    rows = [
        encoded(tokenizer, one.context, choice, config.context, opened)
        for one in task.items
        for choice in one.choices
    ]
    totals, greedy = log_likelihoods(config, params, buffers, rows)
    ends = np.cumsum([len(one.choices) for one in task.items])[:-1]
    cut = sum(row.cut for row in rows)
    return Answers(np.split(totals, ends), np.split(greedy, ends), cut)


def summary(task: Task, found: Answers) -> dict[str, float]:
    """Returns a task's scores.

    `accuracy` takes the likeliest choice, `accuracy_norm` the likeliest per character as lm_eval's
    `acc_norm` does, `accuracy_bytes` per byte of UTF-8; of cloze all are the share of answers that
    are the greedy ones. Ties go to the first choice. `answer_nats` is the mean of the right answer,
    `answer_bits_per_byte` over all bytes of right answers (Bhagia et al. 2024, arXiv:2412.04403,
    section 2.1), both of which a downstream law takes for its loss.
    """
    right, sizes = [], {"": lambda c: 1, "_norm": len, "_bytes": lambda c: len(c.encode())}
    hits = {kind: [] for kind in sizes}
    for one, totals, greedy in zip(task.items, *found[:2], strict=True):
        right.append(-totals[one.answer])
        for kind, size in sizes.items():
            best = np.argmax(totals / np.array([size(choice) for choice in one.choices]))
            hits[kind].append(greedy[0] if task.cloze else best == one.answer)
    spent = sum(len(one.choices[one.answer].encode()) for one in task.items)
    return {
        "items": len(task.items),
        "chance": task.chance,
        **{f"accuracy{kind}": float(np.mean(some)) for kind, some in hits.items()},
        "answer_nats": float(np.mean(right)),
        "answer_bits_per_byte": float(np.sum(right) / math.log(2) / spent),
        "cut": found.cut,
    }


def record(task: Task, config: ModelConfig, opened: bool, scored: dict[str, float]) -> dict:
    """Returns the line of `eval.jsonl` that keeps a task's scores, each by the task's name."""
    line = {"evaluation": task.identity(config, opened), "context": config.context}
    line["task"] = task.name
    return line | {name: {task.name: value} for name, value in scored.items()}


# What a run table has of each task, in columns METRIC.TASK.
METRICS = (
    *("accuracy", "accuracy_norm", "accuracy_bytes", "answer_nats", "answer_bits_per_byte"),
    *("chance", "items"),
)
