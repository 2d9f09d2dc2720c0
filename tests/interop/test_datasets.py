"""Splits of datasets' folders: those that the `datasets` library finds."""

import pytest

from data.datasets import splits
from data.sources import Reading, texts
from tests.data.datasets import LAYOUTS, write
from tests.interop.theirs import need

datasets = need("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")


def ours(files) -> list[str]:
    """Returns the texts of files."""
    return sorted(text.decode() for file in files for text in texts(file, Reading()))


def held_out(theirs) -> list[str]:
    """Returns the texts of their validation or test split; none without either."""
    name = "validation" if "validation" in theirs else "test"
    return sorted(theirs[name]["text"]) if name in theirs else []


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_has_their_splits(name, tmp_path):
    write(tmp_path / "d", LAYOUTS[name])
    theirs = datasets.load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    found = splits(tmp_path / "d")
    assert ours(found.train) == sorted(theirs["train"]["text"])
    assert ours(found.held_out) == held_out(theirs)


def test_what_they_save_is_read(tmp_path):
    write(tmp_path / "d", LAYOUTS["shards"])
    theirs = datasets.load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    theirs.save_to_disk(str(tmp_path / "saved"), num_shards={s: 2 for s in theirs})
    theirs["train"].save_to_disk(str(tmp_path / "alone"))
    found = splits(tmp_path / "saved")
    assert len(found.train) == 2 and ours(found.train) == sorted(theirs["train"]["text"])
    assert ours(found.held_out) == held_out(theirs)
    assert ours(splits(tmp_path / "alone").train) == sorted(theirs["train"]["text"])
