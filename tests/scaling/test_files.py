"""Files: whole or not at all, on disk before they have a name, and nothing left of a failure."""

import os

import pytest
from etils import epath

from scaling import files
from scaling.files import free_bytes, remove, sweep, write_atomically


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = epath.Path(tmp_path) / "a.json"
    write_atomically(file, "one")
    write_atomically(file, b"two")
    assert file.read_text() == "two"

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "three")
    assert file.read_text() == "two" and [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: done.append("sync"))
    replace = type(epath.Path(tmp_path)).replace

    def named(self, target):
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", named)
    write_atomically(epath.Path(tmp_path) / "a", "x")
    assert done == ["sync", "name", "sync"]


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    for name in (f".done.json.{os.getpid()}", ".lock", "done.json", ".hidden.txt"):
        (tmp_path / name).touch()
    sweep(epath.Path(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "done.json", ".hidden.txt"}


def test_free_room_is_that_of_the_nearest_folder_that_is_there(tmp_path):
    assert free_bytes(epath.Path(tmp_path / "not" / "there")) > 0
    assert free_bytes(epath.Path("gs://bucket/runs")) is None


def test_removing_takes_files_folders_and_what_is_not_there(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("folder", "file", "nothing"):
        remove(epath.Path(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
