"""One piece of work beside training: it is waited for before the next, and its error is raised."""

import threading
from collections.abc import Callable


class Work:
    """What a thread does, and the error that it ended with."""

    def __init__(self, do: Callable[[], None]):
        self.do, self.error = do, None
        self.thread = threading.Thread(target=self.run, name="espalier-background")
        self.thread.start()

    def run(self) -> None:
        """Does it."""
        try:
            self.do()
        except BaseException as error:  # noqa: BLE001 — whoever waits is told.
            self.error = error


CURRENT: list[Work] = []  # At most one.


def start(do: Callable[[], None]) -> None:
    """Begins a piece of work once the one before has ended.

    Raises:
      Exception: what the one before ended with.
    """
    wait()
    CURRENT.append(Work(do))


def busy() -> bool:
    """Says whether it is still being done."""
    return any(work.thread.is_alive() for work in CURRENT)


def check() -> None:
    """Raises the error of a piece of work that has ended with one; waits for none."""
    if CURRENT and not busy():
        wait()


def wait() -> None:
    """Waits for the end of the work, if there is any, and raises the error that it ended with."""
    if CURRENT:
        CURRENT[0].thread.join()
        error = CURRENT.pop().error
        if error is not None:
            raise error
