"""Every array of the shared test vectors is read by a test, or is listed here with a reason."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import oracle_vectors
import pytest
from conftest import REPOSITORY
from oracle_vectors import RECORD, Vectors

Key = tuple[str, str]
"""A file and a key of it."""
SIZES = "a size that the tests take from the other arrays"
UNUSED = "the authors compute it and use it nowhere"
UNREAD = {
    ("dlp.npz", "meta/[!v]*"): SIZES,
    ("*_model.npz", "meta/B"): SIZES,
    ("patchvae_vae_model.npz", "*/occ_prob"): "zeros: the VAE has no occurrence",
    ("patchvae_vae_model.npz", "temperature"): "the VAE has no temperature",
    ("dlp.npz", "masks/soft_bg_gauss"): UNUSED,
    ("dlp.npz", "masks/sum_gauss_above_threshold"): UNUSED,
    ("dlp.npz", "chamfer/pairwise_kl_reverse"): "not in the paper: the other direction",
    ("dlp.npz", "chamfer/value_symmetric"): "not in the paper: the mean of both directions",
    ("dlp.npz", "object/*_rec_[ab]"): "not in the paper: other ways of laying patches",
    ("generation_metrics.npz", "mmd2_biased"): "an estimator of KID that nobody reports",
    ("generation_metrics.npz", "mmd2_u_statistic"): "an estimator of KID that nobody reports",
    ("generation_metrics.npz", "kid_clean_*"): "the same formula on clean-fid's own subsets",
}
"""(file, pattern of keys) -> why no test reads them."""


def reads(folder: Path) -> set[Key]:
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


def faults(keys: set[Key], seen: set[Key], unread: Mapping[Key, str]) -> Iterator[str]:
    """Return what is wrong with a list of reasons, given all keys and those that tests read."""
    matched = set()
    for key in sorted(keys):
        entries = {e for e in unread if all(map(fnmatchcase, key, e))}
        matched |= entries
        if key not in seen and not entries:
            yield f"{key}: read by no test, and no reason"
        if key in seen and entries:
            yield f"{key}: read by a test, though listed as {entries}"
    yield from (f"{entry}: listed, but no file has it" for entry in sorted(set(unread) - matched))


def test_every_array_is_read_or_has_a_reason(oracles: Path, tmp_path: Path) -> None:
    keys = {(path.name, key) for path in oracles.glob("*.npz") for key in Vectors(path)}
    assert list(faults(keys, reads(tmp_path), UNREAD)) == []


@pytest.mark.parametrize(
    ("seen", "unread", "fault"),
    [
        ({("f", "a/x")}, {("f", "b*"): "not built"}, None),
        ({("f", "a/x")}, {}, "read by no test"),
        ({("f", "a/x"), ("f", "b")}, {("f", "b*"): "not built"}, "though listed"),
        ({("f", "a/x"), ("f", "b")}, {("f", "c"): "not built"}, "no file has it"),
        ({("f", "a/x")}, {("g", "b"): "not built"}, "read by no test"),
    ],
)
def test_the_list_of_reasons_is_whole_and_has_no_more(
    seen: set[Key], unread: dict[Key, str], fault: str | None
) -> None:
    found = list(faults({("f", "a/x"), ("f", "b")}, seen, unread))
    if fault is None:
        assert found == []
    else:
        assert fault in found[0]


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
