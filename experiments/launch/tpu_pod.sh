#!/usr/bin/env bash
# One run over all hosts of a TPU pod, from a machine with gcloud.
#
# A pod is one machine to JAX: each host runs the same command, jax.distributed finds the others, and
# --mesh says how the chips share the work. The store is a bucket, or a path that all hosts mount.
# If a host is lost or the pod preempted, the same command goes on from the last checkpoint.
#
# --option=name and --option=zone are the pod's; --option=checkout is where the project lies on the
# hosts, seen from the home folder, installed with `pip install -e '.[tpu]'` in its .venv; all other
# options are gcloud's (--option=project=..., --option=internal-ip). --dry-run prints the script.
set -euo pipefail

espalier launch --on=tpu \
  --option=name=pod-1 --option=zone=us-east5-a --option=checkout=espalier \
  --config=over_training:pod \
  --config.corpus=corpora/mine --config.mixture=code=0.5,web=0.5 \
  --mesh=fsdp:8,data:4 \
  --store=gs://my-bucket/runs \
  "$@"
