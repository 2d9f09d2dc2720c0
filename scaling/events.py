"""TensorBoard files, written with tensorboard's own writer."""

from collections.abc import Iterable

from etils import epath

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


def curves(record: dict) -> Iterable[tuple[str, float]]:
    """Yields (tag, value) of a metrics or evaluation line."""
    for key, value in record.items():
        if key in NOT_CURVES or isinstance(value, str):
            continue
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", x) for name, x in value.items())
        else:
            yield key, value
