"""Ray: workers as actors, one of them killed."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.command.launchers import Launch, ray
from refused import Refused
from tests.experiments.command.launchers.trained import STUDY, assert_same
from tests.experiments.command.test_main import ROOT


@pytest.mark.system
def test_actors_of_ray_one_of_them_killed_give_the_table_of_one(alone, tmp_path):
    store = tmp_path / "runs"
    common = ["--marker", tmp_path / "marker", *STUDY, f"--store={store}", "--lease-seconds=4"]
    # ml-collections loads configuration files with load_module.
    strict = ["-W", "error", "-W", "ignore:the load_module:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-m", "tests.experiments.command.launchers.launched", *common],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert_same(store, alone)
    assert "codes 1 1 143\n" in done.stdout, said
    assert done.stdout.count(" failed (") == 1 + 3, said
    assert "workers: 2, each of one CPU; CPUs: 2\n" in done.stdout, said
    assert "1 of 2 workers ended well; the same command goes on\n" in done.stdout, said
    assert "0 of 3 workers ended well; the same command goes on\n" in done.stdout, said
    assert "nowhere'); the others go on\n" in done.stdout, said
    assert "1 of 1 workers ended as told; the same command goes on\n" in done.stdout, said


def test_actors_of_ray_look_for_packages_where_ours_lie(tmp_path, monkeypatch):
    """Ray has its actors import from the folder that it is called in first."""
    called = []
    stop = lambda: called.append(os.getcwd()) or 1 / 0
    fake = SimpleNamespace(is_initialized=lambda: False, init=stop)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        ray.launch(Launch(()))
    assert called == [str(ROOT)] and os.getcwd() == str(tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:9{}"])
def test_a_cluster_that_does_not_answer_is_named(address, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ray.answering(f"127.0.0.1:{port}")
    for fine in ("", "auto", "local"):
        ray.answering(fine)

    def none():
        raise ConnectionError("none\nfound")

    never = lambda: pytest.fail("Ray was asked")
    fake = SimpleNamespace(is_initialized=lambda: False, init=never)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setenv("RAY_ADDRESS", address.format(port))
    with pytest.raises(Refused, match=r"RAY_ADDRESS: got .*; accepted: a cluster that answers"):
        ray.launch(Launch(()))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    fake.init = none
    with pytest.raises(Refused, match=r"got auto; accepted: a cluster that answers .none found."):
        ray.launch(Launch(()))
