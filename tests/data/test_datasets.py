"""Folders of datasets: their splits by layout, and the sides of the corpus built of them."""

import json

import numpy as np
import pyarrow as pa
import pytest

from data.build import build
from data.datasets import splits
from refused import Refused
from tests.data.datasets import LAYOUTS, Layout, texts, write
from tests.data.test_build import documents


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_has_its_splits_and_the_rest_is_told(name, tmp_path):
    layout = LAYOUTS[name]
    write(tmp_path, layout)
    found = splits(tmp_path)
    assert set(found.train) == {tmp_path / file for file in layout.train}
    assert set(found.held_out) == {tmp_path / file for file in layout.held_out}
    told = " ".join(found.words)
    for file in layout.others:
        assert file in told or f"split {file.split('/')[-1].split('-')[0]} of" in told
    assert bool(found.words) == bool(layout.others)


def saved(folder, names) -> None:
    """Writes a split as `save_to_disk` does: streams of Arrow's, and a record of them."""
    folder.mkdir(parents=True)
    table = pa.table({"n": range(8 * len(names)), "text": sum(map(texts, names), [])})
    for part in range(2):
        with pa.OSFile(str(folder / f"data-0000{part}-of-00002.arrow"), "wb") as out:
            with pa.ipc.new_stream(out, table.schema) as stream:
                stream.write_table(table.slice(part * 5, 5 if part == 0 else None), 3)
    files = [{"filename": f"data-0000{part}-of-00002.arrow"} for part in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize("names", [("train", "test"), ("train", "test", "validation")])
def test_a_saved_dataset_becomes_a_corpus_with_its_own_sides(names, tmp_path):
    for name in names:
        saved(tmp_path / "d" / name, [name, "both"])
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": names}))
    found = splits(tmp_path / "d")
    domains = {"web": {"train": found.train, "held_out": found.held_out}}
    done = build(tmp_path / "c", name="c", domains=domains, workers=1)
    text = lambda *names: [t.encode() for name in names for t in texts(name)]
    assert documents(done.corpus, "web", "train") == text("train")
    # What is held out and trained on too is held out.
    assert documents(done.corpus, "web", "held_out") == text(names[-1], "both")
    assert (done.documents, done.duplicates) == (32, 8)
    assert found.words == (
        ("split test of " + str(tmp_path / "d") + " not read",) * (len(names) - 2)
    )
    alone = splits(tmp_path / "d" / "train")
    assert (len(alone.train), alone.held_out, alone.words) == (2, [], ())


def test_files_of_arrow_with_an_index_and_of_other_columns_are_read_or_named(tmp_path):
    from data.sources import Fault, Reading
    from data.sources import texts as read

    table = pa.table({"text": pa.array(["a", None, "b"] * 50).dictionary_encode()})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as out:
        out.write_table(table)
    found = list(read(tmp_path / "x.arrow", Reading()))
    assert found[:3] == [b"a", Fault("no field 'text'", "row 2"), b"b"] and len(found) == 150
    assert list(read(tmp_path / "x.arrow", Reading("body"))) == [Fault("no field 'body'")]
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "x.arrow").read_bytes()[:-40])
    (tmp_path / "rubbish.arrow").write_bytes(b"rubbish, and more of it")
    for name in ("cut", "rubbish"):
        [fault] = read(tmp_path / f"{name}.arrow", Reading())
        assert fault.reason.startswith("unreadable (")
    table = pa.table({"text": np.arange(3)})
    with pa.ipc.new_stream(str(tmp_path / "n.arrow"), table.schema) as out:
        out.write_table(table)
    assert list(read(tmp_path / "n.arrow", Reading())) == [Fault("field 'text' is no text")]


def test_a_subset_is_chosen_by_its_name(tmp_path):
    header = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("en", "de")
    )
    write(tmp_path, Layout(("en/a.jsonl", "de/a.jsonl"), readme=header))
    assert splits(tmp_path, "de").train == [tmp_path / "de/a.jsonl"]
    for subset, got in (("", "which has 2 subsets"), ("fr", ":fr")):
        with pytest.raises(Refused, match=f"{got}; accepted: .*:SUBSET of en, de"):
            splits(tmp_path, subset)
    (tmp_path / "README.md").write_text(
        f"---\n{header}  default: true\n---\n".replace("data_files: de/*.jsonl", "data_dir: de")
    )
    assert splits(tmp_path).train == [tmp_path / "de/a.jsonl"]


@pytest.mark.parametrize(
    ("files", "readme", "message"),
    [
        (("test.jsonl",), "", "with the splits test; accepted: a dataset with a split for train"),
        (("notes.md",), "", "with the splits none"),
        (("train/test/a.jsonl",), "", "in the splits train and test"),
        (("a.jsonl",), "configs:\n- data_files: b/*\n", "names b/.; accepted: files in it"),
        (("a.jsonl",), "configs:\n- data_files: hf://x/a\n", "names hf://x/a"),
        (("a.jsonl",), "configs: [\n", "a header of YAML"),
    ],
)
def test_what_is_no_dataset_is_refused_in_one_line(files, readme, message, tmp_path):
    write(tmp_path, Layout(files, readme=readme))
    with pytest.raises(Refused, match=message) as refused:
        splits(tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(Refused, match=":a; accepted: "):
        splits(tmp_path, "a") if not readme else splits(tmp_path / "train", "a")
