"""The printed plan: runs and segments by the names that their study gives them."""

from dataclasses import replace

import pytest

from experiments.command.plan_view import plan_text, time_text, unsplit_line
from experiments.evidence.study import Study
from scaling import Evaluation, labelled, make_mesh, plan
from tests.corpora import study_runs


@pytest.fixture(scope="module")
def said(corpus):
    short, long = study_runs("wsd", corpus)[:2]
    runs = [
        labelled(replace(run, seed=seed), arm=arm, size=16, rate=0.5)
        for seed in range(2)
        for arm, run in (("short", short), ("a longer arm with a name of many words", long))
    ]
    runs.append(labelled(replace(short, seed=0), arm="again", size=16, rate=0.5))
    study = Study("named", corpus, tuple(runs), Evaluation(128), report=lambda results: [])
    shared = plan(study.runs)
    return plan_text(study, shared, {}, set(shared.segments), {16: 1e9}, [])


def test_a_line_of_runs_begins_with_its_labels_whole(said):
    lines = [line.split("  ") for line in said.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1][:3] == ["arm", "size", "rate"]
    shown = {line[0]: line for line in cells[2:5]}
    assert shown["short | again"][1:3] == ["16", "0.5"] and shown["short | again"][-1] == "1"
    # Runs that differ by seed alone, labels included, share a line.
    assert shown["a longer arm with a name of many words"][-1] == "2"
    assert shown["short"][-1] == "1"


def test_a_root_is_named_by_what_its_runs_share_and_a_branch_by_what_it_settles(said):
    assert "arm short and 2 more  size 16  rate 0.5  seed 0  0–" in said
    assert "arm short and 1 more  size 16  rate 0.5  seed 1  0–" in said
    branches = [line for line in said.splitlines() if line.startswith("│") or "    " in line[:4]]
    settled = [b for b in branches if "  arm a longer arm with a name of many words" in b]
    assert len(settled) == 2 and not any("size" in branch for branch in branches)


def test_matrices_that_a_mesh_cannot_split_are_named(corpus):
    run = study_runs("wsd", corpus)[0]
    mesh = make_mesh("fsdp:8")
    assert unsplit_line(plan([run]), mesh) == ""
    odd = replace(run, model=replace(run.model, ff_width=20, width=20, head_size=8))
    line = unsplit_line(plan([run, odd]), mesh)
    count = 3 * run.model.depth
    assert f"fsdp:8 divides none of their sizes: {count} matrices" in line
    assert "at width 20" in line
    assert line.endswith("layers.0.feed_forward.down [20, 20]")


@pytest.mark.parametrize("fields", [dict(dtype="bfloat16"), dict(width=80)])
def test_no_time_is_told_of_models_unlike_those_that_were_measured(corpus, fields, said):
    short = study_runs("wsd", corpus)[0]
    like = list(plan([short]).walk())
    unlike = list(plan([replace(short, model=replace(short.model, **fields))]).walk())
    assert time_text(like, {16: 1e9}).startswith("about ") and "on this device" in said
    told = time_text([*like, *unlike], {8: 1e9, 16: 1e9})
    assert "how long is not told: this device is measured at widths 8 to 16 in float32" in told
