"""A TPU pod: a run that outlives who started it and comes back, played by a stand-in gcloud."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from experiments.command.launchers import options
from experiments.command.launchers.tpu import pod_script
from tests.experiments.command.launchers.trained import program, shell_checked

ARGUMENTS = ("--config=a b.py", "--config.mixture=it's=1", '--config.x=("$HOME",)', "--mesh=")
GIVEN = ("name=pod-1", "zone=z", "accelerator-type=v5litepod-8", "runtime-version=v2", "spot")
# What stands for an installation: every new host gets it by the lines of --setup.
SETUP = (
    'mkdir -p "my checkout/.venv/bin"',
    'cp "$CLOUD/espalier" "my checkout/.venv/bin/"',
)
# Plays a run: its code, or `wait` for one that never ends, is the next line of $CLOUD/codes.
RUN = """
if [ "$1" = --version ]; then
  if [ -e "$CLOUD/broken-$HOST" ]; then echo "no libtpu on $HOST" >&2; exit 1; fi
  exit
fi
printf '%s\\0' "$@" > "$CLOUD/got-$HOST"
if [ "$HOST" != host0 ]; then exit; fi
code=$(head -n 1 "$CLOUD/codes")
sed -i 1d "$CLOUD/codes"
echo "this is run $code"
if [ "$code" = wait ]; then
  touch "$CLOUD/waits"
  while [ ! -e "$CLOUD/go" ]; do sleep 0.05; done
  code=0
fi
exit "$code"
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch) -> Path:
    """A folder in which the stand-in plays."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").symlink_to(Path(__file__).parent / "gcloud.sh")
    program(tmp_path, "espalier", RUN)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("CLOUD", str(tmp_path))
    monkeypatch.setenv("ESPALIER_POLL_SECONDS", "0.01")
    (tmp_path / "now").write_text("NONE\n")
    yield tmp_path
    subprocess.run(["gcloud", "compute", "tpus", "queued-resources", "delete", "pod-1"], check=True)


def script(*more: str, arguments=ARGUMENTS) -> str:
    given = options([*GIVEN, "checkout=my checkout", *more])
    return pod_script(arguments, given, SETUP)


def play(cloud: Path, states: str, codes: str = "0", text: str | None = None):
    """Runs the script while the pod goes through states and runs end with codes."""
    (cloud / "states").write_text("\n".join([*states.split(), ""]))
    (cloud / "codes").write_text("\n".join([*codes.split(), ""]))
    command = ["bash", "-c", text or script()]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def recorded(cloud: Path) -> list[list[str]]:
    """Returns the words of every call."""
    every = (cloud / "calls").read_text().split("\036")[:-1]
    return [call.split("\037")[:-1] for call in every]


def calls(cloud: Path) -> list[str]:
    """Lists what was called, without the many looks: verb, and of ssh the hosts."""
    words = []
    for _, _, kind, verb, pod, *flags in recorded(cloud):
        assert pod == "pod-1" and "--zone=z" in flags
        worker = next((f.partition("=")[2] for f in flags if f.startswith("--worker=")), "")
        words.append(f"{verb} {worker}".strip() if kind == "queued-resources" or worker else verb)
    return [word for word in words if word not in ("describe", "ssh 0")]


ONCE = ["ssh all", "ssh all"]  # Every host is prepared, then every host starts.


def test_a_pod_is_asked_for_and_every_host_gets_the_arguments_as_they_were_given(cloud):
    done = play(cloud, "NONE ACCEPTED WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls(cloud) == ["create", *ONCE, "delete"]
    asked = next(call for call in recorded(cloud) if call[3] == "create")
    assert asked[5:] == ["--zone=z", "--node-id=pod-1", *(f"--{g}" for g in GIVEN[2:])]
    for host in ("host0", "host1"):
        got = (cloud / f"got-{host}").read_text().split("\0")
        assert got == ["run", "--coordinator=auto", *ARGUMENTS, ""]
    order = ("NONE", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    said = [line for line in done.stdout.splitlines() if line.startswith("espalier: pod-1: ")]
    assert said == [f"espalier: pod-1: {state}" for state in order]
    assert "this is run 0" in done.stdout and "the run is done; pod-1 is deleted" in done.stdout


@pytest.mark.parametrize("how", ["SUSPENDED", "PREEMPTED"])
def test_a_preempted_pod_is_asked_for_again_and_the_run_goes_on_in_new_hosts(how, cloud):
    states = f"NONE ACCEPTED RUNNING {how} NONE ACCEPTED ACTIVE"
    done = play(cloud, states, "wait 0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls(cloud) == ["create", *ONCE, "delete", "create", *ONCE, "delete"]
    assert "asked for again" in done.stdout and "this is run 0" in done.stdout


def test_a_run_outlives_who_started_it_and_is_taken_up_again(cloud):
    (cloud / "states").write_text("ACTIVE\n")
    (cloud / "codes").write_text("wait\n")
    command = ["bash", "-c", script()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        while not (cloud / "waits").exists():
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        said = first.stdout.read()
    assert first.returncode == 130 and "the run on pod-1 goes on" in said
    # SIGTERM ended the script, and the run on the host is still there.
    os.killpg(int((cloud / "host0" / "espalier-run" / "pid").read_text()), 0)
    other = play(cloud, "ACTIVE", text=script(arguments=("--config=other",)))
    assert other.returncode == 2 and "got another run on its hosts; accepted: one" in other.stdout
    (cloud / "go").touch()
    again = play(cloud, "ACTIVE", text=script("keep"))
    assert again.returncode == 0 and "pod-1 is left as it is" in again.stdout, again.stdout
    assert calls(cloud)[:2] == ONCE and "delete" not in calls(cloud)


def test_what_can_go_on_is_started_again_and_what_cannot_ends_with_its_code(cloud):
    done = play(cloud, "ACTIVE", "75 143 2")
    assert done.returncode == 2, done.stdout + done.stderr
    assert calls(cloud) == ONCE * 3
    assert "ended with code 75, and goes on" in done.stdout
    assert "this is run 2" in done.stdout and "costs until it is deleted" in done.stdout


def test_no_host_starts_where_one_cannot(cloud):
    (cloud / "broken-host1").touch()
    done = play(cloud, "ACTIVE")
    assert done.returncode == 1 and "not every host of pod-1 can start the run" in done.stdout
    assert "no libtpu on host1" in done.stderr
    assert calls(cloud) == ["ssh all"] * 3 and not list(cloud.glob("got-*"))


@pytest.mark.parametrize(
    ("states", "full", "code", "said"),
    [
        ("NONE ACCEPTED FAILED", False, 1, "pod-1: no capacity in this zone"),
        ("NONE", True, 1, "pod-1 was not asked for: see what gcloud said"),
        ("OFFLINE", False, 2, "gcloud: ERROR: (gcloud.compute.tpus) There was a problem"),
        ("NONE OFFLINE OFFLINE FAILED", False, 1, "pod-1: no capacity in this zone"),
    ],
)
def test_a_pod_that_cannot_be_had_ends_with_one_line_and_starts_nothing(
    states, full, code, said, cloud
):
    if full:
        (cloud / "full").touch()
    done = play(cloud, states)
    assert done.returncode == code and f"espalier: {said}" in done.stdout, done.stdout
    assert set(calls(cloud)) <= {"create"}


def test_bash_and_what_it_sends_to_the_hosts_are_free_of_what_shellcheck_warns_of():
    text = script()
    shell_checked(text)
    for part in text.split("<<'ON_HOSTS'\n")[1:]:
        shell_checked(part.partition("\nON_HOSTS\n")[0])
