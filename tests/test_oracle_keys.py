"""Every array of the shared test vectors is read by a test, or is listed here with a reason."""

import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import oracle_vectors
import pytest
from conftest import REPOSITORY
from oracle_vectors import RECORD, Vectors

SIZES = "a size that the tests take from the other arrays"
NOT_BUILT = "method not built"
EVALUATOR = "evaluator: resizing masks bilinearly"
UNUSED = "the authors compute it and use it nowhere"
UNREAD = {
    ("part_metrics.npz", "cub?_mask"): EVALUATOR,
    ("part_metrics.npz", "cub?_seg_grey"): EVALUATOR,
    ("part_metrics.npz", "cub?_*_mask"): EVALUATOR,
    ("dlp.npz", "meta/[!v]*"): SIZES,
    ("*_model.npz", "meta/B"): SIZES,
    ("patchvae_vae_model.npz", "*/occ_prob"): "zeros: the VAE has no occurrence",
    ("patchvae_vae_model.npz", "temperature"): "the VAE has no temperature",
    ("dlp.npz", "masks/soft_bg_gauss"): UNUSED,
    ("dlp.npz", "masks/sum_gauss_above_threshold"): UNUSED,
    ("dlp.npz", "chamfer/pairwise_kl_reverse"): "not in the paper: the other direction",
    ("dlp.npz", "chamfer/value_symmetric"): "not in the paper: the mean of both directions",
    ("dlp.npz", "object/*_rec_[ab]"): "not in the paper: other ways of laying patches",
    ("fv_vae.npz", "*"): NOT_BUILT,
    ("generation_metrics.npz", "*"): NOT_BUILT,
}
"""(file, pattern of keys) -> why no test reads them."""


def reads(folder: Path) -> set[tuple[str, str]]:
    """Run all tests that use the vectors; return the files and keys that they read."""
    record = folder / "record"
    files = [
        str(path)
        for path in sorted((REPOSITORY / "tests").glob("test_*.py"))
        if "Vectors(" in path.read_text() and path != Path(__file__)
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *files],
        cwd=REPOSITORY,
        env=os.environ | {RECORD: str(record), "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    lines = record.read_text().splitlines()
    return {(name, key) for name, _, key in (line.partition(" ") for line in lines)}


def listed(name: str, key: str) -> Iterator[tuple[str, str]]:
    """Return the entries of the list that a key matches."""
    for file, pattern in UNREAD:
        if fnmatchcase(name, file) and fnmatchcase(key, pattern):
            yield file, pattern


def test_every_array_is_read_or_has_a_reason(oracles: Path, tmp_path: Path) -> None:
    keys = {(path.name, key) for path in oracles.glob("*.npz") for key in Vectors(path)}
    seen = reads(tmp_path)
    entries = {own: set(listed(*own)) for own in keys}
    lost = sorted(f"{' '.join(own)}" for own in keys - seen if not entries[own])
    assert not lost, f"read by no test, and no reason: {lost}"
    needless = sorted(f"{' '.join(own)}" for own in seen if entries[own])
    assert not needless, f"read by a test, though listed: {needless}"
    stale = set(UNREAD) - set().union(*entries.values())
    assert not stale, f"listed, but no file has them: {stale}"


def test_only_looking_up_an_array_counts_as_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "some.npz", a=1, b=2, **{"c/d": 3})
    monkeypatch.setattr(oracle_vectors, "_read", set())
    monkeypatch.setenv(RECORD, str(tmp_path / "record"))
    vectors = Vectors(tmp_path / "some.npz")
    assert list(vectors) == ["a", "b", "c/d"]
    assert "b" in vectors
    assert vectors.below("c/") == ["d"]
    assert vectors["a"] == 1
    with pytest.raises(TypeError, match="by their keys"):
        dict(vectors.items())
    oracle_vectors.keep_record()
    assert (tmp_path / "record").read_text() == "some.npz a"
