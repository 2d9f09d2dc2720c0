"""A study that grows: what is new is trained, to the token that the plan says, and nothing else."""

import contextlib
import shutil
from pathlib import Path

import pandas as pd
import pytest

from scaling.ledger import Meter
from tests.growing import BATCH, DECAY, get_config, planned_tokens
from tests.tiers import mostly

ROOT = Path(__file__).parents[3]
SHORT, LONG = get_config().steps
LONGER = 32
# Way to grow → what changes, and the steps it takes where states were kept, and where none were.
WAYS = {
    "longer": ({"steps": (SHORT, LONG, LONGER)}, LONGER - LONG + DECAY, LONGER + DECAY),
    "wider": ({"widths": (16, 24)}, LONG + 2 * DECAY, LONG + 2 * DECAY),
    "seeds": ({"seeds": (0, 1)}, LONG + 2 * DECAY, LONG + 2 * DECAY),
    "arm": ({"arms": ("plain", "qat")}, 2 * DECAY, LONG + 2 * DECAY),
    "evaluation": ({"evaluation_tokens": 256}, 2 * DECAY, LONG + 2 * DECAY),
}
TIMES = ["seconds", "tokens_per_second"]


@pytest.fixture(scope="module")
def call(corpus):
    """Calls the command on the study that grows; returns what it printed and trained."""
    from experiments.command.main import main

    where = next(iter(corpus.domains.values())).folder

    def call(capsys, command: str, store: Path, keep: str, changes: dict, *more):
        trained = []
        take = Meter.take

        def counted(meter, step, rates, values, seconds):
            trained.append(len(rates) * meter.segment.phase.batch_tokens)
            take(meter, step, rates, values, seconds)

        values = [f"--config.{name}={value}" for name, value in changes.items()]
        study = ["--config=tests/growing.py", f"--config.corpus={where}", f"--store={store}"]
        with contextlib.chdir(ROOT), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Meter, "take", counted)
            args = [command, *study, *values, f"--keep={keep}", "--mesh=data:1", *more]
            code = main(["espalier", *args])
        said = capsys.readouterr()
        assert code == 0, said.err
        return " ".join(said.out.split()), sum(trained)

    return call


def table(store: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(store / "studies" / name / "runs.csv").drop(columns=TIMES)


@pytest.fixture(scope="module", params=["auto", "none"])
def finished(request, call, tmp_path_factory):
    """A finished store, and how it keeps end states."""
    store = tmp_path_factory.mktemp(request.param) / "runs"
    return request.param, store


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    """Gives the table of a study that was planned whole, trained once for each way to grow."""
    found = {}

    def whole(way: str, capsys) -> pd.DataFrame:
        if way not in found:
            store, config = tmp_path_factory.mktemp(way), get_config()
            config.update(WAYS[way][0])
            assert call(capsys, "run", store, "none", WAYS[way][0])[1] == planned_tokens(config)
            found[way] = table(store, "growing-cpu")
        return found[way]

    return whole


@pytest.mark.parametrize("way", mostly(WAYS, ("arm", "evaluation")))
def test_a_study_that_grows_trains_what_is_new_as_planned_whole(
    way, finished, whole, call, tmp_path, capsys
):
    keep, store = finished
    if not store.exists():
        assert call(capsys, "run", store, keep, {})[1] == planned_tokens(get_config())
    changes, kept, alone = WAYS[way]
    tokens = BATCH * (kept if keep == "auto" else alone)
    grown = tmp_path / "grown"
    shutil.copytree(store, grown)
    said, trained = call(capsys, "plan", grown, keep, changes)
    assert f"to train: {tokens:,} tokens" in said and not trained
    said, trained = call(capsys, "run", grown, keep, changes)
    assert trained == tokens
    (name,) = (p.name for p in (grown / "studies").iterdir() if p.name != "growing-cpu")
    assert f"config.{next(iter(changes))} differ): this one is {name}" in said
    pd.testing.assert_frame_equal(table(grown, name), whole(way, capsys), check_exact=True)
    states = list(grown.rglob("checkpoint"))
    assert bool(states) == (keep == "auto")
    assert "to train: 0 tokens" in call(capsys, "plan", grown, keep, changes)[0]


def test_room_is_given_back_with_the_bytes_told_first(call, tmp_path, capsys):
    store = tmp_path / "runs"
    call(capsys, "run", store, "auto", {})
    size = sum(file.stat().st_size for file in store.rglob("checkpoint/**/*") if file.is_file())
    said, _ = call(capsys, "plan", store, "none", {}, "--prune")
    assert size and f"prune: {size:,} bytes of 2 states would be given back" in said
    assert len(list(store.rglob("checkpoint"))) == 2
    said, trained = call(capsys, "run", store, "none", {}, "--prune")
    assert f"prune: {size:,} bytes of 2 states were given back" in said and not trained
    assert not list(store.rglob("checkpoint"))


def test_parameters_kept_of_a_finished_study_cost_its_branches_alone(call, tmp_path, capsys):
    store = tmp_path / "runs"
    call(capsys, "run", store, "all", {})
    before = table(store, "growing-cpu")
    tokens = 2 * DECAY * BATCH
    said, _ = call(capsys, "plan", store, "all", {}, "--keep-params")
    assert f"to train: {tokens:,} tokens" in said
    assert call(capsys, "run", store, "all", {}, "--keep-params")[1] == tokens
    pd.testing.assert_frame_equal(table(store, "growing-cpu"), before, check_exact=True)
    from experiments.command.main import main

    id = before["run"][0]
    out = tmp_path / "model.safetensors"
    export = ["export", f"--store={store}", f"--run={id}", f"--out={out}"]
    assert main(["espalier", *export]) == 0 and out.stat().st_size
    assert main(["espalier", "export", f"--store={store}", "--run=../x", f"--out={out}"]) == 2
    checkpoint = store / "segments" / id / "checkpoint"
    (last,) = checkpoint.iterdir()
    largest = max(last.rglob("d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    capsys.readouterr()
    assert main(["espalier", *export]) == 2
    said = capsys.readouterr().err
    assert f"--run: got {last}, which is damaged" in said and said.count("\n") == 1
