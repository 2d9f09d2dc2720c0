"""What the store lacks of a plan, and the lines that a segment leaves there."""

import math
from dataclasses import replace

import numpy as np

import models
from scaling import Evaluation, Store, plan
from scaling.chips import devices
from scaling.ledger import DIVERGED_ABOVE, Ledger, Meter
from scaling.progress import Silent
from tests.corpora import STEP, study_runs

VALUES = {"grad_norm": np.ones(4, np.float32), "router.load": np.full(4, 0.5, np.float32)}


class Told(Silent):
    """Keeps what it was told of finished segments."""

    def __init__(self):
        self.finished = []

    def finish(self, segment, losses):
        self.finished.append((segment.id, losses))


def ledger(corpus, mesh, path, evaluation=None) -> Ledger:
    runs = study_runs("wsd", corpus)[:2]
    made = Ledger(
        plan(runs), Store.at(path), corpus, evaluation or Evaluation(128), mesh, progress=Told()
    )
    made.begin()
    return made


def test_lines_go_up_to_the_step_that_diverges(corpus, mesh, tmp_path):
    book = ledger(corpus, mesh, tmp_path)
    segment = next(book.plan.walk())
    meter = book.open(segment, 0, 1.0)
    bound = DIVERGED_ABOVE * math.log(segment.config.vocabulary)
    losses = np.array([5.0, bound - 0.1, bound + 0.1, 5.0], np.float32)
    meter.take(0, np.full(4, 0.01), VALUES | {"nll": losses}, 2.0)
    meter.flush()
    lines = book.store.metrics(segment.id)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert meter.diverged == 3 and meter.loss == lines[1]["loss"] and meter.seconds == 3.0
    assert {line["router.load"] for line in lines} == {0.5}
    assert {line["tokens_per_second"] for line in lines} == {2 * STEP}


def test_lines_say_the_share_of_a_known_devices_peak(corpus, mesh, tmp_path, monkeypatch):
    book = ledger(corpus, mesh, tmp_path)
    segment = next(book.plan.walk())
    values = VALUES | {"nll": np.ones(2, np.float32)}
    rate = STEP * models.count(segment.config).flops_train  # FLOP/s of two steps in 2 s.
    slow = replace(devices.DEVICES["v5e"], kinds=("cpu",), peak=50 * rate / mesh.size)
    for known, share in (({}, None), ({"slow": slow}, 0.02)):
        monkeypatch.setattr(devices, "DEVICES", known)
        meter = book.open(segment, 0, 0.0)
        meter.take(0, np.full(2, 0.01), {name: x[:2] for name, x in values.items()}, 2.0)
        meter.flush()
        assert {line.get("mfu") for line in book.store.metrics(segment.id)} == {share}


def test_a_norm_that_is_not_finite_diverges_and_leaves_no_number(corpus, mesh, tmp_path):
    book = ledger(corpus, mesh, tmp_path)
    segment = next(book.plan.walk())
    meter = book.open(segment, 0, 0.0)
    values = VALUES | {"nll": np.ones(4, np.float32), "grad_norm": np.full(4, np.nan)}
    meter.take(0, np.full(4, 0.01), values, 1.0)
    meter.flush()
    (line,) = book.store.metrics(segment.id)
    assert meter.diverged == 1 and line["grad_norm"] is None and line["loss"] == 1.0


def test_a_segment_taken_up_again_has_its_last_loss_and_no_later_line(corpus, mesh, tmp_path):
    book = ledger(corpus, mesh, tmp_path)
    segment = next(book.plan.walk())
    meter = book.open(segment, 0, 0.0)
    losses = np.arange(4, 0, -1).astype(np.float32)
    meter.take(0, np.full(4, 0.01), VALUES | {"nll": losses}, 1.0)
    meter.flush()
    again = book.open(segment, 2, 0.5)
    assert (again.loss, again.seconds) == (3.0, 0.5)
    assert [r["step"] for r in book.store.metrics(segment.id)] == [1, 2]


def test_what_is_recorded_with_its_evaluation_is_not_lacking(corpus, mesh, tmp_path):
    book = ledger(corpus, mesh, tmp_path)
    trunk, *_, leaf = book.plan.path(book.plan.runs[0].identity)
    assert book.missing() == set(book.plan.segments) == book.todo
    for segment in (trunk, leaf):
        book.finish(book.open(segment, segment.first_step, 0.0), {})
    assert not book.lacks(trunk)  # Nothing is evaluated there.
    assert book.lacks(leaf)  # Its evaluation is missing.
    assert ledger(corpus, mesh, tmp_path, Evaluation(128, everywhere=True)).lacks(trunk)
    book = ledger(corpus, mesh, tmp_path)
    book.finish(Meter(leaf, book.progress, diverged=3), {})
    assert not book.lacks(leaf)  # What diverged is not evaluated.


def test_a_segment_is_ticked_off_once_and_what_waits_for_its_program_less(corpus, mesh, tmp_path):
    book = ledger(corpus, mesh, tmp_path)
    segment = next(book.plan.walk())
    assert book.followed(segment) and book.waiting.keys() == book.needed.keys()
    book.leave_out(segment, 7)
    book.tick(segment, {})
    assert book.progress.finished == [(segment.id, None)]
    assert book.store.done(segment.id)["diverged_step"] == 7
    assert segment.id not in book.waiting and segment.id not in book.todo
