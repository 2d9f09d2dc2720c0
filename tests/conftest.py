"""Settings of every test: strict types, one thread a process, eight simulated devices, a cache."""

import os

# Before JAX is imported anywhere. One thread, because two test processes share two cores.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false "
    "--xla_backend_optimization_level=1",
)
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import pytest  # noqa: E402

from data import cache_folder  # noqa: E402

CACHE = cache_folder() / "compiled-tests"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


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
