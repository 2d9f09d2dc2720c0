"""Leases: which of several workers on one store is at which segment.

`<store>/leases/<segment id>` holds the token of the worker that trains the segment, and how long
its silence is borne; the file does not change while the lease lasts. `<store>/workers/<token>` is
the worker's pulse: a number that a thread of it raises, through long compilations too, and that
nobody else writes. A lease is stale when its owner's pulse has not moved for that long by the clock
of who looks on, so the clocks of two machines are never compared.

On a file system a lease is created with O_EXCL, and created or removed under a lock of the
kernel's, which a killed process cannot keep: of two workers that want a lease, or take over a stale
one, one wins, and nobody removes a lease that is another's. Object stores and file systems without
locks lack this: there a lease is written if none is seen and read back, and two workers can hold it
for a moment. That is wasted work, never a wrong result: finishing a segment is atomic and
idempotent.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from etils import epath

from scaling.store import Store, is_local, write_atomically

BEATS = 4  # Pulses per lease term: three may be late before anybody takes over.


class Lost(Exception):
    """Another worker has taken over the lease; what it holds must not be written to any more."""


def new_token() -> str:
    """Returns a token that no other worker has; host and process are for people."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@dataclass
class Leases:
    """One worker's leases on a store; as a context it has a pulse and ends without any lease.

    `seconds` is how long this worker's silence is borne by others.
    """

    store: Store
    seconds: float = 60.0
    owner: str = field(default_factory=new_token)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self):
        self.folder, self.workers = self.store.path / "leases", self.store.path / "workers"
        self.local = is_local(self.store.path)
        self.held: str | None = None
        self.checked = 0.0
        self.seen: dict[str, tuple[str | None, float]] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.beat, name="lease pulse", daemon=True)

    def __enter__(self) -> "Leases":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workers.mkdir(parents=True, exist_ok=True)
        write_atomically(self.workers / self.owner, "0")
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()
        self.release()
        self.bury(self.owner)

    def beat(self) -> None:
        """Raises the pulse until the worker ends."""
        count = 0
        while not self.ended.wait(self.seconds / BEATS):
            count += 1
            try:
                write_atomically(self.workers / self.owner, str(count))
            except OSError as error:  # A store out of reach for a while costs at most the lease.
                logging.warning("the pulse of worker %s was not written: %s", self.owner, error)

    def claim(self, id: str) -> bool:
        """Takes the lease of a segment if it is free or stale; says whether it is held now."""
        if not self.create(id):
            found = self.holder(id)
            if found is None or not self.stale(*found) or not self.remove(id, found[0]):
                return False
            logging.warning("lease of %s taken over from %s, silent too long", id, found[0])
            self.bury(found[0])
            if not self.create(id):
                return False
        self.held, self.checked = id, self.clock()
        return True

    def release(self) -> None:
        """Gives back the lease held, if any and if it is still this worker's."""
        if self.held is not None:
            self.remove(self.held, self.owner)
            self.held = None

    def check(self) -> None:
        """Looks, once per pulse at most, whether the lease held is still this worker's.

        Raises:
          Lost: it is not.
        """
        if self.held is None or self.clock() - self.checked < self.seconds / BEATS:
            return
        if not self.holds():
            raise Lost(f"the lease of {self.held} was taken over")
        self.checked = self.clock()

    def holds(self) -> bool:
        """Says whether the lease taken last is still this worker's."""
        found = self.holder(self.held) if self.held is not None else None
        return found is not None and found[0] == self.owner

    def clear(self, id: str) -> None:
        """Removes the lease of a finished segment, whoever held it: there is nothing to save."""
        found = self.holder(id)
        if found is not None and self.remove(id, found[0]):
            self.bury(found[0])

    def bury(self, owner: str) -> None:
        """Removes a worker's pulse; one that is alive after all writes it again."""
        if owner:
            (self.workers / owner).unlink(missing_ok=True)

    def holder(self, id: str) -> tuple[str, float] | None:
        """Returns the owner of a segment's lease and the silence borne; None where it is free.

        A file whose writer was killed before it was filled belongs to "", which has no pulse.
        """
        text = read(self.folder / id)
        if text is None:
            return None
        owner, _, seconds = text.partition(" ")
        return owner, float(seconds or self.seconds)

    def stale(self, owner: str, seconds: float) -> bool:
        """Says whether an owner's pulse has been seen not to move for so many seconds."""
        pulse, now = read(self.workers / owner) if owner else None, self.clock()
        before = self.seen.get(owner)
        if before is None or before[0] != pulse:
            self.seen[owner] = (pulse, now)
            return False
        return now - before[1] > seconds

    def create(self, id: str) -> bool:
        """Writes a lease where there is none; says whether it is this worker's."""
        file, text = self.folder / id, f"{self.owner} {self.seconds:g}"
        if not self.local:
            if file.exists():
                return False
            file.write_text(text)
            return read(file) == text
        with self.alone():  # Who removes leases never meets one that is still to be filled.
            try:
                handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w") as opened:
                opened.write(text)
        return True

    def remove(self, id: str, owner: str) -> bool:
        """Removes a lease if it is that owner's; says whether this call did."""
        with self.alone():
            found = self.holder(id)
            if found is None or found[0] != owner:
                return False
            (self.folder / id).unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other workers from changing leases meanwhile, where the file system can."""
        if not self.local:
            yield
            return
        with open(self.workers / ".lock", "w") as file:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def read(file: epath.Path) -> str | None:
    """Returns a file's text, None where there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text()
    return None
