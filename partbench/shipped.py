"""What comes with partbench beside its modules: the workflow, configurations, profiles, examples.

In a checkout these files lie at the top; an installed partbench has them in `partbench/share/`.
"""

import os
import re
from pathlib import Path

from partbench.errors import BadInput, shown
from partbench.settings import nearest

HERE = Path(__file__).parent


def folder() -> Path:
    """Return the folder that holds the Snakefile and all that comes with it."""
    share = HERE / "share"
    return share if share.is_dir() else HERE.parent


def configurations() -> list[str]:
    """Return the names of the configurations that come with partbench."""
    return sorted(path.stem for path in (folder() / "config").glob("*.yaml"))


def configuration(name: str) -> Path:
    """Return the file of a configuration, which may not exist if a path is given.

    Args:
        name: a file, or the name of a configuration that comes with partbench, such as "demo".

    Raises:
        BadInput: a word is neither.
    """
    path = Path(name)
    if name in configurations() and not path.is_file():
        return near(folder() / "config" / f"{name}.yaml")
    if path.exists() or not re.fullmatch(r"[\w-]+", name):
        return path
    hint = nearest(name, configurations())
    raise BadInput(
        f"no configuration {shown(name)}: no such file, and none of this name comes with "
        f"partbench; {hint} `partbench init` writes one"
    )


def near(path: Path) -> Path:
    """Return a path as one writes it: relative if it lies below the present folder."""
    inside = path.is_relative_to(Path.cwd())
    return Path(os.path.relpath(path)) if inside else path
