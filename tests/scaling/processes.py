"""A worker in a process of its own, to be killed and started again: run with -m."""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import tests.conftest  # noqa: F401 — the same settings as in the tests.

SEEDS = 3  # Trunks in the plan that several workers share.
LEASE_SECONDS = 4.0


def main() -> None:
    """Trains one or more kinds of study into stores; may kill itself at a step.

    With --gate it is a worker of several on one store: --together of them wait for each other
    there, and it prints the segments that it finished.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus")
    parser.add_argument("--stores")
    parser.add_argument("--kinds")
    parser.add_argument("--kill-at", type=int, default=None)
    parser.add_argument("--terminate-at", type=int, default=None)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--mesh", default="data:1")
    parser.add_argument("--members", type=int, default=1, help="seeds, trained in fleets")
    args = parser.parse_args()
    import jax

    if args.coordinator:
        jax.distributed.initialize(args.coordinator, 2, args.process)
    from data import open_corpus
    from scaling import Evaluation, Stopped, Store, Worker, make_mesh, plan
    from scaling.leases import Leases
    from scaling.progress import Silent
    from scaling.schedule import in_fleets
    from scaling.sharing import Sharing
    from tests.corpora import seeds, study_runs

    class Kill(Silent):
        steps = 0

        def update(self, segment, step, loss, speed):
            """Dies, as by a power cut, once so many steps have been seen."""
            self.steps = self.steps + 4
            if args.kill_at is not None and self.steps >= args.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if args.terminate_at is not None and self.steps >= args.terminate_at:
                os.kill(os.getpid(), signal.SIGTERM)

    import scaling.train

    scaling.train.DISPATCH_STEPS = 4
    corpus = open_corpus(args.corpus)
    for kind in args.kinds.split(","):
        runs, copies = study_runs(kind, corpus), SEEDS if args.gate else args.members
        worker = Worker(
            plan(seeds(runs, copies) if copies > 1 else runs),
            Store.at(f"{args.stores}/{kind}"),
            corpus,
            Evaluation(128),
            make_mesh(args.mesh),
            checkpoint_seconds=0.0 if args.kill_at else 1e9,
            progress=Kill(),
            way=in_fleets(lambda program: args.members) if args.members > 1 else None,
        )
        if not args.gate:
            print(json.dumps({kind: worker.run()}), flush=True)
            continue
        with Leases(worker.store, seconds=LEASE_SECONDS) as leases:
            worker.way = sharing = Sharing(leases)
            signal.signal(signal.SIGTERM, sharing.stop)
            (args.gate / str(os.getpid())).touch()
            while len(list(args.gate.iterdir())) < args.together:
                time.sleep(0.02)
            try:
                worker.run()
            except Stopped as stopped:
                print(json.dumps({"stopped": str(stopped)}), flush=True)
            print(json.dumps({"finished": sharing.trained}), flush=True)
    if args.coordinator:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main()
