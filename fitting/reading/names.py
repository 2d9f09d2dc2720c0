"""Which columns of a table are meant, guessed by their names and magnitudes, or asked for.

A guess is always shown. Some are never made: whether embeddings are counted, whether a count is of
tokens or of steps, whether a loss is in nats, bits or a perplexity.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fitting.columns import PARAMETER_COUNTS
from fitting.reading.units import Meant, line
from refused import Refused

_KEPT = re.compile(r"^(?:params|config|hparams|metrics|summary)[./](?=\w)")
# Words that say nothing of what a column is.
_FILLERS = {
    "n",
    "num",
    "nr",
    "number",
    "of",
    "count",
    "the",
    "metrics",
    "summary",
    "model",
    "final",
}
_HELD_OUT = {"eval", "val", "valid", "validation", "test", "heldout", "held", "out", "dev"}
_TRAIN = {"train", "training", "trained", "trainer"}
_LOSS = {"loss", "nll", "ce", "xent"}
_LIKELIHOODS = ({"log", "likelihood"}, {"loglikelihood"}, {"loglik"}, {"log", "lik"}, {"ll"})
_LIKELIHOODS += ({"logprob"}, {"log", "prob"}, {"logprobs"}, {"logp"}, {"log", "probability"})
_ONE_LOSS = [{word} for word in sorted(_LOSS)]
_LOSS_WORDS = {"cross", "entropy", "lm", "mean", "avg", "average", "last", "end", "nats", "token"}
_LOSS_WORDS |= {"per", "in"}
_PARAMS = {"params", "param", "parameters", "parameter"}
_SIZES = {"model_size", "size", "n", "model_params"}
_WITHOUT = ({"non", "embedding"}, {"nonembedding"}, {"non", "embed"}, {"non", "emb"}, {"no", "emb"})
_WITHOUT += ({"non", "embeddings"}, {"no", "embedding"}, {"no", "embeddings"}, {"wo", "embedding"})
_WITHOUT += ({"without", "embedding"}, {"without", "embeddings"}, {"nonemb"}, {"no", "embed"})
_WITH = ({"total"}, {"with", "embedding"}, {"with", "embeddings"}, {"incl", "embeddings"})
_WITH += ({"including", "embeddings"}, {"incl", "embedding"}, {"including", "embedding"})
_ACTIVE = ({"active"}, {"activated"})
_SEEN = {"seen", "processed", "consumed", "total", "cumulative", *_TRAIN}
_STEPS = {"step", "steps", "iteration", "iterations", "iter", "iters"}
_SCALES = {"k": "k", "thousand": "k", "thousands": "k", "million": "M", "millions": "M"}
_SCALES |= {"billion": "B", "billions": "B", "trillion": "T", "trillions": "T"}
_LETTERS = {"M": "M", "m": "M", "B": "B", "b": "B", "G": "B", "T": "T", "k": "k", "K": "k"}
# A run has more parameters and tokens than this, or its column is in millions or is none of them.
LEAST = {"params": 1e3, "tokens": 1e4, "flops": 1e9}


@dataclass(frozen=True)
class Question:
    """What a table does not say of itself: their column, and our columns that it may be."""

    theirs: str
    why: str
    options: tuple[str, ...]


class Unsure(Refused):
    """A refusal that asks; `questions` can be put to a person, `known` is what needs no asking."""

    def __init__(self, questions: Iterable[Question], known: Mapping[str, str]):
        self.questions, self.known = tuple(questions), dict(known)
        first = {q.theirs: q.options[0] for q in self.questions}
        given = "; ".join(f"{q.theirs}: {q.why}" for q in self.questions)
        rest = [option for q in self.questions for option in q.options[1:]]
        accepted = line({**first, **self.known}) + (f", or ={', ='.join(rest)}" if rest else "")
        super().__init__("columns", given, accepted)


def words(name: str) -> list[str]:
    """The words of a name in small letters: `eval/lossMean_2` is eval, loss, mean, 2.

    Where trackers keep a column is no part of its name: `config.lr`, `params.lr`, `summary/loss`.
    """
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", _KEPT.sub("", str(name)))
    return [word.lower() for word in found]


def lacking(names: Iterable[str], given: Mapping[str, Meant], needs: Iterable[str]) -> list[str]:
    """What is needed, can be guessed, and is neither named nor a column of its own."""
    known = {meant.ours for meant in given.values()} | {n for n in names if n not in given}
    counts = lambda need: set(PARAMETER_COUNTS) if need == "params" else {need}
    return [n for n in dict.fromkeys(needs) if n in _FINDERS and not counts(n) & known]


def guessed(
    frame: pd.DataFrame, given: Mapping[str, Meant], needs: Iterable[str]
) -> dict[str, Meant]:
    """What the columns of a table mean that nobody named, {their name: meaning}.

    Args:
      frame: columns as numbers where they are some.
      given: what was named.
      needs: columns that the law reads; `params` is any count of parameters.

    Raises:
      Unsure: a column that is needed may mean several things.
    """
    free = [name for name in frame if name not in given]
    found: dict[str, Meant] = {}
    questions: list[Question] = []
    for need in lacking(frame, given, needs):
        meant, asked = _FINDERS[need](frame, free, need)
        found |= meant
        questions += [q for q in asked if q.theirs not in found]
    if questions:
        every = {**given, **found}
        known = {name: str(meant) for name, meant in every.items() if meant.ours != "run"}
        raise Unsure(_distinct(questions), known)
    return found


def _distinct(questions: list[Question]) -> list[Question]:
    """One question for each column: what was asked first."""
    seen: dict[str, Question] = {}
    for question in questions:
        seen.setdefault(question.theirs, question)
    return list(seen.values())


def _split_unit(name: str) -> tuple[list[str], str]:
    """(words of a name, the unit that it carries or "")."""
    bracket = re.fullmatch(r"(.*\S)\s*[(\[]\s*(?:in\s+)?(\S+?)\s*[)\]]", str(name).strip())
    if bracket:
        scale = _LETTERS.get(bracket[2]) or _SCALES.get(bracket[2].lower())
        return words(bracket[1]), scale or bracket[2].lower()
    found = words(name)
    tail = re.fullmatch(r".+_([MBGTKk])", str(name).strip())
    if tail:
        return found[:-1], _LETTERS[tail[1]]
    if found and found[-1] in _SCALES:
        rest = found[:-2] if found[-2:-1] == ["in"] else found[:-1]
        return rest, _SCALES[found[-1]]
    return found, ""


def _middle(frame: pd.DataFrame, name: str) -> float:
    """Median of a column, NaN of text."""
    if not pd.api.types.is_numeric_dtype(frame[name]) or frame[name].dtype == bool:
        return float("nan")
    values = frame[name].to_numpy(float)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _params(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    sure, unsure = {}, []
    for name in names:
        parts, scale = _split_unit(name)
        rest = set(parts) - _FILLERS - _PARAMS
        counted = bool(_PARAMS & set(parts)) or rest in ({"emb"}, {"nonembedding"})
        size = "_".join(parts) in _SIZES
        if not (counted or size) or not np.isfinite(_middle(frame, name)):
            continue
        kinds = ((_WITHOUT, PARAMETER_COUNTS[1]), (_WITH, PARAMETER_COUNTS[0]))
        kinds += ((_ACTIVE, PARAMETER_COUNTS[2]),)
        kind = next((ours for known, ours in kinds if counted and rest in known), None)
        if kind is not None and need in ("params", kind):
            sure[name] = (kind, scale)
        elif size or not rest:
            unsure.append((name, scale))
    if sure:
        return _scaled(frame, sure, "params")
    if len(unsure) != 1:
        return {}, [_which(unsure, need)] if unsure else []
    (name, scale), options = unsure[0], list(PARAMETER_COUNTS[:2])
    if need in PARAMETER_COUNTS:
        options = [need]
    scales = (scale,) if scale else _scales(_middle(frame, name), "params")
    why = "embeddings counted or not?" if len(options) > 1 else f"is it {need}?"
    why += f" in {' or '.join(scales)}?" if scales[0] else ""
    return {}, [Question(name, why, tuple(str(Meant(o, s)) for s in scales for o in options))]


def _which(candidates, need) -> Question:
    first = candidates[0]
    others = ", ".join(name for name, _ in candidates[1:])
    options = list(PARAMETER_COUNTS[:2]) if need == "params" else [need]
    return Question(
        first[0],
        f"or {others}? embeddings counted?",
        tuple(str(Meant(o, first[1])) for o in options),
    )


def _scaled(frame, sure, kind) -> tuple[dict[str, Meant], list[Question]]:
    """Guesses whose magnitudes agree with their names; the others as questions."""
    found, questions = {}, []
    for name, (ours, scale) in sure.items():
        if not scale and _middle(frame, name) < LEAST[kind]:
            why = f"median {_middle(frame, name):g}; in which unit?"
            options = tuple(str(Meant(ours, one)) for one in _scales(_middle(frame, name), kind))
            questions.append(Question(name, why, (*options, ours)))
            continue
        found[name] = Meant(ours, scale)
    ours = [meant.ours for meant in found.values()]
    for name in [name for name, meant in found.items() if ours.count(meant.ours) > 1]:
        questions.append(Question(name, "several such columns", (str(found.pop(name)),)))
    return found, questions[:1] if len(questions) > 1 else questions


def _scales(middle: float, kind: str) -> tuple[str, ...]:
    """Units that a count so small may be in, the likelier one first; "" for none.

    Papers count parameters in millions up to about a billion, and tokens in billions.
    """
    if not middle < LEAST[kind]:
        return ("",)
    return ("B", "M") if kind == "tokens" or middle < 20 else ("M", "B")


def _tokens(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    sure, letters, steps, batch = {}, {}, [], ""
    for name in names:
        parts, scale = _split_unit(name)
        if not np.isfinite(_middle(frame, name)):
            continue
        rest = set(parts) - _FILLERS
        if rest - _SEEN in ({"tokens"}, {"token"}):
            sure[name] = ("tokens", scale)
        elif str(name) == "D":
            letters[name] = ("tokens", scale)
        elif rest - _TRAIN - {"global", "optimizer", "total"} in [{word} for word in _STEPS]:
            steps.append(name)
        if _is_batch(name):
            batch = name
    sure = sure or letters
    if len(sure) > 1:  # tokens_seen beside total_tokens: equal ones are one.
        first, *others = sure
        same = [o for o in others if np.array_equal(frame[first], frame[o], equal_nan=True)]
        sure = {name: meant for name, meant in sure.items() if name not in same}
    if sure:
        return _scaled(frame, sure, "tokens")
    if not steps:
        return {}, []
    by = batch or "TOKENS_PER_STEP"
    why = "steps, not tokens; tokens in each?"
    return {}, [Question(steps[0], why, (str(Meant("tokens", by)),))]


def _is_batch(name: str) -> bool:
    return set(words(name)) in ({"batch", "tokens"}, {"tokens", "per", "step"}) or (
        set(words(name)) == {"tokens", "per", "batch"}
    )


def _loss(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    held, train, others = [], [], []
    for name in names:
        parts, scale = _split_unit(name)
        if not np.isfinite(_middle(frame, name)):
            continue
        rest = set(parts) - _FILLERS - _LOSS_WORDS
        if rest & {"ppl", "perplexity"} and rest - _HELD_OUT - _TRAIN <= {"ppl", "perplexity"}:
            others.append(Question(name, "a perplexity?", ("loss[perplexity]", "loss")))
        elif rest - _HELD_OUT - _TRAIN in _LIKELIHOODS and _middle(frame, name) < 0:
            why = "a mean log-likelihood of a token?"
            others.append(Question(name, why, ("loss[log_likelihood]",)))
        elif _in_bits(set(parts), scale):
            others.append(Question(name, "bits per token?", ("loss[bits]", "bits_per_byte")))
        elif not rest & _LOSS and set(parts) != {"cross", "entropy"} and str(name) != "L":
            continue
        elif rest - _HELD_OUT <= _LOSS and scale in ("", "nats", "nats/token"):
            held.append(name)
        elif rest - _TRAIN <= _LOSS and scale in ("", "nats", "nats/token"):
            train.append(name)
    found = held or train
    if len(found) == 1:
        if str(found[0]) == "L" and not 0.3 < _middle(frame, "L") < 20:
            return {}, []
        return {found[0]: Meant("loss")}, []
    if found:
        why = f"or {', '.join(found[1:])}?"
        return {}, [Question(found[0], why, ("loss",))]
    return {}, others[:1]


def _in_bits(parts: set[str], scale: str) -> bool:
    if scale.startswith("bit"):
        return bool(parts & _LOSS)
    rest = parts - _FILLERS - _HELD_OUT - _TRAIN - {"eval"}
    if rest in ({"bits", "per", "token"}, {"bpt"}):
        return True
    return bool(rest & _LOSS) and rest - _LOSS == {"bits"}


def _bits_per_byte(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    kinds = ({"bpb"}, {"bits", "per", "byte"})
    found = [name for name in names if set(words(name)) - _FILLERS - _HELD_OUT in kinds]
    return {found[0]: Meant("bits_per_byte")} if len(found) == 1 else {}, []


def _flops(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    found = {}
    for name in names:
        rest = set(words(name)) - _FILLERS - _TRAIN - {"total"}
        if rest in ({"flops"}, {"flop"}, {"compute"}) or str(name) == "C":
            if _middle(frame, name) >= LEAST["flops"]:
                found[name] = Meant("flops")
    return found if len(found) == 1 else {}, []


def _step(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    kinds = [{word} for word in _STEPS]
    held = lambda name: set(words(name)) - _FILLERS - _TRAIN - {"global", "optimizer"}
    found = [name for name in names if held(name) in kinds and np.isfinite(_middle(frame, name))]
    return {found[0]: Meant("step")} if len(found) == 1 else {}, []


def _learning_rate(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    if "schedule" in frame:  # It says the rate of every step.
        return {}, []
    held = lambda name: set(words(name)) - _FILLERS - _TRAIN - {"peak", "max"}
    found = [name for name in names if held(name) in ({"lr"}, {"learning", "rate"})]
    found = [name for name in found if np.isfinite(_middle(frame, name))]
    return {found[0]: Meant("learning_rate")} if len(found) == 1 else {}, []


def _batch(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    found = [name for name in names if _is_batch(name) and np.isfinite(_middle(frame, name))]
    return {found[0]: Meant("batch_tokens")} if len(found) == 1 else {}, []


def _streams(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    kinds = ({"parallel", "size"}, {"streams"}, {"parallel", "streams"})
    found = [name for name in names if set(words(name)) - _FILLERS in kinds]
    return {}, [Question(found[0], "parallel streams?", ("streams",))] if len(found) == 1 else []


def held_out_losses(names: Iterable[str]) -> list[str]:
    """Names that speak of a held-out loss, such as `eval/loss`."""
    found = [(name, set(words(name)) - _FILLERS - _LOSS_WORDS) for name in names]
    return [name for name, rest in found if rest & _HELD_OUT and rest - _HELD_OUT in _ONE_LOSS]


def _run(frame, names, need) -> tuple[dict[str, Meant], list[Question]]:
    kinds = ({"name"}, {"run", "name"}, {"run", "id"}, {"id"})
    found = [name for name in names if set(words(name)) in kinds and frame[name].is_unique]
    found = [name for name in found if frame[name].notna().all()]
    return {found[0]: Meant("run")} if len(found) >= 1 else {}, []


_FINDERS = {
    **dict.fromkeys(("params", *PARAMETER_COUNTS), _params),
    "tokens": _tokens,
    "loss": _loss,
    "bits_per_byte": _bits_per_byte,
    "flops": _flops,
    "step": _step,
    "learning_rate": _learning_rate,
    "batch_tokens": _batch,
    "streams": _streams,
    "run": _run,
}
