"""A trace of some steps in the middle of training, for TensorBoard's profiler or Perfetto."""

from collections.abc import Callable
from pathlib import Path

import jax

from refused import Refused

# The first steps of a segment still fill caches; those after it are traced. Each is a dispatch of
# its own while the trace is taken, which cuts the segment elsewhere and changes no number.
SKIPPED = 3
STEPS = 20  # Bounds the trace: some hundred operations a step and layer.
NAME = "train step"  # Of a step's event; TensorBoard's profiler groups operations by it.


class Trace:
    """Traces up to `STEPS` steps of one segment or fleet into a folder, once; no folder: nothing.

    `file` is then the trace that ui.perfetto.dev opens; `tensorboard --logdir` shows the folder
    where the profiler's plug-in (`xprof`) is installed.

    Raises:
      Refused: a folder that cannot be written on this machine.
    """

    def __init__(self, folder: str | None = None):
        self.folder, self.over = folder, folder is None
        self.skipped = self.traced = 0
        self.file: Path | None = None
        if folder is None:
            return
        if "://" in folder or not folder:
            raise Refused("--profile", folder or "nothing", "a folder on this machine")
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused("--profile", folder, f"a folder to write ({error.strerror})") from None

    def cut(self, count: int) -> int:
        """Returns how many of the next `count` steps one dispatch takes."""
        return count if self.over else 1

    def dispatch(self, step: int, take: Callable):
        """Returns `take()`, which trains from a step on; traced where the turn has come."""
        if self.over:
            return take()
        if self.skipped < SKIPPED:
            self.skipped += 1
            return jax.block_until_ready(take())
        if self.traced == 0:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python's own calls would be most of the file.
            jax.profiler.start_trace(
                self.folder, create_perfetto_trace=True, profiler_options=options
            )
        self.traced += 1
        with jax.profiler.StepTraceAnnotation(NAME, step_num=step):
            done = jax.block_until_ready(take())
        if self.traced == STEPS:
            self.close()
        return done

    def close(self) -> None:
        """Ends the trace where a segment ends; one that ended too soon leaves it to the next."""
        self.skipped = 0
        if self.over or not self.traced:
            return
        self.over = True
        jax.profiler.stop_trace()
        found = Path(self.folder).glob("plugins/profile/*/perfetto_trace.json.gz")
        self.file = max(found, key=lambda file: file.stat().st_mtime)
