"""Speed of partbench against what a user would otherwise pick; `python -m benchmarks` runs all."""

import os

# As the Makefile does for every job: OpenMP threads that wait must not spin. On a machine with
# other work to do, a spinning thread holds the core that the thread it waits for needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
