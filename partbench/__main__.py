"""`python -m partbench` is `partbench`."""

import sys

from partbench.cli import main

sys.exit(main())
