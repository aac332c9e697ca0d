"""What partbench wrote and something else changed is found where it is read."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from partbench.files import MARK
from partbench.integrity import (
    CHECKSUMS,
    Damaged,
    check_archive,
    open_array,
    read_record,
    verify,
    write_checksums,
    write_record,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "sha256"), plain))
def test_a_record_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        write_record(path, values)
        assert json.dumps(read_record(path), sort_keys=True) == json.dumps(values, sort_keys=True)


def test_what_json_writes_otherwise_is_no_damage(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", {"pair": (1, 2), "by": {1: "one", 10: "ten", 2: "two"}})
    assert read_record(tmp_path / "a.json")["by"]["10"] == "ten"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("15.6", "99.9"), "does not agree with its checksum"),
        (lambda text: text.replace("15.6", "NaN"), "does not agree with its checksum"),
        (lambda text: text[: len(text) // 2], "is not json"),
        (lambda text: "", "is not json"),
        (lambda text: "[1, 2]", "no keys and values"),
        (lambda text: '{"value": 15.6}', "no checksum"),
    ],
)
def test_a_changed_record_is_found(
    change: Callable[[str], str], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "cell.json"
    write_record(path, {"value": 15.6})
    path.write_text(change(path.read_text()))
    with pytest.raises(Damaged, match=rf"cell.json is damaged.*{reason}.*Delete .*model.pt and"):
        read_record(path, tmp_path / "model.pt")


def test_a_record_laid_out_anew_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_record(path, {"b": 1.5, "a": [1, 2]})
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert read_record(path) == {"b": 1.5, "a": [1, 2]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "train.images.npy", np.arange(100, dtype=np.uint8))
    (tmp_path / "train.names.txt").write_text("a\nb\n")
    write_checksums(tmp_path)
    return tmp_path


def test_arrays_are_verified_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("partbench.integrity.sha256", lambda path: calls.append(path) or "wrong")
    with pytest.raises(Damaged):
        open_array(folder / "train.images.npy", folder)
    monkeypatch.undo()
    path = folder / "train.images.npy"
    shutil.copy(path, folder / "copy")
    (folder / "copy").replace(path)  # another file, so that the wrong checksum is forgotten
    open_array(path, folder)
    monkeypatch.setattr("partbench.integrity.sha256", lambda path: calls.append(path) or "wrong")
    assert open_array(path, folder).tolist() == list(range(100))
    assert len(calls) == 1


@pytest.mark.parametrize("place", [0, 8, 60, 127, 128, 200, -1])
def test_a_flipped_bit_is_found_wherever_it_is(folder: Path, place: int) -> None:
    path = folder / "train.images.npy"
    open_array(path, folder)  # verified; the change is noticed all the same
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"train.images.npy is damaged.*Delete .*meta.json and run"):
        open_array(path, folder / "meta.json")


def test_files_that_are_missing_or_unknown(folder: Path) -> None:
    np.save(folder / "new.npy", np.zeros(3))
    with pytest.raises(Damaged, match=rf"new.npy .*{CHECKSUMS} beside it does not name it"):
        verify(folder / "new.npy", folder)
    with pytest.raises(Damaged, match=r"gone.npy .*No such file.*Delete .* and run the same"):
        verify(folder / "gone.npy", folder)
    (folder / "train.names.txt").write_text("a\nc\n")
    with pytest.raises(Damaged, match=r"names\.txt"):
        verify(folder / "train.names.txt", folder)


def test_what_is_damaged_is_set_aside(folder: Path) -> None:
    product = folder / "model.pt"
    product.write_text("one")
    with pytest.raises(Damaged, match="cannot be read") as missing:
        read_record(folder / "train.json", product)
    assert missing.value.set_aside() == f"{product} is moved to model.pt.damaged"
    assert (folder / "model.pt.damaged").read_text() == "one"
    assert missing.value.set_aside() == f"{product} cannot be moved"
    # A folder of somebody else's stays.
    assert Damaged(folder, "why").set_aside() == f"{folder} cannot be moved"
    (folder / MARK).touch()
    assert Damaged(folder, "why").set_aside() == f"{folder} is removed"
    assert not folder.exists()


def test_known_checksums_are_not_read_again(folder: Path) -> None:
    assert write_checksums(folder, {"train.images.npy": "0" * 64})["train.images.npy"] == "0" * 64
    with pytest.raises(Damaged):
        verify(folder / "train.images.npy", folder)


def test_every_byte_of_a_model_counts_or_does_not_matter(tmp_path: Path) -> None:
    """Whatever byte changes, the tensors are as before or the file is refused."""
    path = tmp_path / "model.pt"
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    torch.save(tensors, path)
    content = path.read_bytes()
    found = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            check_archive(path)
            loaded = torch.load(path, weights_only=True)
        except Exception:  # torch raises anything on a damaged file
            found += 1
            continue
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    assert found > len(content) // 3


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"not an archive")
    with pytest.raises(Damaged, match=r"model.pt is damaged.*Delete .*model.pt and run"):
        check_archive(tmp_path / "model.pt")
