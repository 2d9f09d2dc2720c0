"""Several processes that train one run: how they meet, agree, and end together.

JAX's coordination service, kept by process 0, lets them find each other and watches over them. A
process that dies is noticed at once by those whose collectives run over TCP, as on CPUs, and by its
missing heartbeats otherwise. Collectives with it raise an error then, or never return, and soon the
service's client aborts the process, as it does at once where process 0 itself is lost. Either way
the process ends here, with one line and the exit code LOST; the store is at its last checkpoint.
"""

import contextlib
import ctypes
import hashlib
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from refused import Refused

LOST = os.EX_TEMPFAIL  # "The user is invited to retry", sysexits.h.
HEARTBEAT_SECONDS = 60  # Silence after which a process counts as lost, where no collective fails.
END_SECONDS = 10  # How long a process that is refused waits for the others to say the same.
FATAL = "Terminating process because the JAX distributed service"
# What errors of collectives and of barriers say when it is the other process that failed.
OTHERS = re.compile(r"gloo|nccl|rccl|coordination|barrier|heartbeat|unavailable", re.IGNORECASE)


def check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Looks at how several processes are asked for; connects to nothing.

    Raises:
      Refused: a number without a coordinator, one out of range, or a coordinator not host:port.
    """
    given = {"--processes": processes, "--process": process}
    if coordinator is None or coordinator == "auto":
        for name, value in given.items():
            if value is not None:
                accepted = "--coordinator=HOST:PORT, an address of process 0, beside it"
                raise Refused(name, value, accepted)
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        accepted = "HOST:PORT, an address of process 0, as in 10.0.0.1:8476; or auto"
        raise Refused("--coordinator", coordinator, accepted)
    if processes is None or processes < 1:
        raise Refused("--processes", processes, "how many there are, 1 or more")
    if process is None or not 0 <= process < processes:
        raise Refused("--process", process, f"the number of this one, from 0 to {processes - 1}")


@contextlib.contextmanager
def joined(
    coordinator: str | None, processes: int | None, process: int | None, seconds: float = 300.0
) -> Iterator[None]:
    """Is one of several processes inside, or a process alone where there is no coordinator.

    `coordinator` is host:port of process 0, or "auto" where the cluster says who is who; `seconds`
    is how long the others are waited for. With several processes an error inside ends this one on
    the spot, since an orderly end waits for all.

    Raises:
      Refused: what `check` refuses, or a coordinator that cannot be reached.
    """
    check(coordinator, processes, process)
    if coordinator is None:
        yield
        return
    if coordinator != "auto":
        free(coordinator) if process == 0 else reach(coordinator, seconds)
    ending = Ending()
    try:
        ending.reason = f"not all processes were there within {seconds:g} s"
        meet(coordinator, processes, process, seconds)
        barrier("met")  # Devices meet here for the first time, while no process is far behind.
        ending.reason = "another process is gone"
        yield
        jax.distributed.shutdown()
    except BaseException as error:  # noqa: BLE001 — whatever it is, the others must not wait.
        ending.leave(error)
    finally:
        ending.close()


def meet(coordinator: str, processes: int | None, process: int | None, seconds: float) -> None:
    """Connects to the coordinator and waits for the other processes."""
    # SIGTERM is this command's own to handle.
    jax.config.update("jax_enable_preemption_service", False)
    limits = dict(
        initialization_timeout=max(1, round(seconds)), heartbeat_timeout_seconds=HEARTBEAT_SECONDS
    )
    if coordinator == "auto":
        try:
            jax.distributed.initialize(**limits)
        except ValueError as error:  # Of a cluster that JAX does not know.
            accepted = f"HOST:PORT, --processes and --process here ({error})"
            raise Refused("--coordinator", coordinator, accepted) from None
        return
    jax.distributed.initialize(coordinator, processes, process, **limits)


def free(coordinator: str) -> None:
    """Looks whether process 0 can listen at its port; where it cannot, JAX may crash.

    Raises:
      Refused: the port is taken.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    address = ("", int(coordinator.rpartition(":")[2]))
    try:
        socket.create_server(address, family=family, dualstack_ipv6=both).close()
    except OSError as error:
        accepted = f"a port that is free in process 0 ({error})"
        raise Refused("--coordinator", coordinator, accepted) from None


def reach(coordinator: str, seconds: float) -> None:
    """Waits until process 0 listens: JAX would abort the process where it never does.

    Raises:
      Refused: it did not, for so long.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                accepted = f"where process 0 listens; none within {seconds:g} s ({error})"
                raise Refused("--coordinator", coordinator, accepted) from None
        time.sleep(0.2)


def any_of(*flags: bool) -> list[bool]:
    """Says of each flag whether it is set in any process; all processes call it, and agree."""
    if jax.process_count() == 1:
        return list(flags)
    return multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist()


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def compile_together(function, *inputs) -> None:
    """Compiles a jitted function in all processes before any of them calls it.

    Compiling may take one process far longer than another, and where devices meet in a program for
    the first time, on CPUs, those that are there wait for the others for 30 seconds only.
    """
    if jax.process_count() > 1:
        function.lower(*inputs).compile()
        barrier("compiled")


def agree(store: epath.Path, task: str) -> None:
    """Waits until every process is here, with the same store and the same task before it.

    Raises:
      Refused: a store that not all processes see, or different tasks; in every process.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(task.encode()).digest(), np.uint8)
    if any_of((multihost_utils.broadcast_one_to_all(digest) != digest).any())[0]:
        accepted = "the same command, flags and store for each but --process"
        raise Refused("--processes", "different tasks", accepted)
    token = multihost_utils.broadcast_one_to_all(np.frombuffer(os.urandom(8), np.uint8))
    file = store / "processes" / token.tobytes().hex()  # A new name, which no cache knows.
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    barrier("store marked")
    unseen = any_of(not file.exists())[0]
    if jax.process_index() == 0:
        file.unlink()
        file.parent.rmdir()
    if unseen:
        raise Refused("--store", store, "a folder or bucket that every process sees")


class Ending:
    """How one of several processes ends when it cannot end in order.

    While one is in force, abort() ends the process with a line in place of a core dump if it is the
    coordination service's client that calls it; nothing public tells that client to do otherwise.
    Its last words, and the stack that it prints, are kept back from stderr for that.
    """

    def __init__(self):
        self.reason = ""
        self.first = threading.Lock()  # Of two threads that end the process, one speaks.
        self.fatal = threading.Event()
        self.held: list[str] = []
        self.plain, self.stderr = os.dup(2), sys.stderr
        sys.stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)  # Python goes on writing there itself.
        heard, said = os.pipe()
        os.dup2(said, 2)
        os.close(said)
        self.thread = threading.Thread(target=self.listen, args=(heard,), daemon=True)
        self.thread.start()
        self.libc = ctypes.CDLL(None)
        self.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self.aborted)
        self.libc.signal(signal.SIGABRT, self.handler)

    def listen(self, heard: int) -> None:
        """Passes on what libraries write to stderr, up to the client's last words."""
        with os.fdopen(heard, errors="replace") as lines:
            for line in lines:
                if self.held or FATAL in line:
                    self.held.append(line)
                    self.fatal.set()
                else:
                    os.write(self.plain, line.encode())

    def aborted(self, number: int) -> None:
        """Is the handler of SIGABRT, in whichever thread called abort()."""
        if self.fatal.wait(2.0):
            self.say_lost(self.reason)
        self.libc.signal(signal.SIGABRT, ctypes.c_void_p(0))  # Another's abort() goes on.

    def leave(self, error: BaseException) -> None:
        """Ends this process because of an error, without waiting for the others."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if isinstance(error, Refused):
            self.stop(f"espalier: {error}", 2, in_order=True)  # All are refused alike.
        if isinstance(error, KeyboardInterrupt):
            self.stop("espalier: interrupted; the same command goes on", 128 + signal.SIGINT)
        if isinstance(error, SystemExit):
            self.stop("", error.code if isinstance(error.code, int) else 1)
        cause = of_another(error)
        if cause is not None:
            self.say_lost(f"another process is gone ({first_line(cause)})")
        self.stop("".join(traceback.format_exception(error)).rstrip(), 1)

    def say_lost(self, reason: str) -> None:
        """Ends this process with one line that says why, and what can be done."""
        self.stop(
            f"espalier: {reason}; checkpoints and finished segments are in the store, and the same "
            "command goes on, with as many processes as there are then",
            LOST,
        )

    def stop(self, text: str, code: int, in_order: bool = False) -> None:
        """Writes a text and ends the process on the spot, or once the others end as well.

        The others are waited for for a while only: they may not know.
        """
        self.first.acquire()
        if text:
            os.write(self.plain, f"{text}\n".encode())
        if in_order:
            thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            thread.start()
            thread.join(END_SECONDS)
        os._exit(code)

    def close(self) -> None:
        """Gives stderr and abort() back."""
        self.libc.signal(signal.SIGABRT, ctypes.c_void_p(0))
        sys.stderr.close()
        sys.stderr = self.stderr
        os.dup2(self.plain, 2)  # The pipe ends with its last writer, and the thread with it.
        self.thread.join()


def of_another(error: BaseException | None) -> BaseException | None:
    """Returns the error among an error's causes that says another process failed, or None."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and OTHERS.search(str(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, cut to what one line holds."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
