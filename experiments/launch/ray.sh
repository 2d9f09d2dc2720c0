#!/usr/bin/env bash
# A worker per GPU of a Ray cluster: pip install 'espalier[ray]'.
#
# The cluster is the one that RAY_ADDRESS names or that runs on this machine (ray start --head);
# without either, Ray starts one here, so that this is also the way to use every GPU of one machine.
# On several machines the checkout lies under one path on a file system that all share, or
# is installed on each (pip install -e .); so does the store, which may also be a bucket.
#
# A worker that dies is told in one line, and the others go on from its last checkpoint once it has
# been silent for --lease-seconds.
set -euo pipefail

espalier launch --on=ray \
  --config=over_training:gpu \
  --store=runs \
  "$@"
