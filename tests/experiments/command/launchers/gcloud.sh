#!/usr/bin/env bash
# A stand-in for gcloud: plays a queued resource and the two hosts of its pod, in the folder $CLOUD.
#
# It records every call in `calls`: words end with the character 31, calls with 30. Each
# `queued-resources describe` moves on to the next line of `states`; the last one stays. RUNNING is a
# pod that is active, at least until its run waits. PREEMPTED is one that is said to be active and
# whose hosts do not answer. Hosts are folders, which `delete` empties.
set -euo pipefail
cd "$CLOUD"
printf '%s\037' "$@" >> calls
printf '\036' >> calls

fail() {
  echo "ERROR: (gcloud.compute.tpus) $1" >&2
  exit "${2:-1}"
}

describe() {
  local now
  now=$(head -n 1 states)
  if [ "$(wc -l < states)" -gt 1 ] && { [ "$now" != RUNNING ] || [ -e waits ]; }; then
    sed -i 1d states
  fi
  now=${now/RUNNING/ACTIVE}
  echo "$now" > now
  case $now in
    NONE) fail "NOT_FOUND: Resource was not found" ;;
    OFFLINE) fail "There was a problem refreshing your current auth tokens" ;;
    PREEMPTED) echo ACTIVE ;;
    *) echo "$now" ;;
  esac
}

delete() {
  local host
  for host in host0 host1; do
    if [ -s $host/espalier-run/pid ]; then
      kill -KILL -- "-$(cat $host/espalier-run/pid)" 2> /dev/null || true
    fi
    rm -rf $host
  done
}

ssh() {
  local hosts=host0 code=0 text=
  [ "$(cat now)" = ACTIVE ] || fail "ssh: connect to host 10.0.0.1 port 22: timed out" 255
  for flag in "$@"; do
    case $flag in
      --worker=all) hosts="host0 host1" ;;
      --command=*) text=${flag#--command=} ;;
    esac
  done
  for host in $hosts; do
    mkdir -p "$host"
    (cd "$host" && HOME=$PWD HOST=$host bash -c "$text") || code=$?
  done
  exit $code
}

case "$3 $4 $*" in
  "tpu-vm ssh "*) ssh "$@" ;;
  "tpu-vm describe "*) cat now ;;
  *state.failedData*) echo "no capacity in this zone" ;;
  "queued-resources describe "*) describe ;;
  "queued-resources delete "*) delete ;;
  "queued-resources create "*) [ ! -e full ] || fail "RESOURCE_EXHAUSTED: quota exceeded" ;;
  *) fail "unknown: $*" ;;
esac
