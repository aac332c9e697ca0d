"""What a new project begins with: a configuration, profiles, files of plugins with their tests."""

import shutil
from pathlib import Path

from partbench import names, shipped
from partbench.errors import BadInput
from partbench.files import atomic
from partbench.settings import nearest

PLUGINS = "plugins"
"""Folder of plugins in a project."""
EXAMPLE = "birds"
"""The example's configuration, and the name in it."""
PROFILES = ("laptop", "slurm", "workstation")


def project(name: str, profile: str | None, folder: Path) -> list[Path]:
    """Write a configuration and, where one is asked for, a profile; return them.

    The configuration names the methods in the plugin folder that lies there.

    Args:
        name: of the configuration and of its data set.
        profile: a name of `PROFILES`, or None.
        folder: where to write.

    Raises:
        BadInput: a name is not valid, or a file or folder is there already.
    """
    names.check(name, "NAME")
    if profile is not None and profile not in PROFILES:
        raise BadInput(f"--profile: no profile '{profile}'; {nearest(profile, PROFILES)}")
    configuration = folder / f"{name}.yaml"
    wanted = [configuration, *([folder / profile] if profile else [])]
    _refuse(wanted)
    text = (shipped.folder() / "examples" / f"{EXAMPLE}.yaml").read_text()
    text = text.replace(EXAMPLE, name)
    if (folder / PLUGINS).is_dir():
        text = text.replace("# plugins:", "plugins:")
        methods = sorted(path.stem for path in (folder / PLUGINS / "methods").glob("*.py"))
        lines = "".join(f"      {method}: [paper]\n" for method in methods)
        text = text.replace("    methods:\n", f"    methods:\n{lines}")
    with atomic(configuration) as path:
        path.write_text(text)
    if profile:
        shutil.copytree(shipped.folder() / profile, folder / profile)
    return wanted


def _refuse(wanted: list[Path]) -> None:
    for path in wanted:
        if path.exists():
            raise BadInput(f"{path} is there already; choose another name, or remove it")
