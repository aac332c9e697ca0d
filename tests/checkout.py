"""A copy of the repository, in which tests edit files and run the workflow."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

REPOSITORY = Path(__file__).parents[1]
PARTS = (
    "Snakefile",
    "config",
    "environment.yml",
    "examples",
    "laptop",
    "partbench",
    "pyproject.toml",
    "slurm",
    "workflow",
    "workstation",
)
TINY = """
name: tiny
comparable: false
seeds: [0]
runtime: {device: cpu, threads: 1}
data:
  toy: {reader: toy, size: 32, train: 16, val: 1, test: 8}
probes:
  linear: {cs: [0.1]}
runs:
  - {train: toy, methods: {raw_pixels: [paper]}, probes: {linear: [toy]}}
"""
"""A configuration that takes seconds."""


class Job(NamedTuple):
    """A job that a dry run lists."""

    rule: str
    output: str


class Checkout:
    """What a user has after a clone, without git.

    Args:
        folder: where to put it; made here.
        copied: another one, to be copied with its results.
    """

    def __init__(self, folder: Path, copied: "Checkout | None" = None) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if copied:
            shutil.copytree(copied.folder, folder, ignore=ignored)
            return
        folder.mkdir(parents=True)
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=ignored)
            else:
                shutil.copy(source, folder / part)

    def configure(self, config: dict[str, Any], name: str = "tiny.yaml") -> str:
        """Write a configuration file and return its name."""
        (self.folder / name).write_text(yaml.safe_dump(config, sort_keys=False))
        return name

    def edit(self, path: str, function: str) -> None:
        """Add a statement to a function of a module of partbench, or to a method of its classes."""
        file = self.folder / "partbench" / path
        lines = file.read_text().splitlines(keepends=True)
        nodes = ast.walk(ast.parse("".join(lines)))
        body = next(n.body for n in nodes if isinstance(n, ast.FunctionDef) and n.name == function)
        last = body[-1]
        lines.insert(last.lineno - 1, f"{' ' * last.col_offset}edited = 1\n")
        file.write_text("".join(lines))

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `python -m` something, here unless told where; stderr goes into stdout."""
        hidden = {"PARTBENCH_DATA", "PYTHONPATH", "SNAKEMAKE_PROFILE"}
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=cwd or self.folder,
            env={key: value for key, value in os.environ.items() if key not in hidden},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def make(self, config: str, *arguments: str) -> str:
        """Run the workflow on one core, to its end; return what it printed."""
        done = self.run("snakemake", "--cores", "1", "--configfile", config, *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, config: str, *arguments: str) -> list[Job]:
        """Return the jobs that would run."""
        text = self.make(config, "--dry-run", *arguments)
        block = r"^(?:local)?rule (\w+):\n(?:    input: .*\n)?(?:    output: (.*)\n)?"
        return [Job(rule, output) for rule, output in re.findall(block, text, re.MULTILINE)]

    def metrics(self, name: str) -> pd.DataFrame:
        """Return `results/<name>/metrics.csv`."""
        return pd.read_csv(self.folder / "results" / name / "metrics.csv", keep_default_na=False)
