"""List the data sets, check which of their files are present, and draw samples of them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partbench import plugins
from partbench.data import fetch, placed
from partbench.data.archives import ARCHIVES, archives, files_read
from partbench.data.crop import TRAINED, wide_side
from partbench.data.prepare import prepare
from partbench.data.prepared import CANVAS, WHOLE, Prepared
from partbench.data.reader import Reader
from partbench.data.sheet import SAMPLES, write_sheet
from partbench.errors import BadInput
from partbench.integrity import read_record

READER: type[Reader] = Reader  # type: ignore[type-abstract]
BY_HAND = "placed by hand"


def listing(root: Path) -> str:
    """Return a table of all data sets and weights: size, way to get them, licence and state."""
    rows = [("", "archives", "download", "licence", "present")]
    for name in sorted({*plugins.names("data", READER), *ARCHIVES}):
        files = ARCHIVES.get(name, ())
        sizes = [file.size for file in files if file.size]
        suffix = "" if len(sizes) == len(files) else "+"
        rows.append(
            (
                name,
                f"{sum(sizes) / 1e9:.2f} GB{suffix}" if sizes else "?" if files else "none",
                "none"
                if not files
                else "automatic"
                if all(file.urls for file in files)
                else "by hand",
                "" if name not in plugins.names("data", READER) else _licence(name),
                "" if not files else "yes" if all(f.ready(root) for f in files) else "no",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([*lines, "", f"data root: {root.resolve()} (set by PARTBENCH_DATA)"])


def provide(name: str, reader: Reader, asked: str = "") -> dict[str, Any]:
    """Fetch the official files that a reader reads; return file -> state, and a record of others.

    Nothing is fetched for a subset: the reader uses the files that are present. The record, under
    the key `BY_HAND`, is of the files that a person places; it is left out if there are none.

    Args:
        name: the reader's.
        reader: the data set.
        asked: see `placed.record`.

    Raises:
        BadInput: see `fetch.fetch`.
    """
    files = files_read(name, reader.settings)
    if not reader.settings.subset:
        fetch.fetch(files, reader.root, prepared_bytes(reader))
    states: dict[str, Any] = {file.name: fetch.state(file, reader.root) for file in files}
    recorded = placed.record(reader, asked)
    return states | ({BY_HAND: recorded} if recorded else {})


def provide_weights(name: str, root: Path, asked: str = "") -> dict[str, Any]:
    """Fetch the files of a trained network; return file -> state, and a record as `provide` does.

    The record is of files that a person places or no published checksum covers.

    Args:
        name: the network, a name of `listing`.
        root: the data root.
        asked: see `placed.record`.

    Raises:
        BadInput: see `fetch.fetch`; or a file that a person put in place is not the official one.
    """
    files = archives(name)
    fetch.fetch(files, root)
    for file in files:
        fetch.verify(file, root)
    recorded = placed.record_of(placed.look_at_weights(files, root), asked)
    states: dict[str, Any] = {file.name: fetch.state(file, root) for file in files}
    return states | ({BY_HAND: recorded} if recorded else {})


def digest_of_weights(name: str, root: Path, recorded: Mapping[str, str]) -> str:
    """Return a text that differs from that of the last `provide_weights` if its files do.

    Args:
        name: the network.
        root: the data root.
        recorded: the last record; empty if there is none.
    """
    return placed.digest_of(placed.look_at_weights(archives(name), root), recorded)


def recorded_files(path: Path) -> dict[str, str]:
    """Return the record in a file that `provide` or `provide_weights` made; empty if none."""
    try:
        return dict(read_record(path).get(BY_HAND, {}))
    except (BadInput, AttributeError):
        return {}


def have_changed(prepared: Path, root: Path, contents: bool = False) -> bool:
    """Return whether the files of a data set changed after it was prepared.

    Args:
        prepared: its folder of prepared arrays, with the record beside it.
        root: the data root.
        contents: compare contents even where names, sizes and times are the same.

    Raises:
        BadInput: the data set is not prepared, or by a reader that is no longer there.
    """
    recorded = recorded_files(prepared.with_name(f"{prepared.name}.files.json"))
    if not recorded:
        return False
    meta = read_record(prepared / "meta.json")
    cls = plugins.load("data", meta["reader"], READER)
    now = placed.look(cls(root, cls.Settings.parse(meta["settings"], str(prepared))))
    if contents and now.times != placed.ABSENT and recorded["contents"]:
        return now.contents() != recorded["contents"]
    return not placed.is_same(now, recorded)


def prepared_bytes(reader: Reader, counts: Mapping[str, int] | None = None) -> int:
    """Return the size of the prepared images of a data set in bytes, or 0 if it is unknown.

    Args:
        reader: of the data set.
        counts: samples in each split; default: what the reader knows without its files.
    """
    settings = reader.settings
    counts = reader.counts if counts is None else counts
    width, height = reader.prepared_shape
    canvases = CANVAS**2 if settings.crop in WHOLE else 1
    usual = sum(counts.values()) * reader.frames * 3 * width * height * canvases
    if not settings.wide:
        return usual
    wide = wide_side(settings.size, settings.crop)
    return usual + sum(counts.get(split, 0) for split in TRAINED) * 3 * wide**2


def _licence(name: str) -> str:
    return plugins.load("data", name, READER).licence or "not stated"


def report(names: Sequence[str], root: Path) -> tuple[str, bool]:
    """Return a text on the state of each file of the named data sets, and whether all are ready.

    Args:
        names: data sets or weights; empty for all of them.
        root: the data root.

    Raises:
        BadInput: `archives` has no entry of that name.
    """
    lines, complete = [], True
    for name in names or sorted(ARCHIVES):
        for file in archives(name):
            state = fetch.state(file, root)
            complete &= state == "ready"
            lines.append(f"{name:12} {file.name}: {state}")
            if state == "ready":
                continue
            if file.urls:
                lines.append(f"{'':12} run `partbench data fetch {name}`, or by hand:")
            lines.append(f"{'':12} {fetch.by_hand(file, root)}")
    return "\n".join(lines), complete


def show(name: str, root: Path, settings: dict[str, Any], out: Path) -> None:
    """Write a contact sheet: some samples of a data set with their annotations drawn on them.

    Args:
        name: the reader.
        root: the data root; images may be missing.
        settings: settings of the reader that replace its defaults.
        out: the png file to write.

    Raises:
        BadInput: no image of the data set is present, or one cannot be read.
    """
    cls = plugins.load("data", name, READER)
    values = {"size": 128, "subset": True} | settings
    reader = cls(root, cls.Settings.parse(values, f"data.{name}"))
    limit = dict.fromkeys(reader.splits(), SAMPLES)
    reader = cls(root, cls.Settings.parse({"limit": limit} | values, f"data.{name}"))
    if not limit:
        raise BadInput(f"{root}: no image of '{name}' is present")
    with tempfile.TemporaryDirectory() as folder:
        prepare(reader, name, Path(folder) / name, workers=1)
        write_sheet(Prepared(Path(folder) / name), out)
