"""Leases: which of several workers on one store is at which segment.

`<store>/leases/<segment id>` holds the token of the worker that trains the segment, and how long
its silence is borne; the file does not change while the lease lasts. `<store>/workers/<token>` is
the worker's pulse: a number that a thread of it raises, through long compilations too, and that
nobody else writes. A lease is stale when its owner's pulse has not moved for that long by the clock
of who looks on, so the clocks of two machines are never compared. On one machine it is stale at
once when its owner is dead: a worker holds a lock of the kernel's on its pulse.

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
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from scaling.files import is_local
from scaling.store import Store

BEATS = 4  # Pulses per lease term: three may be late before anybody takes over.
LONGEST = 86_400.0  # Seconds of silence that are borne at most, whatever a lease says.


class Lost(Exception):
    """Another worker has taken over the lease; what it holds must not be written to any more."""


def new_token() -> str:
    """Returns a token that no other worker has; host and process are for people."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def is_token(text: str) -> bool:
    """Says whether a text could be a worker's token, and so the name of its pulse."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,200}", text) is not None


def machine() -> str:
    """Names this machine since it was started, as far as the system tells."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


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
        self.held: set[str] = set()
        self.checked = 0.0
        self.seen: dict[str, tuple[str | None, float]] = {}
        self.pulse: int | None = None  # The open file of a pulse that is locked.
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.beat, name="lease pulse", daemon=True)

    def __enter__(self) -> "Leases":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workers.mkdir(parents=True, exist_ok=True)
        self.bury_the_dead()
        self.raise_pulse(0)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()
        with contextlib.suppress(OSError):  # Of a store that has vanished.
            self.release()
            self.bury(self.owner)
        if self.pulse is not None:
            os.close(self.pulse)

    def beat(self) -> None:
        """Raises the pulse until the worker ends."""
        count, told = 0, False
        while not self.ended.wait(self.seconds / BEATS):
            count += 1
            try:
                self.raise_pulse(count)
            except OSError as error:  # A store out of reach for a while costs at most the lease.
                if not told:
                    text = "the pulse of worker %s was not written: %s"
                    logging.warning(text, self.owner, error)
                told = True

    def raise_pulse(self, count: int) -> None:
        """Writes the pulse; on a file system into one file, under a lock that ends with us."""
        file = self.workers / self.owner
        if not self.local:
            file.write_text(str(count))
            return
        if self.pulse is None or not file.exists():  # Another may have buried us.
            before, self.pulse = self.pulse, os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
            if before is not None:
                os.close(before)
            self.locked = False
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(self.pulse, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.locked = True
        os.pwrite(self.pulse, f"{count} {machine() if self.locked else ''}".encode(), 0)

    def lives(self, owner: str) -> bool | None:
        """Says whether an owner on this machine has the lock on its pulse; None where unknown."""
        file = self.workers / owner
        pulse = read(file) if self.local and owner else None
        if pulse is None or pulse.partition(" ")[2] != machine():
            return None
        if owner == self.owner:
            return True
        try:
            with open(file) as opened:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return None

    def bury_the_dead(self) -> None:
        """Removes the leases and the pulses of workers of this machine that were killed."""
        for lease in self.folder.iterdir():
            owner = (self.holder(lease.name) or ("", 0))[0]
            if self.lives(owner) is False:
                self.remove(lease.name, owner)
        for file in self.workers.iterdir():
            if is_token(file.name) and self.lives(file.name) is False:
                self.bury(file.name)

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
        self.held.add(id)
        self.checked = self.clock()
        return True

    def release(self, ids: Iterable[str] | None = None) -> None:
        """Gives back leases held, all unless told, where they are still this worker's."""
        for id in list(self.held if ids is None else self.held.intersection(ids)):
            self.held.discard(id)
            self.remove(id, self.owner)

    def check(self, now: bool = False) -> None:
        """Looks, once per pulse at most or `now`, whether the leases held are this worker's.

        Raises:
          Lost: one is not.
        """
        if not self.held or (not now and self.clock() - self.checked < self.seconds / BEATS):
            return
        for id in self.held:
            if not self.holds(id):
                raise Lost(f"the lease of {id} was taken over")
        self.checked = self.clock()

    def holds(self, id: str) -> bool:
        """Says whether the lease of a segment is this worker's."""
        found = self.holder(id)
        return found is not None and found[0] == self.owner

    def clear(self, id: str) -> None:
        """Removes the lease of a finished segment: there is nothing to save.

        Who is known to live and holds it is at the segment for another study.
        """
        found = self.holder(id)
        if found is not None and not self.lives(found[0]) and self.remove(id, found[0]):
            self.bury(found[0])

    def bury(self, owner: str) -> None:
        """Removes a worker's pulse; one that is alive after all writes it again."""
        if owner:
            (self.workers / owner).unlink(missing_ok=True)

    def holder(self, id: str) -> tuple[str, float] | None:
        """Returns the owner of a segment's lease and the silence borne; None where it is free.

        A file whose writer was killed before it was filled, or that holds something else, belongs
        to "", which has no pulse.
        """
        text = read(self.folder / id)
        if text is None:
            return None
        owner, _, said = text.partition(" ")
        try:
            seconds = float(said)
        except ValueError:
            seconds = math.nan
        known = is_token(owner) and 0 < seconds < math.inf
        return owner if known else "", min(seconds, LONGEST) if known else self.seconds

    def stale(self, owner: str, seconds: float) -> bool:
        """Says whether an owner is dead, or its pulse was seen not to move for so many seconds."""
        if self.lives(owner) is False:
            return True
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
        return file.read_bytes().decode(errors="replace")
    return None
