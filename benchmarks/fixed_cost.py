"""What a job costs before it computes, and what a dry run of the whole paper configuration costs.

A cell: `partbench train` with one training step on a tiny prepared data set, split into the
interpreter's start, the imports, the set-up until the first batch is there, the first step, and
what comes after it (writing the model, leaving). The same stages run as in the command itself,
which is timed as a whole beside it; only clocks are put between them.

The dry run: `snakemake -n` of config/paper.yaml. For scale: an empty Python and `import torch`.

Everything is started afresh in turn, and medians are compared. Python writes and reads its
compiled modules (__pycache__) as it does in a user's environment: here in a folder of the
benchmark's own, filled by a first run of each that is not counted. What a first run costs without
them is given, too.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import common
from partbench.data.prepare import prepare
from partbench.data.toy import Toy

ROOT = Path(__file__).parent.parent
DRY_RUN_LIMIT = 15
STAGES = ("interpreter", "imports", "set_up", "first_step", "end")
RUN = ("patchvae", "demo", "toy", "0")
# The first three stages are marked in the child; time.time() is the clock that processes share.
CLOCKED = """
import sys, time
marks = [time.time()]
from partbench import cli, method, train
from partbench.data.loader import Loader
cls = method.load({method!r})
marks.append(time.time())
after_step, to_device = cls.after_step, Loader._to_device

def batch_is_there(self, *parts):
    batch = to_device(self, *parts)
    marks.append(time.time())
    return batch

def step_is_done(self, step):
    after_step(self, step)
    marks.append(time.time())

Loader._to_device, cls.after_step = batch_is_there, step_is_done
status = cli.main(sys.argv[1:])
print(*marks)
sys.exit(status)
"""


def start(command: Sequence[str], pycache: Path | None) -> tuple[common.Seconds, list[float], str]:
    """Run a command to its end; return what it took, when it began and ended, its output."""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    if pycache:
        environment["PYTHONPYCACHEPREFIX"] = str(pycache)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done: list[subprocess.CompletedProcess[str]] = []
    began = time.time()
    seconds = common.timed(
        lambda: done.append(
            subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        )
    )
    if done[0].returncode:
        raise SystemExit(f"{command[:4]} failed:\n{done[0].stdout[-2000:]}{done[0].stderr[-2000:]}")
    return seconds, [began, time.time()], done[0].stdout


def commands(folder: Path, config: str) -> dict[str, list[str]]:
    """Return what is timed; `{out}` stands for a folder that is not there yet."""
    one_step = {"batch_size": 32, "images_per_epoch": 32, "epochs": 1}
    settings = json.dumps({"encoder_width": 16, "decoder_width": 16, **one_step})
    train = ["train", "--run", "/".join(RUN), "--settings", settings]
    train += ["--runtime", '{"device": "auto", "threads": 1}']
    train += ["--data", str(folder / "toy"), "--out", "{out}"]
    paper = ["--nolock", "--configfile", config]
    return {
        "empty_python": [sys.executable, "-c", "pass"],
        "import_torch": [sys.executable, "-c", "import torch"],
        "cell": [sys.executable, "-m", "partbench", *train],
        "cell_by_stage": [sys.executable, "-c", CLOCKED.format(method=RUN[0]), *train],
        "dry_run": [sys.executable, "-m", "snakemake", "-n", "--cores", "2", *paper],
    }


def measure(rounds: int, config: str) -> dict[str, Any]:
    times: dict[str, list[common.Seconds]] = {}
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy = Toy(folder, Toy.Settings(size=32, train=32, val=1, test=1))
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(toy, "toy", folder / "toy", 1)
        pycache = folder / "pycache" if rounds else None
        for turn in range(rounds + 1):  # the first compiles modules and fills the page cache
            for key, words in commands(folder, config).items():
                command = [w.replace("{out}", str(folder / f"{key}{turn}")) for w in words]
                seconds, (began, ended), output = start(command, pycache)
                times.setdefault(key, []).append(seconds)
                if key == "cell_by_stage" and (turn or not rounds):
                    marks = [began, *map(float, output.split()[-4:]), ended]
                    for stage, (a, b) in zip(STAGES, pairwise(marks), strict=True):
                        stages[stage].append(b - a)
    result: dict[str, Any] = {}
    for key, (first, *later) in times.items():
        took = common.median(later or [first])
        result[key] = {**took.json(), "first_run_wall": round(first.wall, 3)}
    medians = {
        stage: common.median(common.Seconds(t, 0) for t in values).wall
        for stage, values in stages.items()
    }
    result["cell_by_stage"]["stages"] = medians
    result["cell_by_stage"]["to_first_batch"] = sum(list(medians.values())[:3])
    return result


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "fixed_cost")
    parser.add_argument(
        "--rounds", type=int, default=2, help="0: the first runs count, with the user's __pycache__"
    )
    parser.add_argument("--config", default="config/paper.yaml", help="of the dry run")
    args = parser.parse_args(argv)
    result = measure(args.rounds, args.config)
    for key, value in result.items():
        print(
            f"fixed_cost, {key}: {value['wall']:.3g} s (CPU {value['cpu']:.3g} s; "
            f"first run {value['first_run_wall']:.3g} s)"
        )
    split = result["cell_by_stage"]
    parts = ", ".join(f"{key} {value:.3g} s" for key, value in split["stages"].items())
    print(f"fixed_cost, start to first batch: {split['to_first_batch']:.3g} s ({parts})")
    result["dry_run"] |= common.report_limit(
        f"fixed_cost, dry run of {args.config}", result["dry_run"]["wall"], DRY_RUN_LIMIT
    )
    packages = ("torch", "snakemake", "lightning-fabric", "pydantic")
    common.write(args.out, "fixed_cost", {"machine": common.machine("cpu", packages), **result})


if __name__ == "__main__":
    main()
