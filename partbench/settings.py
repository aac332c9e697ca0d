"""Typed, validated settings, and errors that name the nearest valid key."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from partbench.errors import BadInput, shown

MOST = 20
"""Faults in a message."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return a hint for a mistyped `word`: the nearest valid one, and all of them if few."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid: {', '.join(valid)}."


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown key, defaults validated."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Validate `values`.

        Args:
            values: keys and values as they stand in a configuration file.
            where: the file and key they come from, for the message.

        Raises:
            BadInput: a key is unknown (the nearest valid one is named) or a value has the
                wrong type or range; every fault is listed, up to `MOST`.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = [_explain(cls, fault, where) for fault in error.errors()]
            more = [f"{where}: {len(faults) - MOST} more faults."] if len(faults) > MOST else []
            raise BadInput("\n".join([*faults[:MOST], *more])) from None


def _explain(cls: type[BaseModel], fault: Any, where: str) -> str:
    if not fault["loc"]:  # of the settings as a whole
        return f"{where}: {fault['msg']}."
    *parents, key = fault["loc"]
    if fault["type"] == "extra_forbidden":
        hint = nearest(str(key), _fields(cls, parents))
        return f"{where}: unknown key '{_path(fault['loc'])}'; {hint}"
    if key == "[key]":  # pydantic's word for: the key, not its value
        return f"{where}: '{_path(parents[:-1])}' has the key {shown(parents[-1])}: {fault['msg']}."
    return f"{where}: '{_path(fault['loc'])}' is {shown(fault['input'])}: {fault['msg']}."


def _path(location: Sequence[Any]) -> str:
    """Return the place of a fault; what cannot be printed in a line is escaped."""
    return ".".join(shown(str(part))[1:-1] for part in location)


def _fields(cls: type[BaseModel], parents: list[Any]) -> list[str]:
    """Return the valid keys at the place `parents` inside `cls`."""
    model: Any = cls
    for parent in parents:
        if isinstance(parent, str) and parent in getattr(model, "model_fields", {}):
            model = model.model_fields[parent].annotation
        while not hasattr(model, "model_fields"):
            inner = [a for a in getattr(model, "__args__", ()) if a not in (str, type(None))]
            if not inner:
                return []
            model = inner[-1]
    return list(model.model_fields)


def dump(settings: Settings) -> str:
    """Return settings as one line of json with sorted keys, to pass on a command line."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True)


def json_object(text: str, where: str) -> dict[str, Any]:
    """Return the values of a json object, or raise BadInput.

    Args:
        text: the json.
        where: it comes from, for the message.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise BadInput(f"{where} is not json: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f'{where} must be a json object, such as {{"seed": 1}}')
    return values
