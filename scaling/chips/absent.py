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
from scaling.chips.compiled import account
from scaling.chips.devices import Target
from scaling.chips.roofline import told
from scaling.environment import code
from scaling.mesh import batched, make_mesh, replicated, state_shardings
from scaling.recipe import Recipe
from scaling.runs import canonical
from scaling.stacks import shapes
from scaling.train import WINDOW_TYPE, Program, compiled

# What a process needs for each back end, by module, and the extra that installs it.
NEEDED = {
    "tpu": (("libtpu",), "tpu"),
    "cuda": (("jax_cuda13_plugin", "jax_plugins.xla_cuda13"), "gpu"),
}

# Quiet, no questions to a metadata server, and no lock between two such processes.
CHILD = {
    "JAX_PLATFORMS": "cpu",
    "JAX_TRACEBACK_FILTERING": "off",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # A program from the cache would not warn.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

# What XLA must know of a GPU beside the table of devices: streaming multiprocessors, clock in GHz,
# second-level cache and shared memory of a multiprocessor in KiB, compute capability, as devices
# report them (openxla/xla, xla/backends/gpu/target_config/specs).
GPUS = {
    "a100": (108, 1.41, 40960, 164, "8"),
    "a100-40gb": (108, 1.41, 40960, 164, "8"),
    "h100": (132, 1.98, 51200, 228, "9"),
    "h100-pcie": (114, 1.755, 51200, 228, "9"),
    "h200": (132, 1.98, 51200, 228, "9"),
    "b200": (148, 1.965, 129536, 228, "10"),
}

# The least slice that libtpu describes, of which a smaller mesh takes the first devices.
LEAST = {1: "2x2", 2: "2x2", 3: "2x2x1"}

# Of XLA's messages: of all that a program takes, or of its temporaries, which alone are too much.
FULL = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMGT])", re.ASCII)


@dataclass(frozen=True)
class Job:
    """A program to compile: a recipe in batches of so many tokens, on a mesh of some devices.

    The last two are the program's own.
    """

    recipe: Recipe
    batch_tokens: int
    mesh: str
    target: Target
    accumulate: int = 1
    recompute: str = "auto"

    @property
    def key(self) -> str:
        """Names the result: by all that it depends on, the code of models and training included."""
        given = [canonical(self.recipe.static), self.batch_tokens, self.mesh, self.target.name]
        given += [self.accumulate, self.recompute]
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


def lowered(program: Program) -> jax.stages.Lowered:
    """Traces a training program for its mesh without a value on any device."""
    mesh, config, steps = program.mesh, program.config, program.dispatch_steps
    state = shapes(program.recipe)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        state_shardings(mesh, config, state),
    )
    whole = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=replicated(mesh))
    shape = (steps, program.sequences, config.context + 1)
    windows = jax.ShapeDtypeStruct(shape, WINDOW_TYPE, sharding=batched(mesh, 3, 1))
    rates = whole((steps,), np.float32)
    settings = whole(np.shape(program.recipe.optimizer.settings), np.float32)
    with jax.set_mesh(mesh):
        return compiled(program).lower(state, windows, rates, settings, whole((), np.int32))


def result(job: Job) -> dict:
    """Returns what compiling a job found, from the cache where it was compiled before.

    Either `full`, the bytes that a device lacks the memory for, or memory by kind in bytes,
    `compile_seconds` of CPU time, `warnings` of the compiler, and what `roofline.told` tells.

    Raises:
      Refused: a program that does not compile, or whose text cannot be read, with what was said.
    """
    file = cache_folder() / "compiled-for" / f"{job.key}.json"
    if file.exists():
        return json.loads(file.read_text())
    environment = os.environ | CHILD
    root = str(Path(__file__).resolve().parents[2])
    if job.target.device.platform == "cuda" and cuda_folder():
        # Nothing is timed, since no GPU is here.
        flags = f"--xla_gpu_cuda_data_dir={cuda_folder()} --xla_gpu_autotune_level=0"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}"
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scaling.chips.absent"],
        input=pickle.dumps(job),
        env=environment,
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        accepted = f"devices for which this program compiles and is read ({last[0]})"
        raise Refused("--for", job.target.name, accepted)
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
    if target.device.grid and target.chips == 1:
        shape = LEAST[target.device.grid]
    try:
        if target.device.grid:
            name = f"{target.device.name}:{shape}"
            known = topologies.get_topology_desc(platform="tpu", topology_name=name)
        else:
            known = gpu_topology(target)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        line = str(error).splitlines()[0]
        raise Refused("--for", target.name, f"a slice that libtpu knows ({line})") from None
    return list(known.devices)[: target.count]


def gpu_topology(target: Target):
    """Returns the description of GPUs: nodes of up to eight."""
    from jax._src import xla_bridge  # Registers what `JAX_PLATFORMS=cpu` leaves out.
    from jax.experimental import topologies

    xla_bridge.discover_pjrt_plugins()
    device = target.device
    count, clock, cache, shared, capability = GPUS[device.name]
    described = f"""gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
      shared_memory_per_block: 49152 shared_memory_per_core: {shared << 10}
      shared_memory_per_block_optin: {(shared - 1) << 10}
      core_count: {count} fpus_per_core: {64 if capability == "8" else 128}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {device.bandwidth:.0f} device_memory_size: {device.memory:.0f}
      l2_cache_size: {cache << 10} clock_rate_ghz: {clock}
      cuda_compute_capability {{ major: {capability} }}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
    runtime_version {{ major: 13 minor: 0 patch: 0 }}
    device_description_str: "{device.kinds[0]}"
    """
    each = min(target.chips, device.node)
    return topologies.get_topology_desc(
        platform="cuda", target_config=described, topology=f"1x{target.chips // each}x{each}"
    )


def cuda_folder() -> Path | None:
    """Returns where the CUDA compiler's wheels lie, if they are installed."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(place) / "cu13" for place in found.submodule_search_locations] if found else []
    return next((folder for folder in folders if folder.exists()), None)


def compile_job(job: Job) -> dict:
    """Compiles a job in this process."""
    mesh = make_mesh(job.mesh, devices(job.target))
    program = Program(
        recipe=job.recipe,
        batch_tokens=job.batch_tokens,
        mesh=mesh,
        accumulate=job.accumulate,
        recompute=job.recompute,
    )
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
