"""Names of files as lines of text, which names of samples become."""

import re

from partbench.errors import BadInput

UNWRITABLE = re.compile(r"[\ud800-\udfff\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
"""Bytes that are not UTF-8, as Python holds them, and whatever ends a line."""


def written(name: str) -> str:
    """Return a name as one line of text, with escapes for what none can hold, as in `caf\\xe9`."""
    return UNWRITABLE.sub(_escape, name)


def check_name(path: str) -> None:
    """Refuse a path that no line of text can hold.

    Raises:
        BadInput: with the path, escaped.
    """
    if UNWRITABLE.search(path):
        raise BadInput(
            f"{written(path)}: the name holds bytes that are not UTF-8, or ends a line (both "
            "written with \\ here), so no list can hold it; rename it. `convmv -f latin1 -t utf8 "
            "--notest -r FOLDER` does so for names in Latin-1."
        )


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{byte:02x}" if byte < 256 else f"\\u{byte:04x}"
