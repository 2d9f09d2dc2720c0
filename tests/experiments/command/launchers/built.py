"""Corpora built on a Ray cluster of two nodes, one of which is lost in a task: run with -m.

Ray is in a process of its own, as in `launched`.
"""

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tests.conftest  # noqa: F401 — the same settings as in the tests.
from data import build as building
from data import shards
from data.build import Silent
from data.sources import texts
from experiments.command.launchers.tasks import tasks_of_ray
from refused import Refused
from tests.experiments.command.launchers.launched import SETTINGS

FEW_BYTES = 1 << 21  # Of a group: ten of 20 MB.
WAIT_SECONDS = 60
read_group = shards.read_group


def domains(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of the corpus."""
    return {"web": sorted((folder / "web").iterdir())}


def read_or_hang(work: Path, task: tuple) -> tuple:
    """Reads files; on the second node only in part, which the first one waits for."""
    import ray

    folder = work.parent
    second = ray.get_runtime_context().get_node_id() == (folder / "second").read_text()
    with open(folder / "log", "a") as log:
        log.write(f"{'second' if second else 'first'} {task[1][0].name}\n")
    if second:
        shards.texts = partial(part, folder / "hangs")
    ends = time.monotonic() + WAIT_SECONDS
    while not (second or (folder / "hangs").exists()):
        if time.monotonic() > ends:
            raise TimeoutError("the second node got no task")
        time.sleep(0.02)
    return read_group(work, task)


def part(mark: Path, file: Path, reading) -> Iterator[bytes]:
    """Yields a file's first texts, then waits for the end of its process."""
    yield from itertools.islice(texts(file, reading), 100)
    mark.touch()
    threading.Event().wait()


class Losing(Silent):
    """Removes the second node when the first group is read."""

    def __init__(self, cluster, second):
        self.cluster, self.second = cluster, second

    def advance(self, amount):
        if self.second:
            self.cluster.remove_node(self.second, allow_graceful=False)
            self.second = None


def lost(cluster, second, folder: Path) -> str:
    """Builds with a node that is lost in a task; returns the hash."""
    (folder / "second").write_text(second.node_id)
    building.read_group = read_or_hang
    try:
        shown = Losing(cluster, second)
        return built(folder, "lost", domains(folder), shown=shown)
    finally:
        building.read_group = read_group


def built(folder: Path, name: str, files: dict, **options) -> str:
    """Builds a corpus on Ray and returns its hash."""
    options |= {"workers": None, "tasks": tasks_of_ray}
    return building.build(folder / name, name=name, domains=files, **options).corpus.content_hash


def run(folder: Path) -> None:
    """Builds corpora of a folder's files and prints their hashes, and what is refused."""
    from ray.cluster_utils import Cluster

    shards.GROUP_BYTES = FEW_BYTES
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # Ray's sockets need short paths.
        # A node that is lost is told after a third of a second, not after fifteen.
        quick = {"health_check_period_ms": 100, "health_check_failure_threshold": 3}
        head = node | {"include_dashboard": False, "temp_dir": short, "_system_config": quick}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        second = cluster.add_node(**node)
        cluster.connect()
        try:
            print("lost", lost(cluster, second, folder))
            shards.GROUP_BYTES = 1 << 14
            few = {"web": [folder / "few.jsonl"]}
            print("bpe", built(folder, "bpe", few, tokenizer="bpe:300"))
            for path in ("nowhere.jsonl", "few.jsonl"):
                missing = partial(shards.read_group, folder / "no work folder")
                with tasks_of_ray(1) as tasks:
                    try:
                        list(tasks(missing, [[folder / path]]))
                    except Refused as error:
                        print("refused", error)
        finally:
            import ray

            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    os.environ.update(SETTINGS)
    run(parser.parse_args().folder)
