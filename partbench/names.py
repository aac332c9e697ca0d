"""What a name may be: of a configuration, a data set, a split or a plug-in.

Names become parts of paths and of command lines, so all of them keep to one rule.
"""

import re
from collections import Counter
from pathlib import PurePath
from typing import Annotated, TypeVar

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from partbench.errors import BadInput, shown

T = TypeVar("T")

LONGEST = 64
LONGEST_VARIANT = 128
LONGEST_PATH = 1024
LONGEST_FILE_NAME = 255
"""Bytes that file systems allow."""
RESERVED = (".part", ".json", ".html")
"""Endings of partbench's own files, which lie beside folders of the users' names."""
RULE = (
    f"a name has at most {LONGEST} characters: a to z, A to Z, 0 to 9, `_`, `-` and, inside, `.`; "
    f"it begins with a letter, a digit or `_`, and ends neither in {' nor in '.join(RESERVED)}"
)
VARIANT_RULE = (
    f"a variant is a name, or some joined by `+`, of at most {LONGEST_VARIANT} characters; {RULE}"
)
FOLDER_RULE = (
    "give a folder below the data root (PARTBENCH_DATA): a relative path without `..` and without "
    "control characters"
)
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?")


def version_of(name: str) -> str:
    """Return the data set that a configuration's is a version of: `mafl-stretch` is of mafl."""
    return name.partition("-")[0]


def split_of(name: str) -> str:
    """Return the data set that another is an official split of: `ucf101-2` is of ucf101.

    A name without such a number is returned as it is.
    """
    return re.sub(r"-[1-9]$", "", name)


def is_valid(name: str) -> bool:
    """Whether a name follows the rule."""
    fits = len(name) <= LONGEST and _NAME.fullmatch(name) is not None
    return fits and not name.lower().endswith(RESERVED)


def check(name: str, where: str) -> None:
    """Raise BadInput unless a name follows the rule.

    Args:
        name: the name.
        where: what it names, for the message.
    """
    if not is_valid(name):
        raise BadInput(f"{where} is {shown(name)}: {RULE}")


def _name(name: str) -> str:
    if not is_valid(name):
        raise PydanticCustomError("name", RULE)
    return name


def _variant(variant: str) -> str:
    if len(variant) > LONGEST_VARIANT or not all(map(is_valid, variant.split("+"))):
        raise PydanticCustomError("variant", VARIANT_RULE)
    return variant


def _folder(folder: str) -> str:
    path = PurePath(folder)
    inside = folder and not path.is_absolute() and ".." not in path.parts
    short = len(folder) <= LONGEST_PATH and all(
        len(part.encode(errors="replace")) <= LONGEST_FILE_NAME for part in path.parts
    )
    if not (inside and short and folder.isprintable()):
        raise PydanticCustomError("folder", FOLDER_RULE)
    return folder


def _distinct(values: dict[str, T]) -> dict[str, T]:
    seen: dict[str, str] = {}
    for name in values:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise PydanticCustomError(
                "case",
                "'{one}' and '{other}' differ only in case, and some file systems take them for "
                "one; rename one of them",
                {"one": other, "other": name},
            )
    return values


def _once(values: list[T]) -> list[T]:
    value, times = Counter(values).most_common(1)[0] if values else (None, 0)
    if times > 1:
        context = {"value": str(value), "times": times}
        raise PydanticCustomError("once", "it holds {value} {times} times; give it once", context)
    return values


Name = Annotated[str, AfterValidator(_name)]
"""A name that follows the rule."""
Variant = Annotated[str, AfterValidator(_variant)]
"""Names joined by `+`."""
FolderPath = Annotated[str, AfterValidator(_folder)]
"""A relative path that stays below the folder it is relative to."""
ByName = Annotated[dict[Name, T], AfterValidator(_distinct)]
"""Values by names that differ in more than case."""
Once = Annotated[list[T], AfterValidator(_once)]
"""A list without repetition."""
