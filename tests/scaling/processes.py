"""A worker in a process of its own, to be killed and started again: run with -m."""

import argparse
import json
import os
import signal

import tests.conftest  # noqa: F401 — the same settings as in the tests.


def main() -> None:
    """Trains one or more kinds of study into stores; may kill itself at a step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus")
    parser.add_argument("--stores")
    parser.add_argument("--kinds")
    parser.add_argument("--kill-at", type=int, default=None)
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--mesh", default="data:1")
    parser.add_argument("--members", type=int, default=1, help="seeds, trained in fleets")
    args = parser.parse_args()
    import jax

    if args.coordinator:
        jax.distributed.initialize(args.coordinator, 2, args.process)
    from data import open_corpus
    from scaling import Evaluation, Store, Worker, make_mesh, plan
    from scaling.fleet import in_fleets
    from scaling.progress import Silent
    from tests.corpora import seeds, study_runs

    class Kill(Silent):
        steps = 0

        def update(self, segment, step, loss, speed):
            """Dies, as by a power cut, once so many steps have been seen."""
            self.steps = self.steps + 4
            if args.kill_at is not None and self.steps >= args.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    import scaling.train

    scaling.train.DISPATCH_STEPS = 4
    corpus = open_corpus(args.corpus)
    for kind in args.kinds.split(","):
        worker = Worker(
            plan(seeds(study_runs(kind, corpus), args.members)),
            Store.at(f"{args.stores}/{kind}"),
            corpus,
            Evaluation(128),
            make_mesh(args.mesh),
            checkpoint_seconds=0.0 if args.kill_at else 1e9,
            progress=Kill(),
            way=in_fleets(lambda program: args.members) if args.members > 1 else None,
        )
        print(json.dumps({kind: worker.run()}), flush=True)
    if args.coordinator:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main()
