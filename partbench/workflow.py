"""The Snakemake command that computes a configuration."""

import os
from collections.abc import Sequence
from pathlib import Path

from partbench import shipped

CORES = ("--cores", "-c", "--jobs", "-j")


def command(configuration: Path, options: Sequence[str]) -> list[str]:
    """Return the command that computes a configuration, with results in the present folder.

    `--configfile` takes all words that follow it, so it stands where no target follows. A profile
    that comes with partbench goes by its name, unless the present folder has one of that name.

    Args:
        configuration: the file.
        options: Snakemake's own, and targets.
    """
    words = ["snakemake", "--configfile", str(configuration), "--rerun-incomplete"]
    if not any(option.startswith(CORES) for option in options):
        words += ["--cores", str(len(os.sched_getaffinity(0)))]
    snakefile = shipped.near(shipped.folder() / "Snakefile")
    if snakefile != Path("Snakefile"):  # Snakemake finds that by itself
        words += ["--snakefile", str(snakefile)]
    return [*words, *map(_with_path, options, ["", *options])]


def _with_path(option: str, before: str) -> str:
    """Return an option, with the path of a profile in place of its name."""
    flag, equals, name = option.rpartition("=")
    if (flag or before) != "--profile":
        return option
    profile = shipped.folder() / name
    if Path(name).exists() or not (profile / "config.yaml").is_file():
        return option
    return f"{flag}{equals}{shipped.near(profile)}"
