"""Tasks of a build on a Ray cluster, in place of processes of this machine."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.command.launchers.ray import cluster
from refused import Refused

RETRIES = 10  # Of a task whose node or process is lost; each does seconds of work.


@contextlib.contextmanager
def tasks_of_ray(workers: int | None) -> Iterator[Callable]:
    """Gives `run(function, items)`, which yields (position, result) as they are done.

    `function`, which may be a `partial`, and the items may hold paths, relative ones too: every
    node sees them as this process does. A task takes a CPU, and at most `workers` run at once. One
    that is lost with its node is done again on another.

    Raises:
      Refused: as `cluster`, a node that does not see a path, or a task that is lost each time.
    """
    with cluster() as ray:
        task = ray.remote(at).options(num_cpus=1, max_retries=RETRIES)

        def run(function: Callable, items: Sequence) -> Iterator[tuple[int, object]]:
            shared, left, waiting = ray.put(function), enumerate(items), {}
            try:
                while True:
                    # More than there are CPUs: a cluster that grows by itself sees what waits.
                    most = workers or 2 * int(ray.cluster_resources().get("CPU", 1))
                    for number, item in itertools.islice(left, max(0, most - len(waiting))):
                        waiting[task.remote(os.getcwd(), shared, item)] = number
                    if not waiting:
                        return
                    for done in ray.wait(list(waiting))[0]:
                        yield waiting.pop(done), result(ray, done)
            finally:
                for lost in waiting:
                    ray.cancel(lost, force=True)

        yield run


def at(folder: str, function: Callable, item: object) -> object:
    """Does one task in a folder, on whichever node.

    Raises:
      Refused: the folder or a path of the task is not there.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # A task has one CPU.
    given = getattr(function, "args", ())
    for path in (Path(folder), *paths([given, item])):
        if not (Path(folder) / path).exists():
            got = f"a node ({os.uname().nodename}) without {path}"
            raise Refused("--on=ray", got, "nodes that see the files and the corpus's folder")
    os.chdir(folder)
    return function(item)


def paths(found: object) -> Iterator[Path]:
    """Yields the paths in an item, however deep in lists and tuples."""
    if isinstance(found, Path):
        yield found
    elif isinstance(found, list | tuple):
        for part in found:
            yield from paths(part)


def result(ray, done) -> object:
    """Returns what a task gave, or raises what it raised; `Refused` where it was lost each time."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        got = f"a task lost {RETRIES + 1} times ({' '.join(str(error).split())[:160]})"
        accepted = "nodes with enough memory; the same command goes on"
        raise Refused("--on=ray", got, accepted) from None
