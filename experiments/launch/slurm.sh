#!/usr/bin/env bash
# A Slurm job array of eight workers with a GPU each, from a login node:
# pip install 'espalier[slurm]'.
#
# --option=KEY=VALUE is any option of sbatch's (KEY alone for a switch); time is in minutes. A worker
# writes a checkpoint and releases its lease 90 seconds before its time is over
# (--option=signal=USR2@SECONDS for another notice) and when it is preempted with a grace time; its
# job is requeued and goes on from there. One that is killed without a word loses what it did since
# its last checkpoint (--checkpoint-seconds).
#
# The checkout and the store lie on a file system that the nodes share. Logs: STORE/slurm. To end
# all workers: scancel JOB. --dry-run prints the script that sbatch would get.
set -euo pipefail

espalier launch --on=slurm --workers=8 \
  --option=partition=gpu --option=time=240 --option=gpus-per-node=1 --option=cpus-per-task=8 \
  --config=over_training:gpu \
  --store=runs \
  "$@"
