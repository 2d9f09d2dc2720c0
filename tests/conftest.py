"""Settings of every test: strict types, one thread a process, eight simulated devices, a cache."""

import os

# Before JAX is imported anywhere, and beside a user's own flags, which come first. One thread,
# because two test processes share two cores.
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",  # A third less for each small program.
)
DEVICES = 8


def with_flags(given: str) -> str:
    """Adds the tests' flags to XLA_FLAGS, but for those that are there already."""
    named = {flag.split("=")[0] for flag in given.split()}
    return " ".join([*given.split(), *(f for f in FLAGS if f.split("=")[0] not in named)])


os.environ["XLA_FLAGS"] = with_flags(os.environ.get("XLA_FLAGS", ""))
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import ctypes  # noqa: E402
import gc  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402

import absl.logging  # noqa: E402
import pytest  # noqa: E402

from data import cache_folder  # noqa: E402

CACHE = cache_folder() / "compiled-tests"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# absl's handler keeps the stream that it finds and closes it where another package sets up logging:
# not pytest's.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# A laptop of 8 GB runs two test processes beside a desktop. A file lets its programs go at its end,
# and before where they take more than `FULL`. What a process may take is `AIMED`; since allocators
# differ between machines by a tenth or two, a run fails only where one took `MOST`.
FULL_GIGABYTES, AIMED_GIGABYTES, MOST_GIGABYTES = 0.75, 1.5, 2.0
PEAKS = pytest.StashKey[dict]()


def pytest_sessionstart(session):
    """Refuses to run on other than eight devices, which tests of meshes would not notice."""
    session.config.stash[PEAKS] = {}
    gc.disable()  # Until all is collected, which throws nothing away.
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    import jax

    if jax.device_count() != DEVICES:
        raise pytest.UsageError(
            f"tests: got {jax.device_count()} {jax.default_backend()} devices; accepted: "
            f"{DEVICES}, by JAX_PLATFORMS=cpu and no other device count in XLA_FLAGS"
        )


def pytest_collection_finish():
    """Leaves modules and cases out of every later look for garbage: each took .2 CPU-seconds."""
    gc.collect()
    gc.freeze()
    gc.enable()


def peak_gigabytes(who: int) -> float:
    """Returns the largest resident memory of this process, or of any of its children."""
    return resource.getrusage(who).ru_maxrss / (1 << (30 if sys.platform == "darwin" else 20))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Tells the peak of this process and its children; fails a run that took too much."""
    config, peaks = session.config, session.config.stash[PEAKS]
    own = {"": peak_gigabytes(resource.RUSAGE_SELF)}
    own["'s children"] = peak_gigabytes(resource.RUSAGE_CHILDREN)
    if hasattr(config, "workerinput"):
        config.workeroutput["peaks"] = own
        return
    name = "controller" if peaks else "process"
    if peaks:
        del own["'s children"]  # The workers themselves.
    peaks |= {f"{name}{whose}": size for whose, size in own.items()}
    if max(peaks.values()) > MOST_GIGABYTES and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Takes over a worker's peaks."""
    for whose, size in getattr(node, "workeroutput", {}).get("peaks", {}).items():
        node.config.stash[PEAKS][f"{node.gateway.id}{whose}"] = size


def pytest_terminal_summary(terminalreporter, config):
    """Prints the peak of every test process."""
    peaks = config.stash.get(PEAKS, {})
    said = ", ".join(f"{name} {size:.2f}" for name, size in sorted(peaks.items()))
    most = max(peaks.values(), default=0)
    verdict = f"aimed at {AIMED_GIGABYTES} each, {'MORE' if most > AIMED_GIGABYTES else 'at most'}"
    if most > MOST_GIGABYTES:
        verdict = f"FAILED: more than {MOST_GIGABYTES}"
    terminalreporter.write_line(f"peak memory in GB ({verdict}): {said}")


def resident_gigabytes() -> float:
    """Returns this process's resident memory, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / (1 << 30)
    except FileNotFoundError:
        return 0.0


def let_go() -> None:
    """Frees compiled programs, ours and JAX's."""
    jax, train = sys.modules.get("jax"), sys.modules.get("scaling.train")
    if jax is None:
        return
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "scaling":
            for value in vars(module).values():
                getattr(value, "cache_clear", lambda: None)()
    if train is not None:
        train.WARM.clear()
    if (trainer := sys.modules.get("scaling.trainer")) is not None:
        trainer.USED.clear()
        trainer.IDLE.clear()
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":  # glibc keeps what is freed, and the peak would still grow.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Keeps compiled programs within a file: those of all files would take gigabytes."""
    yield let_go
    let_go()


@pytest.fixture(autouse=True)
def room(programs):
    """Makes room after a test that left little; programs compile again from the cache on disk."""
    yield
    if resident_gigabytes() > FULL_GIGABYTES:
        let_go()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Three small domains of structured bytes, each a source of its own."""
    from tests.corpora import small_corpus

    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def mesh():
    """One device."""
    from scaling import make_mesh

    return make_mesh("data:1")
