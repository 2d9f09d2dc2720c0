"""The set-up of the tests keeps a user's flags, and wants eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax

from tests.conftest import DEVICES, FLAGS, with_flags

ROOT = Path(__file__).parents[1]


def test_flags_are_added_to_those_of_the_user_once():
    assert jax.device_count() == DEVICES
    own = "--xla_cpu_max_isa=AVX2 --xla_cpu_multi_thread_eigen=true"
    given = with_flags(own).split()
    assert given[:2] == own.split()
    assert set(given) == {*own.split(), FLAGS[0], *FLAGS[2:]}
    assert with_flags(with_flags(own)) == with_flags(own)


def test_another_number_of_devices_is_refused_in_one_line():
    flags = "--xla_force_host_platform_device_count=4"
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "tests/scaling/test_events.py"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 4, found.stdout
    told = [line for line in (found.stdout + found.stderr).splitlines() if "tests: got" in line]
    assert told == [
        f"ERROR: tests: got 4 cpu devices; accepted: {DEVICES}, by JAX_PLATFORMS=cpu "
        "and no other device count in XLA_FLAGS"
    ]
