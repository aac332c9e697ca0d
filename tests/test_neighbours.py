"""Neighbours as a training reads them: which ones, how their ranks are drawn, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from numpy.typing import NDArray

from partbench.data.batch import Batch
from partbench.data.loader import Loader, Schedule
from partbench.data.neighbours import NEIGHBOURS, QUADRANTS, NeighbourSettings, candidates
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.integrity import write_checksums
from partbench.method import MethodSettings

CPU = torch.device("cpu")
IMAGES = 24


class MixingSettings(NeighbourSettings, MethodSettings):
    """Settings of a method that learns from neighbours."""


def settings(**changes: Any) -> MixingSettings:
    return MixingSettings.parse({"epochs": 20, "batch_size": 8} | changes, "test")


def known_neighbours(folder: Path, split: str, n: int) -> NDArray[np.int64]:
    """Write neighbours whose distance is 1000 x row + 100 x quadrant + rank; return them."""
    draw = np.random.default_rng(0)
    rows = np.stack([draw.permutation(n)[:NEIGHBOURS] for _ in range(n * QUADRANTS)])
    rows = rows.reshape(n, QUADRANTS, NEIGHBOURS)
    row, quadrant, rank = np.indices(rows.shape)
    np.save(folder / f"{split}.neighbours.npy", rows)
    np.save(folder / f"{split}.distances.npy", (1000 * row + 100 * quadrant + rank).astype("f4"))
    write_checksums(folder)
    return rows


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, NDArray[np.int64]]:
    """A small data set with made neighbours, and these."""
    folder = prepare_toy(tmp_path_factory.mktemp("scenes"), train=IMAGES, size=16)
    return Prepared(folder), known_neighbours(folder, "train", IMAGES)


def batches(data: Prepared, seed: int = 0, start: int = 0, **changes: Any) -> list[Batch]:
    split = data.training_split("neighbours")
    schedule = Schedule(len(split), settings(**changes), seed)
    return list(Loader(split, schedule, CPU, "neighbours").batches(start))


def drawn(batch: Batch) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return rows, quadrants and ranks of a batch, [B, 4] each, from the distances."""
    assert batch.distances is not None
    number = batch.distances.numpy().astype(int)
    return number // 1000, number // 100 % 10, number % 100


@pytest.mark.parametrize(("kind", "last"), [("shared", 8), ("quadrant", 9)])
def test_a_batch_holds_the_candidate_of_each_quadrant(
    scenes: tuple[Prepared, NDArray[np.int64]], kind: str, last: int
) -> None:
    data, known = scenes
    images = data.split("train").images
    counts = np.zeros(NEIGHBOURS, int)
    same = []
    for batch in batches(data, neighbour_rank=kind):
        assert batch.candidates is not None
        assert batch.candidates.dtype == torch.float32
        assert batch.candidates.shape == (8, QUADRANTS, 3, 16, 16)
        rows, quadrants, ranks = drawn(batch)
        np.testing.assert_array_equal(quadrants, np.tile(np.arange(QUADRANTS), (8, 1)))
        shown = (batch.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(shown, images[rows[:, 0]])
        shown = (batch.candidates * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
        np.testing.assert_array_equal(shown, images[known[rows, quadrants, ranks]])
        counts += np.bincount(ranks.ravel(), minlength=NEIGHBOURS)
        same.append((ranks == ranks[:, :1]).all(1))
    share = counts[: last + 1] / counts.sum()
    assert share.sum() == 1
    np.testing.assert_allclose(share, 1 / (last + 1), atol=0.05)
    assert np.concatenate(same).mean() == (1 if kind == "shared" else pytest.approx(0, abs=0.02))


def test_ranks_follow_from_the_seed_and_the_step(
    scenes: tuple[Prepared, NDArray[np.int64]],
) -> None:
    data, _ = scenes
    whole, resumed, other = batches(data), batches(data, start=7), batches(data, seed=1)
    for a, b in zip(whole[7:], resumed, strict=True):
        assert torch.equal(a.candidates, b.candidates)  # type: ignore[arg-type]
        assert torch.equal(a.distances, b.distances)  # type: ignore[arg-type]
    ranks = [np.concatenate([drawn(b)[2] for b in some]) for some in (whole, other)]
    assert 0.05 < (ranks[0] == ranks[1]).mean() < 0.2


def test_in_order_candidates_are_the_nearest(scenes: tuple[Prepared, NDArray[np.int64]]) -> None:
    data, known = scenes
    split = data.training_split("neighbours")
    loader = Loader(split, Schedule(len(split), settings(), 0), CPU, "neighbours")
    made = list(loader.ordered())
    rows, _, ranks = drawn(Batch(*(torch.cat(f) if f[0] is not None else None  # type: ignore[arg-type]
                                   for f in zip(*made, strict=True))))  # fmt: skip
    np.testing.assert_array_equal(rows[:, 0], np.arange(IMAGES))
    assert (ranks == 0).all()
    assert made[0].candidates is not None
    shown = (made[0].candidates * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_array_equal(shown, split.images[known[:8, :, 0]])


def test_candidates_to_extract_depend_on_the_seed_and_the_row_alone(
    scenes: tuple[Prepared, NDArray[np.int64]],
) -> None:
    data, known = scenes
    split = data.split("train")
    images, distances = candidates(split, range(IMAGES), settings(), 3, CPU)
    assert images.dtype == torch.float32
    number = distances.numpy().astype(int)
    rows, quadrants, ranks = number // 1000, number // 100 % 10, number % 100
    np.testing.assert_array_equal(rows, np.indices(rows.shape)[0])
    assert len(np.unique(ranks)) > 5
    assert (ranks == ranks[:, :1]).all()
    expected = split.images[known[rows, quadrants, ranks]]
    np.testing.assert_array_equal((images * 255).round().permute(0, 1, 3, 4, 2), expected)
    few, few_distances = candidates(split, [20, 5], settings(), 3, CPU)
    assert torch.equal(few, images[[20, 5]])
    assert torch.equal(few_distances, distances[[20, 5]])
    assert not torch.equal(candidates(split, range(IMAGES), settings(), 4, CPU)[1], distances)


def test_squashed_images_are_the_candidates_of_images_of_another_aspect(tmp_path: Path) -> None:
    folder = prepare_toy(tmp_path, train=IMAGES, size=16, crop="whole")
    squashed = np.random.default_rng(1).integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)
    np.save(folder / "train.squashed.npy", squashed)
    known = known_neighbours(folder, "train", IMAGES)
    data = Prepared(folder)
    split = data.training_split("neighbours", windows=True)
    schedule = Schedule(len(split), settings(training_crop="window", epochs=1), 0)
    for batch in Loader(split, schedule, CPU, "neighbours").batches():
        assert batch.images.shape == (8, 3, 16, 16)
        assert batch.candidates is not None
        rows, quadrants, ranks = drawn(batch)
        shown = (batch.candidates * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
        np.testing.assert_array_equal(shown, squashed[known[rows, quadrants, ranks]])


def test_a_training_with_neighbours_uses_the_unlabeled_images(tmp_path: Path) -> None:
    folder = prepare_toy(tmp_path, train=IMAGES, size=16)
    data = Prepared(folder)
    data.meta["splits"]["unlabeled"] = data.meta["splits"]["train"]
    with pytest.raises(BadInput, match="split 'unlabeled' has no neighbours"):
        data.training_split("neighbours")
    np.save(folder / "unlabeled.neighbours.npy", np.zeros((IMAGES, 4, 10), np.int64))
    write_checksums(folder)
    assert data.training_split("neighbours").name == "unlabeled"


def test_mirroring_is_refused() -> None:
    with pytest.raises(BadInput, match=r"swaps its quadrants.*`copies` of coco"):
        settings(flip=True)
    assert not settings().flip


def test_a_method_without_the_settings_is_told_so(
    scenes: tuple[Prepared, NDArray[np.int64]],
) -> None:
    split = scenes[0].split("train")
    plain = MethodSettings.parse({"batch_size": 8}, "test")
    with pytest.raises(TypeError, match="must inherit from NeighbourSettings"):
        Loader(split, Schedule(len(split), plain, 0), CPU, "neighbours")
