"""The command as one of several processes, to be ended at a step by a signal: run with -m."""

import argparse
import os
import signal
import sys

import tests.conftest  # noqa: F401 — the same settings as in the tests.


def main() -> int:
    """Runs the command with the arguments left over, in small dispatches.

    Any process but the first fails if it comes to write a record or a report.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--end-at", type=int)
    parser.add_argument("--by", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--process", type=int)
    args, rest = parser.parse_known_args()
    import scaling.train
    from experiments.command import main as command
    from experiments.command import opened, session
    from scaling import Store
    from scaling.progress import Silent

    class End(Silent):
        def update(self, segment, step, loss, speed):
            """Sends this process a signal once so many steps have been seen."""
            if args.end_at is not None and step >= args.end_at:
                os.kill(os.getpid(), getattr(signal, f"SIG{args.by}"))

    def forbidden(*args, **settings):
        raise AssertionError("a process that is not the first writes a record")

    if args.process:
        Store.begin = Store.finish = Store.records = forbidden
        session.report = session.write_table = session.write_report = forbidden
    session.progress = opened.Silent = End
    scaling.train.DISPATCH_STEPS = 8
    own = [] if args.process is None else [f"--process={args.process}"]
    return command.main(["espalier", *rest, *own])


if __name__ == "__main__":
    sys.exit(main())
