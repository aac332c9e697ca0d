"""What a new project begins with: a configuration, profiles, files of plugins with their tests."""

import keyword
import shutil
from pathlib import Path
from typing import NamedTuple

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
        BadInput: a name is not valid or taken, or a file or folder is there already.
    """
    names.check(name, "NAME")
    if name in shipped.configurations():
        raise BadInput(f"NAME is '{name}', a configuration of partbench's own; choose another")
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
    _write(configuration, text)
    if profile:
        shutil.copytree(shipped.folder() / profile, folder / profile)
    return wanted


def _refuse(wanted: list[Path]) -> None:
    for path in wanted:
        if path.exists():
            raise BadInput(f"{path} is there already; choose another name, or remove it")


class _Example(NamedTuple):
    """What a plugin of a kind begins as."""

    folder: str
    """Of `partbench.plugins.KINDS`."""
    name: str
    line: str
    """In a configuration; NAME stands for the plugin."""


EXAMPLES = {
    "method": _Example("methods", "autoencoder", "under `methods` of a block, `NAME: [paper]`"),
    "data": _Example("data", "shades", "under `data`, `NAME: {reader: NAME, size: 32}`"),
    "probe": _Example("probes", "centroid", "under `probes` of a block, `NAME: [DATA SET]`"),
}
CONFTEST = '''"""The tests of this folder find its plugins."""

from pathlib import Path

from partbench import plugins

plugins.add([Path(__file__).parents[1]], __file__)
'''


PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{}"
version = "0.1"
dependencies = ["partbench"]
"""


def packaged(kind: str, name: str, project: Path) -> str:
    """Write a plugin of a package, with the package around it where there is none; see `plugin`.

    Args:
        kind: a key of `EXAMPLES`.
        name: of the plugin.
        project: the folder of pyproject.toml; `own-parts` holds the package `own_parts`.

    Raises:
        BadInput: as of `plugin`; or the folder's name is none for a package.
    """
    package = project.resolve().name.replace("-", "_")
    if not package.isidentifier() or keyword.iskeyword(package):
        raise BadInput(
            f"--package: '{package}' would be the name of a Python package; use letters, digits "
            "and `-`"
        )
    folder = EXAMPLES[kind].folder
    file, test, *_, line = plugin(kind, name, project / package, project).splitlines()
    declaration = project / "pyproject.toml"
    text = declaration.read_text() if declaration.exists() else PROJECT.format(project.name)
    header = f'[project.entry-points."partbench.{folder}"]\n'
    if header not in text:
        text = f"{text.rstrip()}\n\n{header}"
    entry = f'{name} = "{package}.{folder}.{name}"\n'
    _write(declaration, text.replace(header, header + entry))
    return (
        f"{file}\n{test}\n{declaration}\nInstall it: pip install --editable {project}\n"
        f"Try it: pytest {test}\n{line}"
    )


def plugin(kind: str, name: str, folder: Path | None, project: Path | None = None) -> str:
    """Write a plugin that runs at once, and its test; return what is where, and what comes next.

    Both begin as the example of this kind in CONTRIBUTING.md.

    Args:
        kind: a key of `EXAMPLES`.
        name: of the plugin.
        folder: the plugin folder; None: the checkout's own package.
        project: the folder of the package that the plugin folder is; None: it is in none.

    Raises:
        BadInput: the name is not valid or taken, a file is there already, or there is no checkout.
    """
    names.check(name, "NAME")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadInput(f"NAME is '{name}': it names a Python module; use letters, digits and `_`")
    example = EXAMPLES[kind]
    shared = shipped.folder()
    source = shared / "examples" / "partbench-example"
    if (own := shipped.HERE / example.folder / f"{name}.py").exists():
        raise BadInput(f"NAME is '{name}', which partbench/{example.folder}/ has; choose another")
    if folder is None and shared != shipped.HERE.parent:
        raise BadInput("--checkout: this partbench is installed; leave the option out")
    file = folder / example.folder / f"{name}.py" if folder else shipped.near(own)
    test = (project or folder or shipped.near(shared)) / "tests" / f"test_{name}.py"
    _refuse([file, test])
    title = "".join(word.capitalize() for word in name.split("_")) or name
    code = (source / "src/partbench_example" / example.folder / f"{example.name}.py").read_text()
    tried = (source / "tests" / f"test_{example.name}.py").read_text()
    _write(file, code.replace(example.name.capitalize(), title))
    _write(test, tried.replace(f'"{example.name}"', f'"{name}"'))
    if folder and not project and not (conftest := folder / "tests" / "conftest.py").exists():
        _write(conftest, CONFTEST)
    line = example.line.replace("NAME", name)
    if folder and not project:
        line = f"`plugins: [{folder}]`, and {line}"
    return f"{file}\n{test}\nTry it: pytest {test}\nIn a configuration: {line}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as aside:
        aside.write_text(text)
