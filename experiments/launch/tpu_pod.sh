#!/usr/bin/env bash
# One run over all hosts of a TPU pod, from a machine with gcloud.
#
# A pod is one machine to JAX: each host runs the same command, jax.distributed finds the others, and
# --mesh says how the chips share the work. The store is a bucket, or a path that all hosts mount.
#
# The pod is a queued resource, which is asked for, and asked for again when it was preempted. The
# run is the hosts' own: it goes on when this command ends, and the same command takes it up again.
# Who wants a run that comes back after a preemption at night leaves it on a machine that stays on;
# --dry-run prints a script for that, which needs bash and gcloud alone.
#
# --setup is what every new host does first, and must do no harm twice; --option=checkout is the
# folder, seen from the home folder, in whose .venv Espalier is then. Other options are gcloud's.
set -euo pipefail

espalier launch --on=tpu \
  --option=name=pod-1 --option=zone=us-east5-a --option=spot \
  --option=accelerator-type=v5litepod-32 --option=runtime-version=v2-alpha-tpuv5-lite \
  --setup='python3 -m venv espalier/.venv' \
  --setup='wheel=/mnt/shared/espalier-0.1.0-py3-none-any.whl' \
  --setup='espalier/.venv/bin/pip install --quiet "espalier[tpu,gcs] @ file://$wheel"' \
  --config=over_training:pod \
  --config.corpus=/mnt/shared/corpora/mine --config.mixture=code=0.5,web=0.5 \
  --mesh=fsdp:8,data:4 \
  --store=gs://my-bucket/runs \
  "$@"
