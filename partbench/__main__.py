"""`python -m partbench` is `partbench`, run by a fork server where there is one."""

from partbench import forkserver

forkserver.delegate()

from partbench.cli import main  # noqa: E402

try:
    status = main()
except SystemExit as end:
    status = end.code  # type: ignore[assignment]
forkserver.leave(status or 0)
