#!/usr/bin/env bash
# One test runs the workflow on a Slurm cluster of one node. Debian's Slurm is installed where that
# is possible; elsewhere the test skips and says so.
set -euo pipefail
command -v slurmctld slurmd munged > /dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update --quiet=2
    # The packages must not start daemons of their own.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --quiet=2 --yes --no-install-recommends slurm-wlm munge > /dev/null
else
    echo "Slurm is not installed: its test will skip (Debian: apt-get install slurm-wlm munge)"
fi
