"""What data sets there are, what is there of them, and how they look."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partbench import plugins
from partbench.data import fetch
from partbench.data.archives import ARCHIVES, archives, files_read
from partbench.data.prepare import prepare
from partbench.data.prepared import CANVAS, WHOLE, Prepared
from partbench.data.reader import Reader
from partbench.data.sheet import SAMPLES, write_sheet
from partbench.errors import BadInput

READER: type[Reader] = Reader  # type: ignore[type-abstract]


def listing(root: Path) -> str:
    """Return a table of all data sets and weights: what they take, their licence, their state."""
    rows = [("", "archives", "comes", "licence", "here")]
    for name in sorted({*plugins.names("data", READER), *ARCHIVES}):
        files = ARCHIVES.get(name, ())
        known = [file.size for file in files if file.size]
        more = "" if len(known) == len(files) else "+" if known else "?"
        rows.append(
            (
                name,
                f"{sum(known) / 1e9:.2f} GB{more}" if files and known else "?" if files else "none",
                "not fetched"
                if not files
                else "fetched"
                if all(file.urls for file in files)
                else "by hand",
                "" if name not in plugins.names("data", READER) else _licence(name),
                "" if not files else "yes" if all(f.ready(root) for f in files) else "no",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([*lines, "", f"data root: {root.resolve()} (set by PARTBENCH_DATA)"])


def provide(name: str, reader: Reader) -> dict[str, str]:
    """Make sure that the official files that a reader reads are there; return file -> state.

    Of a subset, what is there is taken as it is.

    Raises:
        BadInput: as `fetch.fetch`.
    """
    files = files_read(name, reader.settings)
    if not reader.settings.subset:
        fetch.fetch(files, reader.root, prepared_bytes(reader))
    return {file.name: fetch.state(file, reader.root) for file in files}


def prepared_bytes(reader: Reader) -> int:
    """Return what the images of a data set will take once prepared; 0 if that is not known."""
    side = int(reader.settings.size) * (CANVAS if reader.settings.crop in WHOLE else 1)
    return sum(reader.counts.values()) * reader.frames * 3 * side**2


def _licence(name: str) -> str:
    return plugins.load("data", name, READER).licence or "not stated"


def report(names: Sequence[str], root: Path) -> tuple[str, bool]:
    """Return a text on each file of the data sets named, and whether all are ready.

    Raises:
        BadInput: there is no data set of a name.
    """
    lines, whole = [], True
    for name in names or sorted(ARCHIVES):
        for file in archives(name):
            state = fetch.state(file, root)
            whole &= state == "ready"
            lines.append(f"{name:12} {file.name}: {state}")
            if state == "ready":
                continue
            if file.urls:
                lines.append(f"{'':12} run `partbench data fetch {name}`, or by hand:")
            lines.append(f"{'':12} {fetch.by_hand(file, root)}")
    return "\n".join(lines), whole


def show(name: str, root: Path, settings: dict[str, Any], out: Path) -> None:
    """Write a contact sheet of some samples of a data set, annotations drawn on.

    Args:
        name: the reader.
        root: the data root; images may be missing.
        settings: of the reader, over its defaults.
        out: png file.

    Raises:
        BadInput: nothing of the data set can be read.
    """
    cls = plugins.load("data", name, READER)
    values = {"size": 128, "subset": True} | settings
    reader = cls(root, cls.Settings.parse(values, f"data.{name}"))
    limit = dict.fromkeys(reader.splits(), SAMPLES)
    reader = cls(root, cls.Settings.parse({"limit": limit} | values, f"data.{name}"))
    if not limit:
        raise BadInput(f"{root}: nothing of '{name}' is there")
    with tempfile.TemporaryDirectory() as folder:
        prepare(reader, name, Path(folder) / name, workers=1)
        write_sheet(Prepared(Path(folder) / name), out)
