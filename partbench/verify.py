"""Compare every file of a results folder with its checksum: `partbench verify results/NAME`."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from partbench.errors import BadInput
from partbench.files import sha256
from partbench.integrity import CHECKSUMS, Damaged, check_archive, read_record, verify
from partbench.probe import read_cell
from partbench.progress import Progress
from partbench.provenance import READER


def report(results: Path) -> tuple[str, list[BadInput]]:
    """Read all that the stages wrote.

    Args:
        results: the folder results/NAME.

    Returns:
        A table of kinds of files with how many there are and how many are damaged; what is wrong
        with each of these, as errors that say how to mend it.

    Raises:
        BadInput: there is no such folder.
    """
    if not (results / "config.json").exists():
        raise BadInput(f"{results} has no config.json; name a results folder, such as results/demo")
    counts: dict[str, list[int]] = {}
    faults = []
    checks = list(_checks(results))
    with Progress(f"verify {results}", len(checks), "files") as progress:
        for kind, check in checks:
            count = counts.setdefault(kind, [0, 0])
            count[0] += 1
            try:
                check()
            except BadInput as error:
                count[1] += 1
                faults.append(error)
            progress.advance()
    width = max(map(len, counts))
    lines = [f"{'':{width}}  files  damaged"]
    lines += [f"{kind:{width}}  {n:5}  {bad:7}" for kind, (n, bad) in counts.items()]
    return "\n".join(lines), faults


def _checks(results: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each file's kind and what raises `BadInput` if it is damaged."""
    for path in (results / "config.json", *sorted(results.glob("*/*.files.json"))):
        yield "records of the configuration and of fetched files", partial(read_record, path)
    for meta in sorted((results / "data").glob("*/meta.json")):
        yield "records of prepared data", partial(read_record, meta)
        if (reader := meta.with_name(READER)).exists():
            yield "records of prepared data", partial(read_record, reader, meta)
        for path in _listed(meta.parent):
            yield "prepared data", partial(verify, path, meta)
    for model in sorted((results / "runs").glob("*/*/*/*/model.pt")):
        yield "models", partial(check_archive, model)
        train = model.with_name("train.json")
        yield "records of trainings", partial(read_record, train, model)
        yield "logs of trainings", partial(_check_log, model)
    for path in sorted((results / "runs").glob("*/*/*/*/*.pt")):
        if path.name != "model.pt":  # of trainings, and of probes that train
            yield "checkpoints", partial(check_archive, path)
    for folder in sorted((results / "outputs").glob("*/*/*/*/*/*/")):
        for path in _listed(folder):
            yield "outputs", partial(verify, path, folder)
    for path in sorted((results / "cells").glob("*/*/*/*/*/*.json")):
        yield "cells", partial(read_cell, path)
    for path in sorted((results / "cells").glob("*/*/*/*/*/*.npz")):
        of_probe = not path.name.endswith(".pictures.npz")
        product = path.with_suffix(".json") if of_probe else path
        yield "pictures", partial(check_archive, path, product)


def _listed(folder: Path) -> list[Path]:
    """Return the files that a folder's checksums name; their record if it is damaged itself."""
    try:
        return [folder / name for name in read_record(folder / CHECKSUMS)["files"]]
    except BadInput:
        return [folder / CHECKSUMS]


def _check_log(model: Path) -> None:
    log = model.with_name("log.jsonl")
    record = read_record(model.with_name("train.json"), model)
    if not log.exists() or sha256(log) != record.get("log"):
        raise Damaged(log, "it is missing, or does not agree with the run's checksum", model)
