"""Find a method, a data set or a probe by its name: the name of its file.

The file lies in one of three places:

- in partbench itself: `partbench/methods/`, `partbench/data/`, `partbench/probes/`;
- in an installed package that names it in an entry point of the group `partbench.methods`,
  `partbench.data` or `partbench.probes`: `vae = "mine.methods.vae"`;
- in a folder that lies anywhere and has folders `methods/`, `data/` or `probes/`. A configuration
  names such folders under `plugins`; for commands without one, PARTBENCH_PLUGINS does, as PATH
  names folders.

The rules are the same for all: a file holds one class, and two files of one name are an error. A
folder stands for a package of its own, so its files import one another relatively
(`from ..layers import Block`), and none of them can hide a module of somebody else.
"""

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
import traceback
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from partbench.errors import BadInput, shown
from partbench.settings import nearest

T = TypeVar("T")

VARIABLE = "PARTBENCH_PLUGINS"
"""The environment's variable that names plugin folders; every process of a run inherits it."""
KINDS = ("methods", "data", "probes")
"""What a plugin can be: folders of a plugin folder, and groups of entry points."""
PREFIX = "partbench_plugins_"
"""Begins the name of the package that a plugin folder stands for."""


class Plugin(NamedTuple):
    """A file that defines a method, a data set or a probe, and is not partbench's."""

    kind: str
    name: str
    module: str
    place: str
    """Where it comes from, for people."""
    distribution: Distribution | None
    """The installed package that brings it; None for a folder."""


_used: dict[Plugin, None] = {}
"""What `load` has returned in this process."""


def add(paths: list[Path], where: str) -> None:
    """Look for plugins in some folders too, in this process and in those that it starts.

    Args:
        paths: the folders.
        where: they are named, for messages.

    Raises:
        BadInput: one is no plugin folder, or two have one name.
    """
    for path in paths:
        if os.pathsep in str(path.resolve()):
            raise BadInput(
                f"{where}: the plugin folder {path} has a '{os.pathsep}' in its path, which "
                f"separates folders in {VARIABLE}; move it"
            )
    known = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    every = dict.fromkeys([*known, *(str(path.resolve()) for path in paths)])
    _check(tuple(every), where)
    if every:
        os.environ[VARIABLE] = os.pathsep.join(every)
        importlib.invalidate_caches()


def names(package: str, base: type) -> list[str]:
    """Return the names of the modules in `partbench.<package>` that define a `base`, sorted.

    Plugins count among them.
    """
    path = importlib.import_module(f"partbench.{package}").__path__
    own = [module.name for module in pkgutil.iter_modules(path)]
    found = {name for name in own if _classes(f"partbench.{package}.{name}", base)}
    found |= {plugin.name for plugin in _plugins(package) if _of_plugin(plugin, base)}
    return sorted(found)


def load(package: str, name: str, base: type[T], where: str = "command line") -> type[T]:
    """Return the subclass of `base` that the module `partbench.<package>.<name>` or a plugin has.

    Raises:
        BadInput: there is no such module (the nearest name is given), it defines more than one
            subclass of `base`, or several modules of this name define one; or a plugin cannot be
            imported.
    """
    module = f"partbench.{package}.{name}"
    exists = name.isidentifier() and importlib.util.find_spec(module) is not None
    found = {f"partbench/{package}/{name}.py": _classes(module, base)} if exists else {}
    plugins = [plugin for plugin in _plugins(package) if plugin.name == name]
    found |= {plugin.place: _of_plugin(plugin, base) for plugin in plugins}
    found = {place: classes for place, classes in found.items() if classes}
    if not found:
        hint = nearest(name, names(package, base))
        nor = ", nor among the plugins" if _plugins(package) else ""
        raise BadInput(f"{where}: no {shown(name)} in partbench/{package}/{nor}; {hint}")
    if len(found) > 1:
        raise BadInput(
            f"{where}: {shown(name)} is the name of {' and of '.join(found)}; rename one of them"
        )
    ((place, classes),) = found.items()
    if len(classes) > 1:
        raise BadInput(
            f"{place} defines {len(classes)} subclasses of {base.__name__}; a file holds exactly "
            "one"
        )
    _used.update(dict.fromkeys(plugin for plugin in plugins if plugin.place == place))
    return classes[0]


def module(kind: str, name: str) -> str:
    """Return the module that `load` takes a method, a data set or a probe from."""
    plugins = (plugin.module for plugin in _plugins(kind) if plugin.name == name)
    return next(plugins, f"partbench.{kind}.{name}")


def used() -> list[Plugin]:
    """Return the plugins that this process has loaded."""
    return list(_used)


def packages() -> dict[str, Path]:
    """Return the packages of all plugins -> where each lies: a folder, or a file less `.py`."""
    return {**_installed_packages(), **_folders()}


def _plugins(kind: str) -> list[Plugin]:
    if kind not in KINDS:
        return []
    in_folders = [
        Plugin(kind, file.stem, f"{package}.{kind}.{file.stem}", str(file), None)
        for package, folder in _folders().items()
        for file in sorted((folder / kind).glob("*.py"))
        if file.stem.isidentifier() and file.stem != "__init__"
    ]
    return [*_installed(kind), *in_folders]


@cache
def _installed(kind: str) -> list[Plugin]:
    found = []
    for entry in sorted(entry_points(group=f"partbench.{kind}")):
        distribution = entry.dist
        assert distribution is not None
        place = f"{entry.value} of {distribution.name} {distribution.version}"
        if entry.attr or entry.module.rpartition(".")[2] != entry.name:
            raise BadInput(
                f"{place}: the entry point {shown(entry.name)} of partbench.{kind} must name a "
                f'module of the same name, such as `{entry.name} = "mine.{kind}.{entry.name}"`; '
                f"correct it, or uninstall {distribution.name}"
            )
        found.append(Plugin(kind, entry.name, entry.module, place, distribution))
    return found


@cache
def _installed_packages() -> dict[str, Path]:
    tops = {plugin.module.partition(".")[0] for kind in KINDS for plugin in _installed(kind)}
    found = {}
    for top in sorted(tops):
        spec = importlib.util.find_spec(top)
        if spec is None:
            continue  # `load` says so, with the plugin's name
        if spec.submodule_search_locations:
            found[top] = Path(next(iter(spec.submodule_search_locations)))
        elif spec.origin:
            found[top] = Path(spec.origin).with_suffix("")
    return found


def _folders() -> dict[str, Path]:
    """Return package -> plugin folder."""
    paths = os.environ.get(VARIABLE, "")
    return _check(tuple(filter(None, paths.split(os.pathsep))), VARIABLE) if paths else {}


@cache
def _check(paths: tuple[str, ...], where: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        folder = Path(path)
        if not any((folder / kind).is_dir() for kind in KINDS):
            raise BadInput(
                f"{where}: the plugin folder {folder} "
                + ("has none of the folders " if folder.is_dir() else "does not exist; it holds ")
                + f"{', '.join(f'{kind}/' for kind in KINDS)}; `partbench new` makes them"
            )
        package = PREFIX + re.sub(r"\W", "_", folder.name)
        if package in found:
            raise BadInput(
                f"{where}: the plugin folders {found[package]} and {folder} have one name; rename "
                "one of them"
            )
        found[package] = folder
    return found


def _of_plugin(plugin: Plugin, base: type[T]) -> list[type[T]]:
    try:
        return _classes(plugin.module, base)
    except BadInput:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(
            f"{plugin.place} cannot be imported: {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error


def _classes(module: str, base: type[T]) -> list[type[T]]:
    return [
        value
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module
    ]


class _Finder:
    """Imports the packages that plugin folders stand for."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        folder = _folders().get(name) if name.startswith(PREFIX) and "." not in name else None
        if folder is None:
            return None
        if (file := folder / "__init__.py").is_file():
            places = [str(folder)]
            return importlib.util.spec_from_file_location(
                name, file, submodule_search_locations=places
            )
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


sys.meta_path.append(_Finder)
