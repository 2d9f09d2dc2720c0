#!/usr/bin/env bash
# A Slurm job array of eight workers with a GPU each, from a login node:
# pip install 'espalier[slurm]'.
#
# --option=KEY=VALUE is any option of sbatch's (KEY alone for a switch); time is in minutes. Jobs are
# requeued when their time is over or the cluster preempts them: 90 seconds before, the worker
# writes a checkpoint and releases its lease, and goes on from there when it runs again. Whether a
# cluster says so before it preempts: scontrol show config | grep preempt_send_user_signal.
# A worker that Slurm kills without a word loses what it did since its last checkpoint
# (--checkpoint-seconds).
#
# The checkout and the store lie on a file system that the nodes share. Logs: STORE/slurm. To end
# all workers: scancel JOB. --dry-run prints the script that sbatch would get.
set -euo pipefail
cd "$(dirname "$0")/../.."

espalier launch --on=slurm --workers=8 \
  --option=partition=gpu --option=time=240 --option=gpus-per-node=1 --option=cpus-per-task=8 \
  --config=experiments/over_training.py:gpu \
  --store=runs \
  "$@"
