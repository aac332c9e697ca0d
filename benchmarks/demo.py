"""How long the demo takes, from an empty results folder to its page, and where the time goes.

The workflow runs in a copy of the checkout, as `make demo` runs it. What is measured is the wall
time and the processor time of Snakemake, its fork server and all jobs together. Beside them stands
the processor time of the jobs of each rule: the copy's `python -m partbench` is made to write down
what each process took before it ends. It counts from the fork in jobs that the server runs, and
from the interpreter's start in others, so the sum over rules is smaller than the whole.

Without the fork server (--alone) every job imports its packages itself, as on a cluster.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common

ROOT = Path(__file__).parent.parent
CHECKOUT = ("Snakefile", "config", "environment.yml", "partbench", "pyproject.toml", "workflow")
# Processor time of the demo before jobs shared their imports, on the two cores of `machine`.
BEFORE = 1305
# Prepended to the copy's partbench/__main__.py; a process that only waits for the server leaves
# without `atexit`.
RECORDER = """
import atexit, json, resource, sys

def _record():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(one.ru_utime + one.ru_stime for one in usage)
    with open({times!r}, "a") as file:
        file.write(json.dumps([sys.argv[1:], seconds]) + "\\n")

atexit.register(_record)
"""


def rule_of(words: Sequence[str]) -> str:
    """Return the rule whose job ran a command, such as `train_vae` or `probe_linear`."""
    command, *arguments = words
    if command == "train":
        return f"train_{arguments[arguments.index('--run') + 1].partition('/')[0]}"
    return f"probe_{arguments[0]}" if command == "probe" else command


def run(
    config: Path, cores: int, alone: bool, keep: Path | None
) -> tuple[common.Seconds, dict[str, Any]]:
    """Run the workflow from nothing; return what it took, and what each rule's jobs took."""
    with contextlib.nullcontext(keep) if keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name, "partbench")
        folder.mkdir(parents=True)
        for part in CHECKOUT:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        shutil.copy(config, folder / "measured.yaml")
        main, times = folder / "partbench" / "__main__.py", Path(name, "times")
        main.write_text(RECORDER.format(times=str(times)) + main.read_text())
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--quiet", "all"]
        command += ["--configfile", "measured.yaml", *(["--no-hooks"] if alone else [])]
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "PASSIVE"}
        seconds = common.timed(
            lambda: subprocess.run(command, cwd=folder, env=environment, check=True)
        )
        jobs = [json.loads(line) for line in times.read_text().splitlines()]
    rules: dict[str, Any] = {}
    for words, taken in jobs:
        rule = rules.setdefault(rule_of(words), {"jobs": 0, "cpu": 0.0})
        rule["jobs"] += 1
        rule["cpu"] = round(rule["cpu"] + taken, 3)
    return seconds, dict(sorted(rules.items(), key=lambda item: -item[1]["cpu"]))


def show(rules: Mapping[str, Any]) -> None:
    for rule, values in rules.items():
        print(f"demo, {rule}: {values['jobs']} jobs, CPU {values['cpu']:.3g} s")


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "demo")
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "demo.yaml")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without the fork server")
    parser.add_argument("--keep", type=Path, help="new folder for the copy and its results")
    args = parser.parse_args(argv)
    seconds, rules = run(args.config, args.cores, args.alone, args.keep)
    show(rules)
    name = yaml.safe_load(args.config.read_text())["name"]
    print(f"demo, {name}: {seconds.wall / 60:.3g} min on {args.cores} cores")
    result = {"config": name, "alone": args.alone, **seconds.json(), "rules": rules}
    if name == "demo":
        limit = 0.6 * BEFORE
        result |= {"before_cpu": BEFORE}
        result |= common.report_limit("demo, processor time", seconds.cpu, limit)
    machine = common.machine("cpu", ("torch", "snakemake", "lightning-fabric"), used=args.cores)
    common.write(args.out, "demo", {"machine": machine, **result})


if __name__ == "__main__":
    main()
