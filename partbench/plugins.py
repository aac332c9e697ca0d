"""Find a method, a data set or a probe by its name: the name of its file."""

import importlib
import importlib.util
import pkgutil
from typing import TypeVar

from partbench.errors import BadInput, shown
from partbench.settings import nearest

T = TypeVar("T")


def names(package: str, base: type) -> list[str]:
    """Return the names of the modules in `partbench.<package>` that define a `base`, sorted."""
    path = importlib.import_module(f"partbench.{package}").__path__
    modules = [module.name for module in pkgutil.iter_modules(path)]
    return sorted(name for name in modules if _classes(f"partbench.{package}.{name}", base))


def load(package: str, name: str, base: type[T], where: str = "command line") -> type[T]:
    """Return the subclass of `base` that the module `partbench.<package>.<name>` defines.

    Raises:
        BadInput: there is no such module (the nearest name is given), or it defines more than
            one subclass of `base`.
    """
    module = f"partbench.{package}.{name}"
    exists = name.isidentifier() and importlib.util.find_spec(module) is not None
    classes = _classes(module, base) if exists else []
    if not classes:
        hint = nearest(name, names(package, base))
        raise BadInput(f"{where}: no {shown(name)} in partbench/{package}/; {hint}")
    if len(classes) > 1:
        raise BadInput(
            f"partbench/{package}/{name}.py defines {len(classes)} subclasses of {base.__name__}; "
            "a file holds exactly one"
        )
    return classes[0]


def _classes(module: str, base: type[T]) -> list[type[T]]:
    return [
        value
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module
    ]
