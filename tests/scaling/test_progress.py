"""What a person sees."""

import io

import pytest

from scaling import labelled, plan
from scaling.progress import Bars, Lines, Silent, title
from tests.corpora import study_runs


def show(kind, corpus):
    segments = list(plan(study_runs("wsd", corpus)).walk())
    kind.begin(segments)
    for segment in segments:
        kind.start(segment, segment.first_step)
        kind.update(segment, segment.run.steps, 2.5, 1e5)
        kind.finish(segment, {"low": 2.0, "high": 3.0})
    kind.end()
    return segments


def test_every_segment_gives_a_line_with_its_loss_and_the_time_left(corpus):
    stream = io.StringIO()
    segments = show(Lines(stream), corpus)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(segments)
    assert lines[0].startswith(f"[1/{len(segments)}]") and title(segments[0]) in lines[0]
    assert "loss 2.5000" in lines[0] and lines[-1].endswith("0 s left")


def test_a_line_names_a_segment_by_its_labels_and_seed(corpus):
    stream = io.StringIO()
    lines = Lines(stream)
    run = study_runs("wsd", corpus)[0]
    segments = list(plan([labelled(run, arm="dense", rate=0.5)]).walk())
    lines.begin(segments)
    lines.finish(segments[0], {"low": 2.0})
    assert f"arm dense  rate 0.5  seed {run.seed}  0.00–" in stream.getvalue()


def test_long_segments_speak_in_between(corpus, monkeypatch):
    import scaling.progress

    monkeypatch.setattr(scaling.progress, "LINE_SECONDS", 0.0)
    stream = io.StringIO()
    segments = show(Lines(stream), corpus)
    assert len(stream.getvalue().splitlines()) == 2 * len(segments)
    assert "100.0k tokens/s" in stream.getvalue()


def test_a_diverged_segment_is_told(corpus):
    stream = io.StringIO()
    lines = Lines(stream)
    segment = next(plan(study_runs("wsd", corpus)).walk())
    lines.begin([segment])
    lines.finish(segment, None)
    assert "left out: diverged" in stream.getvalue()


@pytest.mark.parametrize("kind", [Lines, Bars])
def test_a_segment_that_goes_on_is_counted_from_there(corpus, kind):
    first, second = list(plan(study_runs("wsd", corpus)).walk())[:2]
    begins = {first.id: first.first_step}
    shown = kind(io.StringIO()) if kind is Lines else kind()
    shown.begin([first, second], begins)
    whole, half = shown.goal, first.first_step + first.steps // 2
    shown.start(first, half)  # A fleet's member says only now how far it is.
    assert shown.goal == whole - first.flops * (half - first.first_step) / first.steps
    shown.start(second, second.first_step)
    shown.finish(first, {"low": 2.0})
    shown.finish(second, {"low": 2.0})
    done = shown.flops if kind is Lines else shown.bars.tasks[shown.whole].completed
    assert done == pytest.approx(shown.goal) and begins == {first.id: first.first_step}
    shown.end()


def test_bars_move_to_their_ends(corpus):
    bars = Bars()
    segments = show(bars, corpus)
    whole = bars.bars.tasks[0]
    assert whole.completed == whole.total == sum(s.flops for s in segments)
    show(Silent(), corpus)
