"""The fixed cost of a cell: train, extract and probe, which compute next to nothing.

The three commands of a cell run one after another on a tiny data set, as the workflow runs them:
each by itself, and as forks of one server. With the server, its own start and imports are shared by
all cells of a workflow, so they stand apart: the cost of a cell is what each further one adds.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from partbench.data.prepare import prepare
from partbench.data.toy import Toy
from partbench.forkserver import THREADS, Server

ROOT = Path(__file__).parent.parent
TARGET = 3.0
"""Processor time of a cell, seconds."""
STEP = {"batch_size": 32, "images_per_epoch": 32, "epochs": 1}
RUNTIME = '{"device": "cpu", "threads": 1}'


def commands(folder: Path, number: int) -> list[list[str]]:
    """Return the commands of one cell."""
    run, out = f"patchvae/demo/toy/{number}", folder / f"run{number}"
    settings = json.dumps({"encoder_width": 16, "decoder_width": 16, **STEP})
    data = ["--data", str(folder / "toy"), "--runtime", RUNTIME]
    outputs = str(folder / f"outputs{number}")
    return [
        ["train", "--run", run, "--settings", settings, *data, "--out", str(out)],
        [
            *("extract", "--model", str(out / "model.pt"), "--needs", "features", *data),
            *("--outputs", outputs, "--pictures", f"{outputs}.npz"),
        ],
        [
            *("probe", "linear", "--run", run, "--source", outputs, *data),
            *("--settings", '{"cs": [0.1]}', "--out", f"{outputs}.json"),
        ],
    ]


def cells(folder: Path, numbers: range, served: bool) -> None:
    """Run some cells, with a server or without."""
    server = Server()
    if served:
        server.start(threads=1)
    for number in numbers:
        for words in commands(folder, number):
            command = [sys.executable, "-m", "partbench", *words]
            environment = os.environ | dict.fromkeys(THREADS, "1")  # as Snakemake sets them
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    server.stop()


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "cells")
    parser.add_argument("--cells", type=int, default=3, help="counted cells of each side")
    args = parser.parse_args(argv)
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy = Toy(folder, Toy.Settings(size=32, train=32, val=1, test=32))
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(toy, "toy", folder / "toy", 1)
        cells(folder, range(1), served=False)  # compiles modules, fills the page cache
        place = 1
        for served in (False, True):
            taken = []
            for count in (1, 1 + args.cells):
                numbers = range(place, place + count)
                taken.append(common.timed(lambda n=numbers, s=served: cells(folder, n, s)).cpu)  # type: ignore[misc]
                place += count
            times["served" if served else "alone"] = (taken[1] - taken[0]) / args.cells
    cost = common.report_ratio("cells, processor time", times["served"], times["alone"])
    limit = common.report_limit("cells, forks of one server", times["served"], TARGET)
    machine = common.machine("cpu", ("torch", "lightning-fabric", "pandas"))
    result = {"machine": machine, "cell_cpu": cost, "limit": limit}
    common.write(args.out, "cells", result)


if __name__ == "__main__":
    main()
