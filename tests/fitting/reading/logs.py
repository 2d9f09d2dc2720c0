"""A folder of TensorBoard files from a few rows, for tests."""

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def tensorboard(folder, names, rows) -> None:
    """Writes a run for each row, named by its first cell: a worse value and then the row's own."""
    for run, *cells in rows:
        writer = EventFileWriter(str(folder / run))
        for step, factor in ((1, 2.0), (2, 1.0)):
            values = [
                Summary.Value(tag=name, simple_value=factor * float(cell))
                for name, cell in zip(names[1:], cells, strict=True)
            ]
            writer.add_event(Event(step=step, wall_time=float(step), summary=Summary(value=values)))
        writer.close()
