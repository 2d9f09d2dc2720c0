"""One run over all hosts of a TPU pod, which outlives whoever starts it and survives preemption.

The pod is a queued resource of Google Cloud's. What is started is a script of bash that needs
nothing but gcloud. It asks for the pod, starts the run on every host and watches both; the run is
the hosts' own and goes on without it. The same script takes up what is there.
"""

import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

from experiments.command.launchers.wanted import Launch
from refused import Refused

# What must be said of a pod, as --option=KEY=VALUE.
ASKED = {
    "name": "pod-1",
    "zone": "us-east5-a",
    "accelerator-type": "v5litepod-64",
    "runtime-version": "v2-alpha-tpuv5-lite",
}
OURS = ("name", "checkout", "keep")
# Flags of every gcloud command, and those of `tpu-vm ssh`; others are `queued-resources create`'s.
WIDE = ("zone", "project", "account", "billing-project", "configuration", "verbosity")
WIDE += ("impersonate-service-account",)
SSH = ("internal-ip", "tunnel-through-iap", "plain", "ssh-flag", "ssh-key-file")
SSH += ("ssh-key-expiration", "ssh-key-expire-after")
SSH += ("strict-host-key-checking", "force-key-file-overwrite")
# What the script itself says to gcloud.
OTHERWISE = ("node-id", "node-count", "node-prefix", "async", "worker", "command", "format")


def launch(wanted: Launch) -> int:
    """Becomes the script that starts and watches one run over all hosts of a pod.

    Raises:
      Refused: what the pod lacks, workers, a store that the hosts do not share, or no gcloud.
    """
    given = dict(wanted.options)
    if wanted.workers is not None:
        raise Refused("--workers", wanted.workers, "none: every host of the pod is in one run")
    for key, example in ASKED.items():
        if not isinstance(given.get(key), str) or not given[key]:
            accepted = f"the pod's, as in --option={key}={example}"
            raise Refused(f"--option={key}", "nothing", accepted)
    if re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", given["name"], re.ASCII) is None:
        accepted = "small letters, digits and hyphens, a letter first, as Google Cloud takes it"
        raise Refused("--option=name", given["name"], accepted)
    for key in OTHERWISE:
        if key in given:
            raise Refused("--option", key, "none: a launch is one run over the hosts of one pod")
    if "://" not in wanted.store and not os.path.isabs(wanted.store):
        shared = "what every host sees, as gs://bucket/runs or an absolute path"
        raise Refused("--store", wanted.store, shared)
    script = pod_script(wanted.arguments, given, wanted.setup)
    if wanted.dry_run:
        print(script, end="")
        return 0
    bash = shutil.which("bash")
    if shutil.which("gcloud") is None or bash is None:
        raise Refused("--on", "tpu", "a machine with bash and gcloud, or --dry-run")
    sys.stdout.flush()
    os.execv(bash, ["bash", "-c", script])


def pod_script(
    arguments: Sequence[str], given: Mapping[str, str | bool], setup: Sequence[str] = ()
) -> str:
    """Returns the script that has every host of a pod take part in one run, and watches it.

    `given` has the pod's name, its zone, kind and version, `checkout` (where the project lies on
    the hosts, seen from the home folder), `keep` (leave the pod when the run is done) and further
    flags of gcloud's. `setup` are lines that each host runs before, again on every new one.
    """
    checkout = shlex.quote(str(given.get("checkout", "espalier")))
    run = shlex.join([".venv/bin/espalier", "run", "--coordinator=auto", *arguments])
    mark = hashlib.sha256(f"{checkout} {run}".encode()).hexdigest()[:16]
    flags = {
        "wide": [key for key in given if key in WIDE],
        "reach": [key for key in given if key in SSH],
        "asked": [key for key in given if key not in (*WIDE, *SSH, *OURS)],
    }
    lines = [f"pod='{given['name']}'"]
    lines += [f"{name}=({written(given, keys)})" for name, keys in flags.items()]
    lines += [f"keep={'yes' if given.get('keep') else 'no'}"]
    texts = {
        "prepare": "\n".join(["set -euo pipefail", *setup, f"cd {checkout}", VERSION]),
        "start": START.replace("THE MARK", mark).replace("THE RUN", f"cd {checkout}\nexec {run}"),
        "look": LOOK.replace("THE MARK", mark),
    }
    for name, text in texts.items():
        # Not in $(...): bash 3.2, which laptops have, stumbles over apostrophes there.
        lines.append(f"IFS= read -r -d '' {name} <<'ON_HOSTS'\n{text.strip()}\nON_HOSTS")
    return SCRIPT.replace("THIS RUN\n", "\n".join(lines) + "\n")


def written(given: Mapping[str, str | bool], keys: Sequence[str]) -> str:
    """Returns flags as bash reads them."""
    said = [f"--{key}" if given[key] is True else f"--{key}={given[key]}" for key in keys]
    return shlex.join(said)


# On each host, from its home folder: what is there can be called.
VERSION = ".venv/bin/espalier --version"

# A number outlives its process: after a host has started anew it may be another's.
ALIVE = """
alive() {
  [ -s pid ] && [ "$(cat boot)" = "$(cat /proc/sys/kernel/random/boot_id)" ] &&
    kill -0 -- "-$(cat pid)" 2> /dev/null
}
""".strip()

# On each host: the run, detached from the connection; its output, number and exit code in files.
START = f"""
set -euo pipefail
mkdir -p espalier-run
cd espalier-run
{ALIVE}
if alive; then  # It waits for hosts that are gone.
  kill -TERM -- "-$(cat pid)" || true
  for _ in $(seq 60); do
    alive || break
    sleep 1
  done
  if alive; then kill -KILL -- "-$(cat pid)" || true; fi
fi
rm -f pid code
cat /proc/sys/kernel/random/boot_id > boot
echo "THE MARK" > mark
cat > run.sh <<'ON_THIS_HOST'
THE RUN
ON_THIS_HOST
# shellcheck disable=SC2016
setsid nohup bash -c '
  echo $$ > pid
  (cd .. && bash espalier-run/run.sh) >> log 2>&1
  echo $? > code.new && mv code.new code
' > /dev/null 2>&1 < /dev/null &
until [ -s pid ]; do sleep 0.1; done
"""

# On host 0: what became of it.
LOOK = f"""
cd espalier-run 2> /dev/null || {{ echo none; exit; }}
{ALIVE}
mine() {{ [ "$(cat mark 2> /dev/null)" = "THE MARK" ]; }}
if mine && [ -s code ]; then
  echo "ended $(cat code)"
elif alive; then
  if mine; then echo running; else echo other; fi
else
  echo none
fi
"""

# Exit codes of `espalier run` after which the same command goes on: 75, another host was lost; 143
# and 140, it was told to end.
SCRIPT = """#!/usr/bin/env bash
# One run over every host of a TPU pod, which is asked for as a queued resource. The run is the
# hosts' own: it goes on when this script ends, and the same script takes it up again.
set -uo pipefail

THIS RUN

pause=${ESPALIER_POLL_SECONDS:-30}
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
trap 'leave' INT TERM HUP

say() { printf 'espalier: %s\\n' "$*"; }
queue() { gcloud compute tpus queued-resources "$1" "$pod" "${wide[@]}" "${@:2}"; }
hosts() { gcloud compute tpus tpu-vm ssh "$pod" "${wide[@]}" ${reach[@]+"${reach[@]}"} "$@"; }

leave() {
  say "the run on $pod goes on; the same command takes it up again; to end the run and the pod:"
  say "gcloud compute tpus queued-resources delete $pod ${wide[*]} --force"
  exit 130
}

# Prints the queued resource's state, NONE where there is none, UNKNOWN where gcloud cannot say.
state() {
  if queue describe --format='value(state.state)' 2> "$errors"; then
    :
  elif grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    echo UNKNOWN
  fi
}

ask() {
  queue create --node-id="$pod" "${asked[@]}" || {
    say "$pod was not asked for: see what gcloud said"
    exit 1
  }
}

give_back() { queue delete --force --quiet || say "$pod could not be deleted: tried again"; }

# Every host must be able to start before any does; new hosts may not take a connection at once.
start() {
  say "every host is prepared"
  if ! hosts --worker=all --command="$prepare"; then
    tries=$((tries + 1))
    if ((tries == 3)); then
      say "not every host of $pod can start the run, and none was started; $pod is left as it is"
      exit 1
    fi
    return
  fi
  tries=0
  say "the run starts on every host; its log there: espalier-run/log"
  hosts --worker=all --command="$start" || say "not every host has started; looked at again"
  started=yes
}

# Ends with the run's code.
finish() {
  hosts --worker=0 --command='tail -n 20 espalier-run/log'
  if [[ $1 != 0 ]]; then
    say "the run ended with code $1; $pod is left as it is, and costs until it is deleted"
  elif [[ $keep == yes ]]; then
    say "the run is done; $pod is left as it is"
  else
    say "the run is done; $pod is deleted"
    give_back
  fi
  exit "$1"
}

# Looks after the run while the pod is active.
attend() {
  local found node
  if ! found=$(hosts --worker=0 --command="$look" 2> "$errors"); then
    format='value(state)'
    node=$(gcloud compute tpus tpu-vm describe "$pod" "${wide[@]}" --format="$format" 2> /dev/null)
    case $node in
      PREEMPTED | TERMINATED | STOPPED)
        say "$pod: $node; it is asked for again"
        give_back
        ;;
      *) [[ $silent == yes ]] || say "host 0 does not answer: $(tail -n 1 "$errors")" ;;
    esac
    silent=yes
    return
  fi
  silent=no
  found=${found##*$'\\n'}
  case $found in
    running)
      [[ $started == yes ]] || say "the run is there, and goes on"
      started=yes
      ;;
    other)
      say "$pod: got another run on its hosts; accepted: one run of a pod at a time"
      exit 2
      ;;
    "ended 75" | "ended 140" | "ended 143")
      say "the run ended with code ${found#ended }, and goes on"
      start
      ;;
    ended*)
      if [[ $started == yes ]]; then finish "${found#ended }"; else start; fi
      ;;
    *) start ;;
  esac
}

before='' started=no silent=no tries=0
while true; do
  now=$(state)
  if [[ $now != "$before" ]]; then
    say "$pod: $now"
    tries=0
  fi
  case $now in
    NONE) ask ;;
    ACTIVE) attend ;;
    SUSPENDED)
      say "$pod was preempted; it is asked for again"
      give_back
      ;;
    FAILED)
      say "$pod: $(queue describe --format='value(state.failedData.error.message)' 2> /dev/null)"
      exit 1
      ;;
    UNKNOWN)
      if [[ $before == '' ]]; then
        say "gcloud: $(tail -n 1 "$errors")"
        exit 2
      fi
      ;;
  esac
  before=$now
  sleep "$pause" &
  wait $!
done
"""
