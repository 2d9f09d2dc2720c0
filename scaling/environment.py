"""Where a segment was trained: device, versions and commit, for its record."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import subprocess
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

# What decides whether sums are taken in the same order; a resume under another one warns.
BIT_EXACT_UNDER = ("device", "devices", "cpus", "jaxlib")


def visible_cpus() -> int:
    """Returns how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@functools.cache
def environment() -> dict:
    """Describes device, process count, visible CPUs, versions, and the checkout's commit."""
    folder = Path(__file__).parent
    # An installed copy may lie in a repository of a user's own, whose commit says nothing of ours.
    checkout = (folder.parent / "setup.cfg").exists()
    git = lambda *args: subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, check=False
    )
    found = {"commit": None, "dirty": None}
    with contextlib.suppress(OSError):
        if checkout:
            commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
            found = {"commit": commit.stdout.strip() or None, "dirty": bool(status.stdout.strip())}
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpus": visible_cpus(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        **found,
    }


def code() -> str:
    """Returns a digest of the files of models and training, by which what they found is kept."""
    root = Path(__file__).resolve().parents[1]
    files = sorted([*root.glob("models/*.py"), *root.glob("scaling/**/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def differences(recorded: dict) -> list[str]:
    """Lists where this process differs from a recorded environment in what bit-equality needs."""
    here = environment()
    return [
        f"{name} {recorded.get(name)} → {here[name]}"
        for name in BIT_EXACT_UNDER
        if recorded.get(name) != here[name]
    ]


def compilation_cache(folder: Path) -> None:
    """Keeps compiled programs on disk, so that a second process compiles nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
