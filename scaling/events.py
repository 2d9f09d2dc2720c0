"""TensorBoard files, written with tensorboard's own writer."""

import re
from collections.abc import Iterable

from etils import epath

from scaling.labels import words
from scaling.plan import Plan

# Keys of a metrics line that are not curves.
NOT_CURVES = ("step", "tokens", "seconds", "batch_tokens")


def write_events(folder: epath.Path, records: Iterable[dict], replace: bool = False) -> None:
    """Writes metrics lines as scalars over training tokens; nested values become tags with a slash.

    `replace` deletes the folder's event files first.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = epath.Path(folder)
    if replace and folder.exists():
        folder.rmtree()
    writer = EventFileWriter(str(folder))
    for record in records:
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in curves(record)
            if value is not None
        ]
        wall = record.get("seconds", 0.0)
        writer.add_event(
            Event(step=record["tokens"], wall_time=wall, summary=Summary(value=values))
        )
    writer.close()


def folder_name(plan: Plan, index: int) -> str:
    """Names a run's folder by its place in the plan, its labels, tokens and seed."""
    run = plan.runs[index]
    cells = plan.cells(plan.segments[run.identity])
    said = words({name: (value,) for name, value in cells.items()}) or f"width {run.model.width}"
    parts = [f"{index:03d}", *said.split("  "), f"{run.tokens / 1e6:.2f}M", f"seed {run.seed}"]
    return "-".join(re.sub(r"[^\w.±×]+", "_", part).strip("_") for part in parts)


def curves(record: dict) -> Iterable[tuple[str, float]]:
    """Yields (tag, value) of a metrics or evaluation line."""
    for key, value in record.items():
        if key in NOT_CURVES or isinstance(value, str):
            continue
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", x) for name, x in value.items())
        else:
            yield key, value
