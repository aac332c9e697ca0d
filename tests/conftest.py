"""Fixtures: the real data and the reference numbers beside the repository, a tiny data set."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from oracle_vectors import RECORD, keep_record

from partbench.data.prepare import prepare
from partbench.data.toy import Toy
from partbench.integrity import write_checksums

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
settings.register_profile("without timings", deadline=None)
settings.load_profile("without timings")
TINY = {"train": 64, "val": 16, "test": 32}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run side by side, and sums in one thread have one order."""
    torch.set_num_threads(1)


def _folder(name: str, what: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{what} not found: {path} is absent")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real samples in the official layouts."""
    return _folder("data", "real sample data")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Numbers computed by the authors' code."""
    return _folder("oracles", "test vectors of the reference implementations")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a prepared data set: toy at 32 px, 64 training and 32 test images.

    They have neighbours, drawn at random.
    """
    folder = prepare_toy(tmp_path_factory.mktemp("tiny"))
    draw_neighbours(folder, TINY)
    return folder


def prepare_toy(folder: Path, **changes: Any) -> Path:
    """Prepare a small toy data set below `folder`; return where it lies."""
    settings = Toy.Settings.parse({"size": 32} | TINY | changes, "test")
    prepare(Toy(folder, settings), "toy", folder / "toy", workers=1)
    return folder / "toy"


@pytest.fixture(scope="session")
def python() -> list[str]:
    """The start of a command line that runs partbench."""
    return [sys.executable, "-m", "partbench"]


def mount(*arguments: str) -> bool:
    """Whether a file system could be mounted; takes root."""
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, leave: int) -> None:
        """Take up all space but `leave` bytes."""
        space = os.statvfs(self.path)
        free = space.f_bavail * space.f_frsize - leave
        (self.path / "filler").write_bytes(bytes(max(free, 0)))

    def clear(self) -> None:
        (self.path / "filler").unlink()

    def make_read_only(self) -> None:
        assert mount("-o", "remount,ro", str(self.path))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)):
        pytest.skip("mounting a small disk takes root")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Where a record is asked for, run only the tests that read the authors' numbers."""
    if RECORD in os.environ:
        items[:] = [item for item in items if "oracles" in item.fixturenames]


def pytest_sessionfinish() -> None:
    keep_record()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many injected faults were survived, and which; tests record them as tables."""
    counts = {
        outcome: sum("fault" in report.keywords for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed")
    }
    if sum(counts.values()):
        terminalreporter.write_line(
            f"faults injected: {sum(counts.values())}, survived: {counts['passed']}"
        )
    for report in terminalreporter.getreports("passed"):
        for title, rows in report.user_properties:
            terminalreporter.write_line(f"{title}:")
            for row in rows:
                terminalreporter.write_line("  " + " | ".join(map(str, row)))


def tensor(array: Any) -> torch.Tensor:
    """Return a numpy array as a float64 tensor."""
    return torch.from_numpy(np.asarray(array, np.float64))


def draw_neighbours(folder: Path, n: dict[str, int], ranks: int = 10) -> None:
    """Give the images of a prepared data set neighbours, drawn at random, at 0 to 30,000."""
    draw = np.random.default_rng(0)
    for split, count in n.items():
        rows = np.argsort(draw.random((count, 4, count)), -1)[..., :ranks]
        distances = np.sort(draw.uniform(0, 30_000, rows.shape).astype(np.float32), -1)
        np.save(folder / f"{split}.neighbours.npy", rows)
        np.save(folder / f"{split}.distances.npy", distances)
    write_checksums(folder)
