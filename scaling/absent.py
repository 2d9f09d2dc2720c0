"""Programs compiled for devices that are not there, each in a process of its own.

XLA compiles for a TPU on any machine that has `libtpu` (the extra `tpu`), for an NVIDIA GPU with
the CUDA plugin (the extra `gpu`). Only the child loads either: `libtpu` locks, and both take
threads and memory.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from data import cache_folder
from refused import Refused
from scaling.compiled import account
from scaling.devices import Target
from scaling.mesh import batched, make_mesh, replicated, state_shardings
from scaling.recipe import Recipe
from scaling.roofline import told
from scaling.runs import canonical
from scaling.state import abstract
from scaling.train import WINDOW_TYPE, Program, compiled

# What a process needs for each back end, by module, and the extra that installs it.
NEEDED = {
    "tpu": (("libtpu",), "tpu"),
    "cuda": (("jax_cuda13_plugin", "jax_plugins.xla_cuda13"), "gpu"),
}

# Quiet, no questions to a metadata server, and no lock between two such processes.
CHILD = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

# The least slice that libtpu describes, of which a smaller mesh takes the first devices.
LEAST = {1: "2x2", 2: "2x2", 3: "2x2x1"}

FULL = re.compile(r"Used ([\d.]+)([KMGT])(?:iB)? of", re.ASCII)  # Of XLA's message.


@dataclass(frozen=True)
class Job:
    """A program to compile: a recipe in batches of so many tokens, on a mesh of some devices."""

    recipe: Recipe
    batch_tokens: int
    mesh: str
    target: Target

    @property
    def key(self) -> str:
        """Names the result: by all that it depends on, the code of models and training included."""
        given = [canonical(self.recipe.static), self.batch_tokens, self.mesh, self.target.name]
        text = json.dumps([given, versions(self.target), code()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def missing(target: Target) -> str | None:
    """Returns the extra that compiling for some devices lacks, None where nothing is lacking."""
    modules, extra = NEEDED[target.device.platform]
    try:
        there = all(importlib.util.find_spec(name) for name in modules)
    except ModuleNotFoundError:
        there = False
    return None if there else extra


def versions(target: Target) -> list[str]:
    """Returns the versions of what compiles."""
    package = {"tpu": "libtpu", "cuda": "jax-cuda13-pjrt"}[target.device.platform]
    return [importlib.metadata.version(name) for name in ("jax", "jaxlib", package)]


def code() -> str:
    """Returns a digest of the files that decide what is compiled and how it is read."""
    root = Path(__file__).resolve().parents[1]
    files = sorted([*root.glob("models/*.py"), *root.glob("scaling/**/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def lowered(program: Program) -> jax.stages.Lowered:
    """Traces a training program for its mesh without a value on any device."""
    mesh, config, steps = program.mesh, program.config, program.dispatch_steps
    state = abstract(program.recipe)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        state_shardings(mesh, config, state),
    )
    whole = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=replicated(mesh))
    shape = (steps, program.sequences, config.context + 1)
    windows = jax.ShapeDtypeStruct(shape, WINDOW_TYPE, sharding=batched(mesh, 3, 1))
    rates = whole((steps,), np.float32)
    with jax.set_mesh(mesh):
        return compiled(program).lower(
            state, windows, rates, whole((), np.float32), whole((), np.int32)
        )


def result(job: Job) -> dict:
    """Returns what compiling a job found, from the cache where it was compiled before.

    Either `full`, the bytes that a device lacks the memory for, or memory by kind in bytes,
    `compile_seconds` of CPU time, `warnings` of the compiler, and what `roofline.told` tells.
    """
    file = cache_folder() / "compiled-for" / f"{job.key}.json"
    if file.exists():
        return json.loads(file.read_text())
    environment = os.environ | CHILD
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "scaling.absent"],
        input=pickle.dumps(job),
        env=environment,
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        last = said.strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"compiling for {job.target.name} failed: {last[0]}")
    found = json.loads(done.stdout.decode().splitlines()[-1])
    found["warnings"] = len(re.findall("nvoluntary full rematerialization", said))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def devices(target: Target) -> list:
    """Returns descriptions of the devices; only a child that loads what describes them asks.

    Raises:
      Refused: a slice that the library does not know.
    """
    from jax.experimental import topologies

    shape = "x".join(map(str, target.shape))
    if target.chips == 1:
        shape = LEAST[target.device.grid]
    try:
        known = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{target.device.name}:{shape}"
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        line = str(error).splitlines()[0]
        raise Refused("--for", target.name, f"a slice that libtpu knows ({line})") from None
    return list(known.devices)[: target.count]


def compile_job(job: Job) -> dict:
    """Compiles a job in this process."""
    mesh = make_mesh(job.mesh, devices(job.target))
    program = Program(recipe=job.recipe, batch_tokens=job.batch_tokens, mesh=mesh)
    began = time.process_time()
    try:
        done = lowered(program).compile()
    except jax.errors.JaxRuntimeError as error:
        used = FULL.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or used is None:
            raise
        scale = 1 << (10 * (1 + "KMGT".index(used.group(2))))
        return {"full": float(used.group(1)) * scale}
    spent = time.process_time() - began
    memory = done.memory_analysis()
    kinds = {"arguments": "argument", "outputs": "output", "aliased": "alias"}
    kinds |= {"temporaries": "temp", "code": "generated_code"}
    sizes = {name: getattr(memory, f"{kind}_size_in_bytes") for name, kind in kinds.items()}
    read = told(account(done.as_text(), mesh), job.target)
    return read | {"memory": sizes, "compile_seconds": spent}


if __name__ == "__main__":
    print(json.dumps(compile_job(pickle.loads(sys.stdin.buffer.read()))))
