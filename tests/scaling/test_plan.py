"""Sharing: what the planner cuts and what that saves."""

import math

import pytest

from scaling import labelled, plan
from scaling.plan import order, pieces
from tests.corpora import KINDS, STEP, seeds, study_runs


def closed_form(lengths, fraction):
    """[(1 − f)·D_max + f·ΣD_i]/ΣD_i."""
    return ((1 - fraction) * max(lengths) + fraction * sum(lengths)) / sum(lengths)


@pytest.mark.parametrize("counts", [(1, 2, 4, 8), (1, 2, 4), (1, 4, 16, 64), (5, 10, 15, 20, 25)])
def test_the_saving_is_the_closed_form(corpus, counts):
    from dataclasses import replace

    from scaling import wsd

    base = study_runs("wsd", corpus)[0]
    lengths = [count * 50 * STEP for count in counts]
    runs = [replace(base, phases=wsd(length, STEP, STEP)) for length in lengths]
    shared = plan(seeds(runs, 3))
    assert shared.tokens / shared.tokens_alone == closed_form(lengths, 0.2)
    if counts == (1, 2, 4, 8):
        assert shared.tokens / shared.tokens_alone == pytest.approx(0.627, abs=5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_tile_every_run(kind, corpus):
    shared = plan(study_runs(kind, corpus))
    assert shared.tokens < shared.tokens_alone
    for run in shared.runs:
        path = shared.path(run.identity)
        assert path[0].parent is None
        assert [s.first_step for s in path[1:]] == [s.run.steps for s in path[:-1]]
        assert sum(s.tokens for s in path) == run.tokens
        assert sum(s.steps for s in path) == run.steps
        assert math.isclose(sum(s.flops for s in path), run.flops())
        assert len({s.run.trunk for s in path}) == 1
    assert [s.id for s in shared.walk()] == list(dict.fromkeys(s.id for s in shared.walk()))
    assert {s.id for s in shared.walk()} == set(shared.segments)


def test_a_run_alone_ends_in_the_same_segment(corpus):
    runs = study_runs("wsd", corpus)
    shared = plan(runs)
    for run in runs:
        alone = plan([run])
        assert alone.tokens == run.tokens
        assert run.identity in alone.segments and run.identity in shared.segments
    assert plan(runs + runs).segments.keys() == shared.segments.keys()


def test_only_prefix_closed_phases_are_cut(corpus):
    shared = plan(study_runs("ramp", corpus))
    decays = [s for s in shared.segments.values() if not s.phase.prefix_closed]
    assert {s.offset for s in decays} == {0}
    assert len(decays) == 2


def test_a_trunk_goes_on_after_its_branches(corpus):
    shared = plan(study_runs("wsd", corpus))
    walked = list(shared.walk())
    for segment in walked:
        if segment.id in shared.children:
            last = shared.children[segment.id][-1]
            assert shared.depth[last] == max(shared.depth[c] for c in shared.children[segment.id])


def test_cut_segments_read_what_the_whole_run_reads(corpus):
    runs = study_runs("mixture", corpus)
    for run in runs:
        whole = order(corpus, run)
        for segment in plan(runs).path(run.identity):
            part = order(corpus, segment.run)
            slots = range(segment.offset * 8, segment.phase.steps * 8)
            for a, b in zip(
                whole.locate(segment.index, slots), part.locate(segment.index, slots), strict=True
            ):
                assert (a == b).all()
    assert [p.sequences for p in pieces(runs[0])] == [160, 80, 40]


def test_a_phase_of_no_tokens_is_a_segment_only_where_it_was_asked_for(corpus):
    from dataclasses import replace

    from scaling import ContextLength, Phase, decay

    base = study_runs("wsd", corpus)[0]
    trunk = base.phases[:1]
    probe = replace(base, phases=(*trunk, Phase(0, STEP, change=ContextLength(64))))
    longer = replace(base, phases=(*trunk, Phase(4 * STEP, STEP, change=ContextLength(64))))
    through = replace(probe, phases=(*probe.phases, Phase(4 * STEP, STEP, decay())))
    shared = plan([probe, longer, through])
    steps = {run.identity: [s.steps for s in shared.path(run.identity)] for run in shared.runs}
    whole = trunk[0].steps
    assert steps[probe.identity] == [whole, 0]
    assert steps[longer.identity] == [whole, 4]
    assert steps[through.identity] == [whole, 0, 4]
    assert [s.offset for s in shared.path(longer.identity)] == [0, 0]


def test_a_run_in_two_arms_is_planned_once_and_keeps_both_labels(corpus):
    short, long = study_runs("wsd", corpus)[:2]
    listed = [
        labelled(short, arm="dense", rate=1.0),
        labelled(long, arm="wide", rate=1.0),
        labelled(short, arm="short", rate=1.0),
    ]
    shared = plan(listed)
    assert shared.segments.keys() == plan([short, long]).segments.keys()
    assert [run.identity for run in shared.runs] == [short.identity, long.identity]
    assert shared.labels[short.identity] == (listed[0].labels, listed[2].labels)
    assert shared.label_names == ["arm", "rate"]
    cells = shared.cells(shared.segments[short.identity])
    assert cells == {"arm": "dense | short", "rate": 1.0}


def test_a_segment_has_the_labels_that_all_runs_through_it_share(corpus):
    short, long = study_runs("wsd", corpus)[:2]
    shared = plan([labelled(short, arm="a", size=16), labelled(long, arm="b", size=16, rate=2.0)])
    root = shared.path(short.identity)[0]
    assert root.labels == {"arm": ("a", "b"), "size": (16,), "rate": (None, 2.0)}
    assert root.shared == {"size": 16} == {k: v for k, v in shared.cells(root).items() if v}
    assert root.words == f"arm a and 1 more  size 16  seed {short.seed}"
    assert shared.segments[long.identity].shared == {"arm": "b", "size": 16, "rate": 2.0}


def test_runs_without_labels_are_named_by_their_width(corpus):
    segment = next(plan(study_runs("wsd", corpus)).walk())
    assert segment.words == f"width {segment.config.width}  seed {segment.run.seed}"
