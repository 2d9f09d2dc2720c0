"""lm-evaluation-harness over an exported folder says what our own evaluation does."""

import json
import math

import jax
import numpy as np
import pytest

from data.tokenizer import BPE
from scaling import AdamW, make_mesh
from scaling.downstream import Task, answers, encoded, log_likelihoods, summary
from scaling.interchange import folder
from scaling.interchange.kept import Kept
from scaling.state import initial
from scaling.train import Program, advance, on_mesh
from tests.corpora import model, recipe
from tests.interop.theirs import need

lm_eval, tasks, huggingface = need("lm_eval", "lm_eval.tasks", "lm_eval.models.huggingface")
pytestmark = pytest.mark.filterwarnings("ignore")

CONTEXT, VOCABULARY = 96, 320
WORDS = "der Bär läuft schön über die Straße und trinkt 日本 茶 in naïve cafés 12 mal 3".split()


def sentence(rng, words: int) -> str:
    """Returns words in an order in which each is followed by one of its two neighbours."""
    at, found = int(rng.integers(len(WORDS))), []
    for _ in range(words):
        found.append(WORDS[at])
        at = (at + int(rng.integers(1, 3))) % len(WORDS)
    return " ".join(found)


def lines(file, some) -> str:
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in some))
    return str(file)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model that has learned some German and more, with a BPE, and its folder."""
    rng = np.random.default_rng(0)
    texts = [sentence(rng, 60).encode() for _ in range(200)]
    bpe = BPE.train(texts, VOCABULARY)
    stream = np.concatenate([np.append([0], d.tokens) for d in bpe.documents(texts)])
    config = model(vocabulary=VOCABULARY, context=CONTEXT, width=32, kv_heads=1, separator=0)
    told = recipe(config, AdamW(learning_rate=0.01))
    program = Program(recipe=told, batch_tokens=8 * CONTEXT, mesh=make_mesh("data:1"))
    state, steps = on_mesh(program, initial(told, 0)), 64
    starts = rng.integers(0, len(stream) - CONTEXT - 1, (steps, 8, 1))
    windows = stream[starts + np.arange(CONTEXT + 1)].astype(np.int32)
    for at in range(0, steps, program.dispatch_steps):
        some = windows[at : at + program.dispatch_steps]
        state, _ = advance(program, state, some, np.full(len(some), 0.01), 0.0)
    state = jax.tree.map(np.asarray, state)
    one = Kept(config, state.params, state.buffers, bpe.json)
    place = tmp_path_factory.mktemp("exported") / "m"
    folder.write(place, one)
    return one, place


def theirs(place, tmp_path, name: str, file: str, **task):
    """Returns lm_eval's results and samples of one local task."""
    task = {"task": name, "dataset_path": "json", "test_split": "test"} | task
    task |= {"dataset_kwargs": {"data_files": {"test": file}}, "target_delimiter": ""}
    manager = tasks.TaskManager(include_defaults=False)
    wrapped = huggingface.HFLM(pretrained=str(place), device="cpu", batch_size=8)
    found = lm_eval.simple_evaluate(
        wrapped, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    return found["results"][name], found["samples"][name]


def assert_same_choices(one, place, tmp_path, name: str, questions: list[dict]):
    """Asserts that every choice has lm_eval's log-likelihood, and the task its accuracies."""
    file = lines(tmp_path / f"{name}.jsonl", questions)
    results, samples = theirs(
        place,
        tmp_path,
        name,
        file,
        output_type="multiple_choice",
        doc_to_text="{{context}}",
        doc_to_choice="{{choices}}",
        doc_to_target="{{answer}}",
        metric_list=[{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")],
    )
    task = Task.read(file)
    found = answers(one.config, one.params, one.buffers, one.text(), task)
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    assert len(samples) == len(task.items)
    for ours, sample in zip(found.log_likelihoods, samples, strict=True):
        expected = [float(ll) for ll, _ in sample["filtered_resps"]]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    scored = summary(task, found)
    ties = sum(np.diff(np.sort(lls))[-1] < 2e-4 for lls in found.log_likelihoods)
    for kind, metric in (("", "acc"), ("_norm", "acc_norm"), ("_bytes", "acc_bytes")):
        told = results[f"{metric},none"]
        assert abs(scored[f"accuracy{kind}"] - told) <= ties / len(samples) + 1e-9
    return scored


def test_each_choice_has_their_log_likelihood(exported, tmp_path):
    one, place = exported
    rng = np.random.default_rng(1)
    following, longer = [], []
    for _ in range(120):
        words = sentence(rng, 8).split(" ")
        others = [w for w in WORDS if w != words[-1]]
        choices = [words[-1], *rng.choice(others, 2, replace=False).tolist()]
        order = rng.permutation(3)
        following.append(
            {
                "context": " ".join(words[:-1]),
                "choices": [f" {choices[i]}" for i in order],
                "answer": int(np.argmax(order == 0)),
            }
        )
        pieces = [" ".join(words[4:]), sentence(rng, 4), "日本語" * int(rng.integers(1, 4))]
        order = rng.permutation(3)
        longer.append(
            {
                "context": " ".join(words[:4]) + " ",  # A space that is the choice's.
                "choices": [pieces[i] for i in order],
                "answer": int(np.argmax(order == 0)),
            }
        )
    longer[0] |= {"context": " ".join(sentence(rng, 120).split(" "))}  # Cut at its beginning.
    longer[1] |= {"context": ""}
    scored = assert_same_choices(one, place, tmp_path, "following", following)
    assert scored["accuracy"] > 0.5  # Of three: it has learned something.
    scored = assert_same_choices(one, place, tmp_path, "longer", longer)
    assert scored["cut"] >= 3


def test_bits_per_byte_are_theirs(exported, tmp_path):
    one, place = exported
    rng = np.random.default_rng(2)
    texts = [sentence(rng, 20) for _ in range(40)]
    file = lines(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    results, _ = theirs(
        place,
        tmp_path,
        "texts",
        file,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )
    rows = [encoded(one.text(), "", text, CONTEXT, True) for text in texts]
    assert not any(row.cut for row in rows)
    totals, _ = log_likelihoods(one.config, one.params, one.buffers, rows)
    ours = -totals.sum() / math.log(2) / sum(len(text.encode()) for text in texts)
    assert abs(ours - results["bits_per_byte,none"]) < 1e-3
    assert ours < 2.0
