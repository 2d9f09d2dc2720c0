#!/usr/bin/env bash
# Four workers on this machine, which train one plan into one store.
#
# Ctrl-C, or SIGTERM to the launcher, has every worker write a checkpoint and release its lease; the
# same command goes on. With --stop-after each worker ends by itself in the same way. The exit code
# is 0 if all workers ended well. Each worker has GPUs of its own where there are enough; where there
# are not, the first line says how many share one.
#
# Arguments are handed on, as in: ./local.sh --dry-run
set -euo pipefail

espalier launch --on=local --workers=4 \
  --config=over_training:cpu \
  --store=runs \
  --stop-after=3600 \
  "$@"

# Tables, fit and report, once the plan is done: espalier report --config=over_training:cpu
