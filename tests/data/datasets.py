"""Layouts of datasets' folders: their files, and which texts stand on which side."""

import json
from pathlib import Path
from typing import NamedTuple


class Layout(NamedTuple):
    """Files by name, the train and held-out ones, the README's header, and files of no split."""

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    readme: str = ""
    others: tuple[str, ...] = ()


CONFIGS = """configs:
- config_name: default
  data_files:
  - split: train
    path: ["parts/b*.jsonl", "parts/a.jsonl"]
  - split: test
    path: more/*
"""

LAYOUTS = {
    "shards": Layout(
        ("data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"),
        ("data/validation-00000-of-00001.jsonl",),
        others=("data/test-00000-of-00001.jsonl", "extra/train.jsonl"),
    ),
    "folders": Layout(("train/a.jsonl", "train/b.jsonl"), ("val/a.jsonl",), others=("x.jsonl",)),
    "folder_names": Layout(("my-train-set/0.jsonl",), ("a.dev/1.jsonl",)),
    "files": Layout(("train.jsonl", "train_2.jsonl"), ("my_test.jsonl",), others=("b.jsonl",)),
    "evaluation": Layout(("in/training-1.jsonl",), ("in/evaluation-1.jsonl",)),
    "alone": Layout(("a.jsonl", "b/latest.jsonl")),
    "header": Layout(
        ("parts/a.jsonl", "parts/b1.jsonl", "parts/b2.jsonl"),
        ("more/x.jsonl",),
        f"license: mit\n{CONFIGS}",
        ("train.jsonl",),
    ),
    "no_configs": Layout(("train/a.jsonl",), ("test/a.jsonl",), "license: mit\n"),
}


def texts(name: str) -> list[str]:
    """Returns the texts of a file of that name."""
    return [f"{name} {number}" for number in range(8)]


def write(folder: Path, layout: Layout) -> None:
    """Writes a layout's files."""
    for name in (*layout.train, *layout.held_out, *layout.others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": text}) + "\n" for text in texts(name)]
        (folder / name).write_text("".join(lines))
    if layout.readme:
        (folder / "README.md").write_text(f"---\n{layout.readme}---\n# A dataset\n")
