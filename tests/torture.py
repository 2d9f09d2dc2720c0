"""What a store must bear: kills, signals, full disks and damage, with the tables bit-equal after.

`make torture` runs all of it; `tests/test_torture.py` a short form (`tests.stand`).
"""

import argparse
import ctypes
import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd

from tests.stand import (
    LEASE,
    LIMIT,
    TIMES,
    Stand,
    as_whole,
    ended,
    lines,
    no_traceback,
    stand_at,
    table,
    whole,
)


def kills(stand: Stand, count: int) -> None:
    """Kills runs at random moments, until so many were hit; each store is then run to its end."""
    began = time.monotonic()
    reference = stand.run("run", stand.folder / "timed")
    assert reference.code == 0, reference.said
    lasts, hit = time.monotonic() - began, 0
    while hit < count:
        store = stand.folder / f"kills-{hit}"
        for _ in range(min(8, count - hit)):
            child = stand.start("run", store)
            if not child.wait(stand.rng.uniform(0.05, 0.95) * lasts):
                hit += child.signal(signal.SIGKILL)
                stand.count("SIGKILL")
                child.wait(LIMIT)
            no_traceback(stand, child, "a killed run")
            if child.code == 0:
                break
        ended(stand, store, "after kills")


def beside(stand: Stand) -> None:
    """Runs two studies at once that share segments; each ends as it would have alone."""
    store, longer = stand.folder / "beside", ("--config.steps=(8,16,24)", "--as=longer")
    alone = stand.folder / "longer"
    child = stand.run("run", alone, *longer)
    assert child.code == 0, child.said
    pair = [stand.start("run", store), stand.start("run", store, *longer)]
    for child in pair:
        stand.expect(child.wait(LIMIT) and child.code == 0, f"a run beside another: {child.said}")
        no_traceback(stand, child, "a run beside another")
    stand.count("pair of runs")
    path = "studies/longer/runs.csv"
    found, expected = (pd.read_csv(s / path).drop(columns=TIMES) for s in (store, alone))
    stand.expect(found.equals(expected), "a run beside another: another table")
    stand.expect(table(store).equals(table(whole(stand))), "a run beside another: another table")
    stand.expect(lines(store) == lines(alone), "a run beside another: other lines")
    shutil.rmtree(store)
    shutil.rmtree(alone)


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGSTOP)


def signals(stand: Stand, count: int, workers: int = 3) -> None:
    """Sends signals of all kinds to workers on one store; one that is stopped wakes up too late."""
    sent = 0
    while sent < count:
        store = stand.folder / f"signals-{sent}"
        team = [stand.start("work", store) for _ in range(workers)]
        asleep: dict[int, float] = {}
        while not all(child.poll() for child in team) and sent < count:
            time.sleep(stand.rng.uniform(0.2, 0.8))
            place, number = stand.rng.randrange(workers), stand.rng.choice(SIGNALS)
            for sleeper, since in list(asleep.items()):
                if time.monotonic() - since > 2.5 * LEASE:
                    team[sleeper].signal(signal.SIGCONT)
                    del asleep[sleeper]
            if place not in asleep and team[place].signal(number):
                sent += 1
                stand.count(signal.Signals(number).name)
                if number == signal.SIGSTOP:
                    asleep[place] = time.monotonic()
            if team[place].poll() and team[place].code != 0:
                no_traceback(stand, team[place], "a worker")
                team[place] = stand.start("work", store)
        for child in team:
            child.signal(signal.SIGCONT)
            stand.expect(child.wait(LIMIT), "a worker hangs")
            no_traceback(stand, child, "a worker")
        ended(stand, store, "after signals")


def mounted(folder: Path, size: int) -> bool:
    """Mounts a small file system, or says that it is not allowed here."""
    folder.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size}".encode()
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) == 0


def unmount(folder: Path) -> None:
    """Unmounts it."""
    ctypes.CDLL(None).umount2(os.fsencode(folder), 2)


def full_disks(stand: Stand, count: int) -> None:
    """Runs on file systems that become full; with more room the same command goes on."""
    size = sum(file.stat().st_blocks * 512 for file in whole(stand).rglob("*") if file.is_file())
    for number in range(count):
        disk = stand.folder / f"disk-{number}"
        if not mounted(disk, int(size * (0.05 + 0.9 * number / count)) // 4096 * 4096):
            print("  SKIPPED: full disks; small file systems cannot be mounted here")
            return
        try:
            child = stand.run("run", disk / "runs")
            no_traceback(stand, child, "a full disk")
            if child.code != 0:
                stand.count("full disk")
                said = [line for line in child.said.splitlines() if line.startswith("espalier: ")]
                one = len(said) == 1 and "No space left on device" in said[0]
                stand.expect(one, f"a full disk is told as: {child.said[-300:]}")
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mount(b"tmpfs", os.fsencode(disk), b"tmpfs", 32, b"size=256m")  # Remounted.
            ended(stand, disk / "runs", "after a full disk", states=False)
        finally:
            unmount(disk)


def flip(file: Path, other: Path, rng: random.Random) -> None:
    """Flips one bit."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, other: Path, rng: random.Random) -> None:
    """Cuts a file in half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path, other: Path, rng: random.Random) -> None:
    """Leaves a file without content."""
    file.write_bytes(b"")


def delete(file: Path, other: Path, rng: random.Random) -> None:
    """Deletes a file."""
    file.unlink()


def swap(file: Path, other: Path, rng: random.Random) -> None:
    """Puts a sound file of the same kind, of another place, in a file's place."""
    shutil.copyfile(other, file)


DAMAGES = (flip, truncate, empty, delete, swap)

# Kinds of files → where they lie. A deleted file of those in SILENT leaves nothing to tell by.
KINDS = {
    "done.json": "segments/*/done.json",
    "spec.json": "segments/*/spec.json",
    "metrics.jsonl": "segments/*/metrics.jsonl",
    "eval.jsonl": "segments/*/eval.jsonl",
    "a state's sums": "segments/*/checkpoint/*/sums.json",
    "a state's arrays": "segments/*/checkpoint/*/state/d/*",
    "a state's arrays by process": "segments/*/checkpoint/*/state/ocdbt.process_0/d/*",
    "a state's manifest": "segments/*/checkpoint/*/state/manifest.ocdbt",
    "a state's layout": "segments/*/checkpoint/*/state/_METADATA",
    "a state's meta data": "segments/*/checkpoint/*/meta/metadata",
    "a state's own record": "segments/*/checkpoint/*/_CHECKPOINT_METADATA",
    "a study's record": "studies/*/study.json",
}
SILENT = {("done.json", "delete"), ("spec.json", "delete"), ("a study's record", "delete")}
USED_BY_GROWTH = "--config.evaluation_tokens=256"  # Goes on from the states that are kept.


def damages(stand: Stand, cases) -> None:
    """Damages files of some kinds in some ways: it is told, and all is as it was after a run."""
    grown = stand.folder / "whole-grown"
    shutil.copytree(whole(stand), grown)
    child = stand.run("run", grown, USED_BY_GROWTH, "--as=other")
    assert child.code == 0, child.said
    expected = pd.read_csv(grown / "studies/other/runs.csv").drop(columns=TIMES)
    for kind, way in cases:
        store = stand.folder / "damaged"
        shutil.copytree(whole(stand), store)
        files = sorted(store.glob(KINDS[kind]))
        file = stand.rng.choice(files)
        other = next((f for f in files[::-1] if f.read_bytes() != file.read_bytes()), None)
        if way is swap and other is None:
            other = next(store.glob("segments/*/spec.json"))
        way(file, other, stand.rng)
        stand.count(f"{way.__name__}")
        what = f"{kind}, {way.__name__}"
        used = kind.startswith("a state") and file.is_relative_to(store / "segments")
        child = stand.run("run", store, *([USED_BY_GROWTH, "--as=other"] if used else []))
        no_traceback(stand, child, what)
        stand.expect(child.code == 0, f"{what}: exit code {child.code}: {child.said[-300:]}")
        named = any(
            str(path) in child.said for path in (file, *list(file.parents)[:4]) if path != store
        )
        if (kind, way.__name__) not in SILENT:
            stand.expect(named, f"{what}: not named: {child.said[-300:]}")
        if used:
            found = pd.read_csv(store / "studies/other/runs.csv").drop(columns=TIMES)
            stand.expect(found.equals(expected), f"{what}: another table")
        else:
            as_whole(stand, store, what)
        shutil.rmtree(store)


SHORT = (("metrics.jsonl", flip), ("a state's arrays", swap))
SHORT_CORPUS = (("corpus.json",), (flip,))
CORPUS_FILES = ("corpus.json", "low.train.bin", "high.held_out.bin")


def damaged_corpora(stand: Stand, names=CORPUS_FILES, ways=DAMAGES) -> None:
    """Damages a corpus in every way: it is refused by the name of its folder, in one line."""
    sound = stand.corpus
    for name, way in itertools.product(names, ways):
        stand.corpus = stand.folder / "corpus"
        shutil.copytree(sound, stand.corpus)
        way(stand.corpus / name, sound / "low.held_out.bin", stand.rng)
        stand.count(f"corpus {way.__name__}")
        child = stand.run("plan", stand.folder / "none")
        told = child.code == 2 and child.said.count("\n") == 1 and str(stand.corpus) in child.said
        stand.expect(told, f"corpus {name}, {way.__name__}: {child.code} {child.said[-300:]}")
        shutil.rmtree(stand.corpus)
        stand.corpus = sound


def main() -> int:
    """Runs everything, or what is asked for, and says what was found wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=40)
    parser.add_argument("--disks", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=5, help="of runs at once")
    parser.add_argument("--short", action="store_true", help="a little of everything")
    args = parser.parse_args()
    if args.short:
        args.kills, args.signals, args.disks, args.pairs = 2, 2, 1, 0
    began = time.monotonic()
    with stand_at() as stand:
        print("damage", flush=True)
        damages(stand, SHORT if args.short else itertools.product(KINDS, DAMAGES))
        damaged_corpora(stand, *(SHORT_CORPUS if args.short else ()))
        print("full disks", flush=True)
        full_disks(stand, args.disks)
        print("kills", flush=True)
        kills(stand, args.kills)
        print("two runs at once", flush=True)
        for _ in range(args.pairs):
            beside(stand)
        print("signals over three workers", flush=True)
        signals(stand, args.signals, workers=2 if args.short else 3)
        counts = ", ".join(f"{count} × {kind}" for kind, count in stand.counts.items())
        print(f"{counts}; {len(stand.faults)} faults; {time.monotonic() - began:.0f} s")
        return 1 if stand.faults else 0


if __name__ == "__main__":
    sys.exit(main())
