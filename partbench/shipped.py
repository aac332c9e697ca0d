"""What comes with partbench beside its modules: the workflow, configurations, profiles, examples.

In a checkout these files lie at the top; an installed partbench has them in `partbench/share/`.
"""

import os
from pathlib import Path

from partbench.errors import BadInput, shown
from partbench.settings import nearest

HERE = Path(__file__).parent


def folder() -> Path:
    """Return the folder that holds the Snakefile and all that comes with it."""
    share = HERE / "share"
    return share if share.is_dir() else HERE.parent


def configuration(name: str) -> Path:
    """Return the file of a configuration.

    Args:
        name: a file, or the name of a configuration that comes with partbench, such as "demo".

    Raises:
        BadInput: there is no such file or configuration.
    """
    own = folder() / "config"
    if (path := Path(name)).is_file():
        return path
    if (path := own / f"{name}.yaml").is_file() and "/" not in name:
        return near(path)
    hint = nearest(name, (path.stem for path in own.glob("*.yaml")))
    raise BadInput(
        f"no configuration {shown(name)}: no such file, and none of this name comes with "
        f"partbench; {hint} `partbench init` writes one"
    )


def near(path: Path) -> Path:
    """Return a path as one writes it: relative if it lies below the present folder."""
    inside = path.is_relative_to(Path.cwd())
    return Path(os.path.relpath(path)) if inside else path
