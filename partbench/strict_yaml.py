"""YAML of a user, read so that it can neither mislead nor harm.

A key that is given twice, a tag, and what expands beyond a bound are refused. Anchors, aliases and
merge keys work.
"""

from pathlib import Path
from typing import Any

import yaml

from partbench.errors import BadInput, shown

MOST_BYTES = 1 << 20
MOST_VALUES = 20_000
"""Keys and values, each alias counted as what it stands for; paper.yaml has some 1,000."""
MOST_DEPTH = 32


def read_mapping(path: Path) -> dict[str, Any]:
    """Read keys and values from a YAML file.

    Raises:
        BadInput: the file cannot be read, is longer than `MOST_BYTES` or not UTF-8; it is not one
            YAML document of keys and values; it gives a key twice, has a tag or an alias of
            something that it lies in; it is nested deeper than `MOST_DEPTH` or holds more than
            `MOST_VALUES`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from None
    if len(content) > MOST_BYTES:
        raise BadInput(f"{path}: longer than {MOST_BYTES:,} bytes; give a configuration file")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not valid YAML: {error}; save it as UTF-8") from None
    try:
        loader = _Loader(text)
        loader.name = str(path)
        values = loader.get_single_data()
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not valid YAML: {error}") from None
    except (ValueError, OverflowError) as error:  # such as 2026-13-01, and numbers of 5,000 digits
        raise BadInput(
            f"{path}: not valid YAML: a value that looks like a number or a date is none "
            f"({error}); correct it, or quote it"
        ) from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: must hold keys and values, such as those of config/demo.yaml")
    return values


class _Loader(yaml.SafeLoader):
    """Counts the values while they are composed, before any is made."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.values = 0
        """So far, aliases counted as what they stand for."""
        self.sizes: dict[yaml.Node | None, int] = {}
        """Of the nodes that are whole."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        place = f"{self.name}, line {event.start_mark.line + 1}"
        if getattr(event, "tag", None) is not None:
            raise BadInput(
                f"{place}: not valid YAML for a configuration: the tag {shown(event.tag)}; leave "
                "it out"
            )
        before = self.values
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise BadInput(f"{place}: nested more than {MOST_DEPTH} levels deep; flatten it")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.values += 1
            self.sizes[node] = self.values - before
        elif node in self.sizes:
            self.values += self.sizes[node]
        else:
            raise BadInput(f"{place}: '*{event.anchor}' lies inside of what it stands for")
        if self.values > MOST_VALUES:
            raise BadInput(
                f"{place}: more than {MOST_VALUES:,} keys and values, each alias (`*`) counted as "
                "what it stands for; write less"
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # lists and mappings are no keys; the constructor says so
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise BadInput(
                    f"{self.name}, line {line}: the key {shown(key.value)} is given twice, first "
                    f"in line {first}; keep one of them"
                )
            lines[key.tag, key.value] = line
        return node
