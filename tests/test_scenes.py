"""The stage that finds neighbours: what it writes, for which images, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_coco
import torch
from conftest import prepare_toy
from numpy.typing import NDArray
from PIL import Image

from partbench import cli
from partbench import config as grid
from partbench import scenes as finding
from partbench.data import prepare as preparing
from partbench.data.coco import COCO
from partbench.data.image import resize
from partbench.data.loader import Loader, Schedule, to_float
from partbench.data.neighbours import NEIGHBOURS, QUADRANTS
from partbench.data.prepared import Prepared, Split
from partbench.data.sheet import write_neighbour_sheet
from partbench.errors import BadInput
from partbench.integrity import Damaged
from partbench.nn import deepcluster
from partbench.nn.tiles import TileFeatures, quadrants
from partbench.scenes import find_neighbours
from partbench.search import SearchSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CPU = torch.device("cpu")
SMALL = {"network": "random", "side": 16, "clusters": 4, "dimensions": 32}


def search(**changes: Any) -> SearchSettings:
    return SearchSettings.parse({**SMALL, **changes}, "test")


def find(data: Path, out: Path, threads: int = 1, **changes: Any) -> Prepared:
    find_neighbours("scenes", data, out, search(**changes), "cpu", threads)
    return Prepared(out)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy scenes at 32 px."""
    folder = tmp_path_factory.mktemp("toy")
    return prepare_toy(folder, kind="scenes", train=200, test=24, val=11)


@pytest.fixture(scope="module")
def scenes(toy: Path) -> Prepared:
    return find(toy, toy.parent / "scenes")


def features_of(images: NDArray[np.uint8], side: int = 16) -> NDArray[np.float32]:
    describe = TileFeatures("random", None, side, CPU)
    return describe(to_float(torch.from_numpy(np.array(images)))).numpy()


def check_distances(split: Split, features: NDArray[np.float32]) -> None:
    """Compare the distances with those of features [N, 4, D]."""
    rows, distances = split.annotation("neighbours"), split.annotation("distances")
    for quadrant in range(QUADRANTS):
        own, near = features[:, quadrant], features[rows[:, quadrant], quadrant]
        exact = ((own[:, None].astype(np.float64) - near) ** 2).sum(2)
        np.testing.assert_allclose(distances[:, quadrant], exact, rtol=1e-3)


def test_each_split_gets_its_neighbours_and_keeps_the_rest(toy: Path, scenes: Prepared) -> None:
    old = Prepared(toy)
    assert scenes.meta["data_set"] == "scenes"
    assert scenes.meta["checksum"] != old.meta["checksum"]
    assert scenes.meta["neighbours"]["of"] == "toy"
    assert scenes.meta["neighbours"]["network"] == "random"
    for name, n in (("train", 200), ("test", 24), ("val", 11)):
        split = scenes.split(name)
        np.testing.assert_array_equal(split.images, old.split(name).images)
        rows, distances = split.annotation("neighbours"), split.annotation("distances")
        assert rows.shape == distances.shape == (n, QUADRANTS, NEIGHBOURS)
        assert rows.dtype == np.int64
        assert distances.dtype == np.float32
        assert rows.min() >= 0
        assert rows.max() < n
        assert (rows != np.arange(n)[:, None, None]).all()
        # Distances are those of the features of the same quadrant, nearest first.
        check_distances(split, features_of(split.images))
        assert (np.diff(distances, axis=2) >= 0).all()
    assert not (scenes.folder / "work").exists()
    assert not scenes.split("train").has("squashed")


def test_with_a_single_cluster_the_search_is_exact(toy: Path, tmp_path: Path) -> None:
    split = find(toy, tmp_path / "one", clusters=1, duplicates=0).split("train")
    features = features_of(split.images).astype(np.float64)
    for quadrant in range(QUADRANTS):
        own = features[:, quadrant]
        pairs = ((own[:, None] - own) ** 2).sum(2)
        np.fill_diagonal(pairs, np.inf)
        expected = np.sort(pairs, 1)[:, :NEIGHBOURS]
        np.testing.assert_allclose(split.annotation("distances")[:, quadrant], expected, rtol=1e-3)


def test_clusters_bound_the_search(toy: Path, scenes: Prepared, tmp_path: Path) -> None:
    whole = find(toy, tmp_path / "one", clusters=1).split("train")
    inside = scenes.split("train")
    assert (inside.annotation("distances") >= whole.annotation("distances") * (1 - 1e-4)).all()
    same = inside.annotation("neighbours") == whole.annotation("neighbours")
    assert 0.2 < same.mean() < 1


def test_the_search_repeats_bit_for_bit_whatever_the_threads(
    toy: Path, scenes: Prepared, tmp_path: Path
) -> None:
    try:
        again = find(toy, tmp_path / "again", threads=2)
    finally:
        torch.set_num_threads(1)
    assert again.meta["checksum"] == scenes.meta["checksum"]
    other = find(toy, tmp_path / "other", seed=1)
    assert other.meta["checksum"] != scenes.meta["checksum"]


def test_a_large_set_is_searched_by_an_inverted_file(tmp_path: Path) -> None:
    toy = prepare_toy(tmp_path, kind="scenes", train=300, test=24, val=11, size=16)
    settings = {"large": 300, "lists": 4, "probes": 4, "shortlist": 300, "code": 8, "learnt": 256}
    large = find(toy, tmp_path / "large", **settings)
    one = find(toy, tmp_path / "one", clusters=1)
    # All lists, and all codes of them: the same as without clusters.
    np.testing.assert_array_equal(
        large.split("train").annotation("neighbours"), one.split("train").annotation("neighbours")
    )
    # Smaller splits are searched as before.
    np.testing.assert_array_equal(
        large.split("val").annotation("neighbours"), one.split("val").annotation("neighbours")
    )


def test_the_same_picture_is_no_neighbour(tmp_path: Path) -> None:
    folder = prepare_toy(tmp_path, kind="scenes", train=60, test=12, val=12)
    images = np.load(folder / "train.images.npy")
    images[30:] = images[:30]
    images[30:, 0, 0] ^= 1  # as if it were compressed again
    np.save(folder / "train.images.npy", images)
    with pytest.raises(Damaged):
        find(folder, tmp_path / "damaged")
    preparing.write_checksums(folder)
    rows = find(folder, tmp_path / "out").split("train").annotation("neighbours")
    assert (rows % 30 != (np.arange(60) % 30)[:, None, None]).all()
    rows = find(folder, tmp_path / "all", duplicates=0).split("train").annotation("neighbours")
    assert (rows[:, 0, 0] % 30 == np.arange(60) % 30).mean() > 0.9


def test_finished_splits_outlast_a_stop(
    toy: Path, scenes: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = finding._describe
    described: list[str] = []

    def stop(pictures: Any, *others: Any) -> Any:
        described.append(pictures.name)
        if len(described) == 2:
            raise KeyboardInterrupt
        return describe(pictures, *others)

    monkeypatch.setattr(finding, "_describe", stop)
    out = tmp_path / "scenes"
    with pytest.raises(KeyboardInterrupt):
        find(toy, out)
    assert not out.exists()
    resumed = find(toy, out)
    assert described == ["test", "train", "train", "val"]
    assert resumed.meta["checksum"] == scenes.meta["checksum"]
    assert resumed.meta["splits"] == scenes.meta["splits"]
    names = [{path.name for path in made.folder.iterdir()} for made in (resumed, scenes)]
    assert names[0] == names[1]


@pytest.mark.parametrize("change", ["settings", "data", "network"])
def test_another_search_starts_over(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    data = prepare_toy(tmp_path, kind="scenes", train=20, test=12, val=11)
    settings: dict[str, Any] = {"network": "timm:resnet18", "weights": "r.pth", "side": 32}
    write_resnet(tmp_path / "r.pth", 0)
    describe = finding._describe

    def stop(pictures: Any, *others: Any) -> Any:
        if pictures.name == "train":
            raise KeyboardInterrupt
        return describe(pictures, *others)

    with monkeypatch.context() as patch:
        patch.setattr(finding, "_describe", stop)
        with pytest.raises(KeyboardInterrupt):
            find(data, tmp_path / "out", **settings)
    if change == "settings":
        settings["duplicates"] = 0.5
    elif change == "data":
        images = np.load(data / "test.images.npy")
        np.save(data / "test.images.npy", images[::-1])
        preparing.write_checksums(data)
    else:
        write_resnet(tmp_path / "r.pth", 1)
    resumed = find(data, tmp_path / "out", **settings)
    whole = find(data, tmp_path / "whole", **settings)
    assert resumed.meta["checksum"] == whole.meta["checksum"]


def write_resnet(path: Path, seed: int) -> None:
    import timm

    torch.manual_seed(seed)
    network: Any = timm.create_model("resnet18", num_classes=0)
    torch.save(network.state_dict(), path)


def test_the_sheet_shows_references_and_their_neighbours(scenes: Prepared, tmp_path: Path) -> None:
    write_neighbour_sheet(scenes, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.shape == (24 + 10 * 138, 13 * 116 + 4 * 16 - 4, 3)
    split = scenes.split("train")
    shown = np.asarray(Image.fromarray(split.images[0]).resize((112, 112), 0))
    np.testing.assert_array_equal(sheet[24:136, :112], shown)
    # The last neighbour of the last quadrant: that quadrant is bright.
    image = split.images[split.annotation("neighbours")[0, 3, 9]]
    shown = np.asarray(Image.fromarray(image).resize((112, 112), 0))
    tile = sheet[24:136, 12 * 116 + 64 : 12 * 116 + 176]
    np.testing.assert_array_equal(tile[56:, 56:], shown[56:, 56:])
    np.testing.assert_array_equal(tile[:56, :56], shown[:56, :56] // 3)


# ---------------------------------------------------------------------------- refusals


def test_a_split_with_too_few_images(tmp_path: Path) -> None:
    folder = prepare_toy(tmp_path, train=20, test=10, val=11)
    with pytest.raises(BadInput, match="split 'test' has 10 images; 10 neighbours of each take 11"):
        find(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_clips_and_images_without_equal_quadrants(tmp_path: Path) -> None:
    clips = prepare_toy(tmp_path / "clips", kind="clips", train=11, test=11, val=11)
    with pytest.raises(BadInput, match="holds clips"):
        find(clips, tmp_path / "out")
    odd = prepare_toy(tmp_path / "odd", train=11, test=11, val=11, size=17)
    with pytest.raises(BadInput, match="17 px have no equal quadrants"):
        find(odd, tmp_path / "out")


@pytest.mark.parametrize("small_clusters", ["merge", "repeat"])
def test_a_cluster_of_fewer_images_than_neighbours(
    toy: Path, tmp_path: Path, small_clusters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def six_apart(rows: NDArray[np.float32], *_: Any) -> Any:
        labels = (np.arange(len(rows)) < 6).astype(np.int64)
        return labels, np.stack([rows[labels == label].mean(0) for label in (0, 1)])

    monkeypatch.setattr("partbench.scenes.k_means", six_apart)
    found = find(toy, tmp_path / "out", small_clusters=small_clusters).split("train")
    rows = np.array(found.annotation("neighbours"))
    assert (rows != np.arange(len(rows))[:, None, None]).all()
    assert np.isfinite(found.annotation("distances")).all()
    several = [len(np.unique(rows[i, j])) for i in range(6) for j in range(4)]
    if small_clusters == "merge":
        assert several == [10] * 24
        assert (rows[:6] >= 6).any()
    else:  # the five others of the cluster, again and again
        assert several == [5] * 24
        assert (rows[:6] < 6).all()


def test_images_that_are_all_alike(tmp_path: Path) -> None:
    folder = prepare_toy(tmp_path, train=20, test=11, val=11)
    np.save(folder / "train.images.npy", np.zeros_like(np.load(folder / "train.images.npy")))
    preparing.write_checksums(folder)
    with pytest.raises(BadInput, match="top left of train: all tiles have the same features"):
        find(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "alexnot"}, "did you mean 'alexnet'"),
        ({"network": "timm:resnet18"}, "give it for timm:resnet18"),
        ({"network": "timm:resnot18", "weights": "r.pth"}, "timm has no network 'resnot18'; did"),
        ({"network": "timm/resnet18", "weights": "r.pth"}, "mobilenet, random, timm:NAME"),
        ({"weights": "x.pth"}, "leave it out"),
        ({"side": 15}, "multiple of 2"),
        (
            {"network": "alexnet"},
            "alexnet sees tiles of 224 px, and `side` is 16; leave `side` out",
        ),
        ({"shortlist": 10}, "greater than 10"),
        ({"lists": 512, "large": 500}, "512 lists cannot be learnt from 500 tiles"),
        ({"lists": 4096, "learnt": 300}, "4096 lists cannot be learnt from 300 tiles"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        search(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "alexnet", "side": 224}, r"deepcluster_alexnet.pth .*is missing"),
        ({"network": "mobilenet"}, r"mobilenetV1X0.25_pretrain.tar .*is missing.*`network`"),
        ({"network": "timm:resnet18", "weights": "r.pth"}, r"r.pth .*is missing.*`weights`"),
    ],
)
def test_weights_that_are_missing(
    toy: Path,
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=message):
        find(toy, tmp_path / "out", **settings)


# ---------------------------------------------------------------------------- networks


def test_quadrants_are_counted_row_by_row() -> None:
    images = torch.rand(2, 3, 8, 8)
    tiles = quadrants(images, 4)
    corners = ((0, 0), (0, 4), (4, 0), (4, 4))
    for i, (top, left) in enumerate(corners):
        assert torch.equal(tiles[:, i], images[:, :, top : top + 4, left : left + 4])
    larger = quadrants(images, 12)[1, 2].permute(1, 2, 0).numpy()
    expected = np.stack([
        np.asarray(Image.fromarray(channel.numpy()).resize((12, 12), Image.Resampling.BILINEAR))
        for channel in images[1, :, 4:, :4]
    ], -1)  # fmt: skip
    np.testing.assert_allclose(larger, expected, atol=1e-5)


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the layout of DeepCluster's, of weights drawn at random; its data root."""
    root = tmp_path_factory.mktemp("root")
    torch.manual_seed(0)
    network = deepcluster.AlexNet()
    for layer in network.features:
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -1, 1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
    state = {name.replace("features.", "features.module."): value
             for name, value in network.state_dict().items()}  # fmt: skip
    state |= {"top_layer.weight": torch.zeros(10, 4096), "top_layer.bias": torch.zeros(10)}
    (root / "weights").mkdir()
    content = {"epoch": 7, "arch": "alexnet", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, root / deepcluster.FILE, _use_new_zipfile_serialization=False)
    return root


def test_deepcluster_s_alexnet_is_computed_layer_by_layer(
    authors_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(authors_file))
    content = torch.load(authors_file / deepcluster.FILE, weights_only=True)["state_dict"]
    images = torch.rand(2, 3, 448, 448)
    found = TileFeatures("alexnet", None, 224, CPU)(images)
    assert found.shape == (2, 4, 4096)
    x = images[:1, :, :224, 224:]
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)

    def layer(name: str) -> list[torch.Tensor]:
        return [content[f"{name}.{kind}"] for kind in ("weight", "bias")]

    conv = torch.nn.functional.conv2d
    x = conv(conv(x, *layer("sobel.0")), *layer("sobel.1"), padding=1)
    for place, stride, padding, pool in (
        (0, 4, 2, True), (4, 1, 2, True), (8, 1, 1, False), (11, 1, 1, False), (14, 1, 1, True)
    ):  # fmt: skip
        x = conv(x, *layer(f"features.module.{place}"), stride=stride, padding=padding)
        norm = f"features.module.{place + 1}"
        mean, var = content[f"{norm}.running_mean"], content[f"{norm}.running_var"]
        weight, bias = layer(norm)
        x = torch.nn.functional.batch_norm(x, mean, var, weight, bias).relu()
        x = torch.nn.functional.max_pool2d(x, 3, 2) if pool else x
    x = torch.nn.functional.linear(x.flatten(1), *layer("classifier.1")).relu()
    x = torch.nn.functional.linear(x, *layer("classifier.4"))
    torch.testing.assert_close(found[0, 1], x[0], rtol=1e-4, atol=1e-5)
    assert (found < 0).any()  # before the last ReLU


def test_a_file_that_holds_another_network(
    authors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    path = tmp_path / deepcluster.FILE
    path.parent.mkdir()
    content = torch.load(authors_file / deepcluster.FILE, weights_only=True)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(BadInput, match="is not DeepCluster's AlexNet"):
        deepcluster.read_alexnet()
    content["state_dict"]["classifier.4.bias"][3] = torch.nan
    torch.save(content, path)
    with pytest.raises(BadInput, match="weights that are not finite"):
        deepcluster.read_alexnet()
    path.write_bytes(b"<html>quota</html>")
    with pytest.raises(BadInput, match="does not hold the weights of DeepCluster's AlexNet"):
        deepcluster.read_alexnet()


def test_a_network_of_timm_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    torch.manual_seed(1)
    network: Any = timm.create_model("resnet18", num_classes=5)
    torch.save(network.state_dict(), tmp_path / "r.pth")
    describe = TileFeatures("timm:resnet18", "r.pth", 32, CPU)
    images = torch.rand(2, 3, 64, 64)
    found = describe(images)
    tile = (images[1:, :, 32:, :32] - describe.mean) / describe.std
    network.eval().reset_classifier(0)
    with torch.no_grad():
        torch.testing.assert_close(found[1, 2], network(tile)[0], rtol=1e-4, atol=1e-5)
    state = network.state_dict()
    state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "r.pth")
    with pytest.raises(BadInput, match=r"resnet18 .*\(`layer1\.0\.conv1\.weight` is on one"):
        TileFeatures("timm:resnet18", "r.pth", 32, CPU)


def test_a_network_that_does_not_take_the_tiles(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    network: Any = timm.create_model("vit_tiny_patch16_224")
    torch.save(network.state_dict(), tmp_path / "v.pth")
    with pytest.raises(BadInput, match=r"does not take tiles of 16 px .* set `side`"):
        find(toy, tmp_path / "out", network="timm:vit_tiny_patch16_224", weights="v.pth")


def test_the_real_mobilenet_finds_images_of_the_same_class(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(shared_data))
    folder = shared_data / "tiny_imagenet_10" / "train"
    files = [path for name in sorted(folder.iterdir()) for path in sorted(name.iterdir())[:20]]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    label = np.arange(200) // 20
    shares = {}
    for network, width in (("mobilenet", 1024), ("random", 256)):
        describe = TileFeatures(network, None, 64, CPU)
        found = describe(to_float(torch.from_numpy(images))).flatten(1)
        assert found.shape == (200, 4 * width)
        pairs = torch.cdist(found, found).fill_diagonal_(torch.inf)
        shares[network] = (label[pairs.argmin(1)] == label).mean()
    assert shares["mobilenet"] > 0.35  # by chance 0.1
    assert shares["mobilenet"] > shares["random"] + 0.1


# ---------------------------------------------------------------------------- whole images


def coco_of(root: Path, n: int = 14, size: tuple[int, int] = (48, 32), **settings: Any) -> COCO:
    """Return scenes of blurred noise, as many to train and to test on."""
    for split, folder in (("train", "train2017"), ("test", "val2017")):
        images = dict.fromkeys(range(1, n + 1), size)
        test_coco.write(root, split, images, [])
        for i in images:
            draw = np.random.default_rng([i, split == "test"])
            small = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
            picture.save(root / "coco" / folder / test_coco.name_of(i), quality=95)
    values = {"size": 16, "crop": "whole", "boxes": 1, "resample": "area"} | settings
    return COCO(root, COCO.Settings.parse(values, "test"))


def test_whole_images_are_squashed_and_their_squares_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    made = coco_of(tmp_path)
    preparing.prepare(made, "coco", tmp_path / "coco-prepared", 1)
    data = find(tmp_path / "coco-prepared", tmp_path / "out", square="center", side=32)
    split = data.split("train")
    squashed = split.annotation("squashed")
    assert squashed.shape == (14, 16, 16, 3)
    images = [made.sample("train", i).image for i in range(14)]
    for image, small in zip(images, squashed, strict=True):
        exact = image.reshape(16, 2, 16, 3, 3).mean((1, 3))
        assert np.abs(small - exact).max() <= 0.51
    squares = np.stack([image[:, 8:40] for image in images])
    check_distances(split, features_of(squares, 32))
    # Squares at random places give other features, and the same ones again.
    once = find(tmp_path / "coco-prepared", tmp_path / "a", side=32)
    twice = find(tmp_path / "coco-prepared", tmp_path / "b", side=32)
    assert once.meta["checksum"] == twice.meta["checksum"] != data.meta["checksum"]
    # References are windows of the whole images, resized by area to the same scale.
    schedule = Schedule(len(split), mixing(), 0)
    (batch,) = Loader(split, schedule, CPU, "neighbours").batches()
    order = schedule.indices(0)
    assert batch.candidates is not None
    for row, shown in zip(order, (batch.images * 255).round().permute(0, 2, 3, 1), strict=True):
        half = images[row].reshape(16, 2, 24, 2, 3).mean((1, 3))
        off = [np.abs(half[:, x : x + 16] - shown.numpy()).max() for x in range(9)]
        assert min(off) <= 0.51


def mixing() -> Any:
    import test_neighbours

    return test_neighbours.settings(training_crop="window", epochs=1, batch_size=14)


def test_tiles_of_small_squares_are_cut_from_the_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    made = coco_of(tmp_path, crop="center")
    preparing.prepare(made, "coco", tmp_path / "squares", 1)
    data = find(tmp_path / "squares", tmp_path / "out", side=32)
    assert not data.split("train").has("squashed")
    preparing.prepare(coco_of(tmp_path), "coco", tmp_path / "whole", 1)
    whole = find(tmp_path / "whole", tmp_path / "same", square="center", side=32)
    for name in ("train", "test"):
        images = [made.sample(name, i).image[:, 8:40] for i in range(14)]
        split = data.split(name)
        check_distances(split, features_of(np.stack(images), 32))
        # So a threshold of distances means the same, whether images keep their aspect or not.
        for kind in ("neighbours", "distances"):
            np.testing.assert_array_equal(
                split.annotation(kind), whole.split(name).annotation(kind)
            )
    # Prepared images that are as large as tiles need no originals.
    found = find(tmp_path / "squares", tmp_path / "small", side=16)
    shutil.rmtree(tmp_path / "coco" / "train2017")
    again = find(tmp_path / "squares", tmp_path / "again", side=16)
    assert again.meta["checksum"] == found.meta["checksum"]
    with pytest.raises(BadInput, match=r"train2017.*000000000001.jpg"):
        find(tmp_path / "squares", tmp_path / "large", side=32)


def test_area_resizing_is_the_mean_of_what_a_pixel_covers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    box = (3.3, 0.0, 40.0, 29.5)
    found = resize(image, (7, 11), box, nearest=False, area=True)
    assert found.shape == (11, 7, 3)
    # Each pixel divided into 20 x 20.
    fine = image.repeat(20, 0).repeat(20, 1)[:590, 66:800].astype(float)
    fine = fine[np.arange(590 * 11) // 11].reshape(11, -1, 734, 3).mean(1)
    fine = fine[:, np.arange(734 * 7) // 7].reshape(11, 7, -1, 3).mean(2)
    assert np.abs(found - fine).max() <= 0.51


def test_copies_of_an_image_may_be_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    preparing.prepare(coco_of(tmp_path, copies="five"), "coco", tmp_path / "coco-prepared", 1)
    original = np.arange(70) // 5
    shares = {}
    for copies in ("allow", "exclude"):
        data = find(tmp_path / "coco-prepared", tmp_path / copies, copies=copies, clusters=1)
        rows = data.split("train").annotation("neighbours")
        shares[copies] = (original[rows] == original[:, None, None]).mean()
    assert shares["exclude"] == 0
    assert shares["allow"] > 0.1


def test_an_image_smaller_than_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    preparing.prepare(coco_of(tmp_path), "coco", tmp_path / "coco-prepared", 1)
    message = r"000000000001.jpg is 48 x 32 px, smaller than a tile of 33 px.*`min_side` of coco"
    with pytest.raises(BadInput, match=message):
        find(tmp_path / "coco-prepared", tmp_path / "out", side=66)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- configuration


CONFIG = {
    "name": "scenes",
    "seeds": [0],
    "data": {
        "toy": {"reader": "toy", "kind": "scenes", "size": 32, "train": 40, "val": 11, "test": 12},
        "toy-scenes": {"of": "toy", "neighbours": SMALL},
    },
    "runs": [
        {
            "train": "toy-scenes",
            "methods": {"random_init": ["demo"]},
            "probes": {"linear": ["toy-scenes"]},
        }
    ],
}


def changed(**data: Any) -> dict[str, Any]:
    return CONFIG | {"data": CONFIG["data"] | data}  # type: ignore[operator]


def test_the_configuration_knows_the_data_set() -> None:
    config = grid.check(CONFIG, "test")
    scenes = grid.scene_neighbours(config, "toy-scenes")
    assert scenes is not None
    assert scenes.of == "toy"
    assert scenes.neighbours == search()
    assert grid.scene_neighbours(config, "toy") is None
    assert grid.predicted_foreground(config, "toy-scenes") is None
    assert grid.data_settings(config, "toy-scenes") == grid.data_settings(config, "toy")
    assert search().fetched == ()
    assert SearchSettings().fetched == ("deepcluster_alexnet",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"of": "toys", "neighbours": {}}, "no data set 'toys' under `data`; did you mean 'toy'"),
        ({"of": "toy", "neighbours": {"cluster": 3}}, "data.toy-scenes.*did you mean 'clusters'"),
        ({"of": "toy", "neighbours": {}, "by": "x"}, "data.toy-scenes.*'by'"),
        ({"of": "toy-again", "neighbours": {}}, "no data set 'toy-again'"),
    ],
)
def test_a_configuration_that_cannot_be(values: dict[str, Any], message: str) -> None:
    again = {"of": "toy", "neighbours": {}}
    with pytest.raises(BadInput, match=message):
        grid.check(changed(**{"toy-scenes": values, "toy-again": again}), "test")


def test_a_method_that_needs_neighbours_is_told_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from partbench.methods.random_init import RandomInit

    monkeypatch.setattr(RandomInit, "learns_from", "neighbours")
    grid.check(CONFIG, "test")
    run = CONFIG["runs"][0] | {"train": "toy"}  # type: ignore[index]
    with pytest.raises(BadInput, match=r"'toy' has none.*make one of it: `\{of: toy, neighbours"):
        grid.check(CONFIG | {"runs": [run]}, "test")


def test_the_stage_on_the_command_line(toy: Path, scenes: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage = ["scenes", "--data-set", "scenes", "--data", str(toy), "--out", str(out)]
    runtime = json.dumps({"device": "cpu", "threads": 1})
    assert cli.main([*stage, "--settings", json.dumps(SMALL), "--runtime", runtime]) == 0
    assert Prepared(out).meta["checksum"] == scenes.meta["checksum"]
    assert (out / "neighbours.png").stat().st_size > 10_000
