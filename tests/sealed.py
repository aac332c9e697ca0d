"""Change files that partbench wrote on purpose, so that their checksums agree again."""

import json
from pathlib import Path
from typing import Any

from partbench.integrity import CHECKSUMS, SEAL, write_checksums, write_record


def reseal(folder: Path, **changes: Any) -> Path:
    """Return a folder of prepared data or outputs with checksums of its files as they are now.

    Args:
        folder: with arrays and records; links are replaced, what they lead to is left alone.
        changes: of the values of its meta.json.
    """
    write_checksums(folder)
    for path in folder.glob("*.json"):
        if path.name == CHECKSUMS:
            continue
        values = json.loads(path.read_text())
        values.pop(SEAL, None)
        write_record(path, values | (changes if path.name == "meta.json" else {}))
    return folder


def meta_of(folder: Path) -> dict[str, Any]:
    """Return the values of a data set's meta.json."""
    values: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    values.pop(SEAL)
    return values
