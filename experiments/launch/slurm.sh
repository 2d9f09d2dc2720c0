#!/usr/bin/env bash
# A Slurm job array of eight workers with a GPU each, from a login node:
# pip install 'espalier[slurm]'.
#
# --option=KEY=VALUE is any option of sbatch's (KEY alone for a switch). A worker
# writes a checkpoint and releases its lease 90 seconds before its time is over
# (--option=signal=USR2@SECONDS for another notice) and when it is preempted with a grace time; its
# job is requeued and goes on from there. One that is killed without a word loses what it did since
# its last checkpoint (--checkpoint-seconds).
#
# --setup=LINE is what a job does before, as loading a module; a line that fails ends the job. Once
# all workers have ended, one more job reports (--no-report: none does).
#
# The checkout and the store lie on a file system that the nodes share. Logs: STORE/slurm. To end
# all workers: scancel JOB. --dry-run prints the scripts that sbatch would get.
set -euo pipefail

espalier launch --on=slurm --workers=8 \
  --option=partition=gpu --option=time=04:00:00 --option=gpus-per-node=1 --option=cpus-per-task=8 \
  --setup='echo "worker $SLURM_ARRAY_TASK_ID on $(hostname)"' \
  --config=over_training:gpu \
  --store=runs \
  "$@"
