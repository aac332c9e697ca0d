"""A prepared data set with the neighbours of its images: which have quadrants that look alike.

Methods that mix scenes take a quadrant's content from an image whose quadrant looks alike. This
stage finds such images once, for all variants and seeds. Source: Zbinden, MSc thesis, University of
Bern 2019, and its public code: a square of 224 pixels at a random place of each image is cut into
four tiles, each enlarged to 224 pixels and described by DeepCluster's AlexNet. The tiles of each
quadrant are clustered by themselves, and neighbours are nearest in the features inside a cluster.

The new data set is a folder of links to the arrays of the old one, with the arrays that
`partbench.data.neighbours` lists.
"""

import hashlib
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from partbench import plugins
from partbench.data.image import resize
from partbench.data.loader import to_float
from partbench.data.neighbours import NEIGHBOURS, PLACES, QUADRANTS
from partbench.data.prepared import Prepared
from partbench.data.reader import Reader
from partbench.derived import put_derived
from partbench.errors import BadInput
from partbench.files import (
    aside_of,
    create_array,
    data_root,
    explained,
    locked,
    make_empty,
    read_json,
    sync,
    write_json,
)
from partbench.integrity import CHECKSUMS, read_record
from partbench.nn.clusters import faiss_on_gpu, k_means, merge_small, principal_components
from partbench.nn.nearest import (
    Found,
    Lists,
    Wanted,
    build_lists,
    complete,
    in_clusters,
    in_lists,
)
from partbench.nn.tiles import TileFeatures
from partbench.progress import Progress
from partbench.search import LEAST_PER_CLUSTER, SearchSettings
from partbench.shards import Shards

BLOCK = 1 << 14
"""Tiles in memory at once."""


def find_neighbours(
    name: str,
    data: Path,
    out: Path,
    settings: SearchSettings,
    device: str,
    threads: int,
    code: str = "",
) -> None:
    """Write the data set `data` again, with the neighbours of its images.

    Splits that a stopped process had finished are not searched again.

    Args:
        name: of the new data set.
        data: folder of the prepared data set.
        out: folder to make; whole or absent.
        settings: how to search.
        device: "cpu" or "cuda".
        threads: CPU threads.
        code: fingerprint of the code that finds them.

    Raises:
        BadInput: the data hold clips or images that are too small, a split has too few images, or
            the network's weights are missing or others.
    """
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    prepared = Prepared(data)
    for split, about in prepared.meta["splits"].items():
        if about["n"] <= NEIGHBOURS:
            raise BadInput(
                f"{data}: split '{split}' has {about['n']} images; {NEIGHBOURS} neighbours of each "
                f"take {NEIGHBOURS + 1}: prepare more of them"
            )
    describe = TileFeatures(settings.network, settings.weights, settings.side, torch.device(device))
    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside):
        finished = _Finished(aside, prepared, describe, settings, code)
        for split in prepared.meta["splits"]:
            if split not in finished.splits:
                _find_in_split(_Pictures(prepared, split, settings), describe, aside, threads)
                finished.add(split)
        finished.path.unlink()
        about = {"of": prepared.meta["data_set"], **settings.model_dump(mode="json")}
        put_derived(prepared, aside, out, name, code, {"neighbours": about})


class _Finished:
    """The splits whose arrays are on the disk, so that a stopped search can be resumed.

    Args:
        folder: of the arrays; emptied where they are of another search.
        prepared: the data set.
        describe: the network.
        settings: how to search.
        code: fingerprint of the code.
    """

    def __init__(
        self,
        folder: Path,
        prepared: Prepared,
        describe: TileFeatures,
        settings: SearchSettings,
        code: str,
    ) -> None:
        self.folder, self.path = folder, folder / "finished.json"
        side = 2 * describe.side
        picture = torch.linspace(0, 1, 3 * side**2).view(1, 3, side, side)
        self.begun = {
            "of": [prepared.meta, read_record(prepared.folder / CHECKSUMS)["files"]],
            "settings": settings.model_dump(mode="json"),
            "code": code,
            # A file of weights may be replaced meanwhile.
            "network": hashlib.sha256(describe(picture).cpu().numpy().tobytes()).hexdigest(),
        }
        there = read_json(self.path) if self.path.exists() else {}
        self.splits: list[str] = there.get("splits", [])
        if there.get("begun") != self.begun:
            make_empty(folder)
            self.splits = []

    def add(self, split: str) -> None:
        """Note that a split is whole."""
        for path in self.folder.glob("*.npy"):
            sync(path)  # to the disk, before the note says so
        self.splits.append(split)
        write_json(self.path, {"begun": self.begun, "splits": self.splits})


def _find_in_split(
    pictures: "_Pictures", describe: TileFeatures, folder: Path, threads: int
) -> None:
    """Write the neighbours of the images of a split, and their distances."""
    split = pictures.name
    shape = (len(pictures.names), QUADRANTS, NEIGHBOURS)
    neighbours = create_array(folder / f"{split}.neighbours.npy", np.int64, shape)
    distances = create_array(folder / f"{split}.distances.npy", np.float32, shape)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for i, rows in enumerate(_describe(pictures, describe, folder, threads, f"tiles of {split}")):
        try:
            found = _search(rows, pictures.settings, pictures.groups(), work, describe.device)
        except BadInput as error:
            where = f"{pictures.prepared.folder}, {PLACES[i]} of {split}"
            raise BadInput(f"{where}: {error}") from None
        neighbours[:, i], distances[:, i] = found
    neighbours.flush()
    distances.flush()
    shutil.rmtree(work)


class _Picture(NamedTuple):
    """What is read of an image."""

    square: NDArray[np.uint8]
    """[s, s, 3], to be cut into tiles."""
    squashed: NDArray[np.uint8] | None
    """[S, S, 3]; None if the prepared image is a square."""


class _Pictures:
    """The images of a split: the prepared squares, or the originals where these show more.

    That is where the prepared images keep their aspect, or are smaller than the network's tiles:
    distances of tiles have one scale then, whatever the size of the prepared images.
    """

    def __init__(self, prepared: Prepared, split: str, settings: SearchSettings) -> None:
        self.prepared, self.name, self.settings = prepared, split, settings
        self.split = prepared.split(split)
        images = self.split.images
        if images.ndim == 5:
            raise BadInput(f"{prepared.folder}: holds clips; neighbours are of single images")
        if prepared.size % 2:
            raise BadInput(
                f"{prepared.folder}: images of {prepared.size} px have no equal quadrants; prepare "
                "them with an even `size`"
            )
        meta = prepared.meta
        cls = plugins.load("data", meta["reader"], Reader)  # type: ignore[type-abstract]
        parsed = cls.Settings.parse(meta["settings"], str(prepared.folder))
        self.reader = cls(data_root(), parsed)
        self.names = (prepared.folder / f"{split}.names.txt").read_text().splitlines()
        self.places: list[int] = []
        """Of the originals in the reader's split; empty where the prepared squares are read."""
        if self.whole or settings.side > prepared.size:
            places = {name: i for i, name in enumerate(self.reader.splits()[split])}
            self.places = [places[name] for name in self.names]

    @property
    def whole(self) -> bool:
        """Whether the prepared images keep their aspect."""
        return self.prepared.whole

    def groups(self) -> NDArray[np.int64]:
        """Return a number of each image that copies of the same image share if they must."""
        if self.settings.copies == "allow":
            return np.arange(len(self.names))
        originals = [self.reader.original(name) for name in self.names]
        return np.unique(originals, return_inverse=True)[1].astype(np.int64)

    def read(self, row: int) -> _Picture:
        """Read one image.

        Raises:
            BadInput: the original cannot be read, or keeps its aspect and is smaller than a tile.
        """
        if not self.places:
            return _Picture(self.split.images[row], None)
        side, size = self.settings.side, self.prepared.size
        sample = self.reader.sample(self.name, self.places[row])
        left, top, right, bottom = box = self.reader.crop_box(sample)
        if not self.whole:
            edge = self.reader.settings.crop == "pad"
            return _Picture(resize(sample.image, (side, side), box, nearest=False, edge=edge), None)
        short = min(right - left, bottom - top)
        if short < side // 2:
            raise BadInput(
                f"{self.reader.root}: {sample.name} is {right - left:g} x {bottom - top:g} px, "
                f"smaller than a tile of {side // 2} px; leave such images out (`min_side` of "
                "coco), or lower `side`"
            )
        share: Any = (0.5, 0.5)
        if self.settings.square == "random":
            share = np.random.default_rng([self.settings.seed, row]).random(2)
        left += share[0] * (right - left - short)
        top += share[1] * (bottom - top - short)
        square = (left, top, left + short, top + short)
        return _Picture(
            resize(sample.image, (side, side), square, nearest=False),
            resize(sample.image, (size, size), box, nearest=False, area=True),
        )

    def batches(self, threads: int) -> Iterator[list[_Picture]]:
        """Yield all images in their order; the next batch is read meanwhile."""
        waiting: deque[Any] = deque()
        rows = range(len(self.names))
        size = self.settings.batch_size
        with ThreadPoolExecutor(threads) as pool:
            try:
                for start in range(0, len(rows), size):
                    batch = [pool.submit(self.read, row) for row in rows[start : start + size]]
                    waiting.append(batch)
                    if len(waiting) > 1:
                        yield [future.result() for future in waiting.popleft()]
                while waiting:
                    yield [future.result() for future in waiting.popleft()]
            finally:
                pool.shutdown(cancel_futures=True)


def _describe(
    pictures: _Pictures, describe: TileFeatures, folder: Path, threads: int, label: str
) -> list[Shards]:
    """Return the features of a split's tiles, of one quadrant after another, [N, D] each.

    Squashed images are written beside, if there are any.
    """
    n, size = len(pictures.names), pictures.prepared.size
    squashed: Any = None
    if pictures.whole:
        path = folder / f"{pictures.name}.squashed.npy"
        squashed = create_array(path, np.uint8, (n, size, size, 3))
    rows: list[Shards] = []
    start = 0
    with Progress(label, n, "images") as progress:
        for batch in pictures.batches(threads):
            squares = torch.from_numpy(np.stack([picture.square for picture in batch]))
            features = describe(to_float(squares.to(describe.device))).cpu().numpy()
            for quadrant in range(QUADRANTS) if not rows else ():
                place = folder / "work" / str(quadrant)
                place.mkdir()
                rows.append(Shards(place, n, features.shape[2]))
            for quadrant, shards in enumerate(rows):
                shards.write(start, features[:, quadrant])
            if squashed is not None:
                squashed[start : start + len(batch)] = [picture.squashed for picture in batch]
            start += len(batch)
            progress.advance(len(batch))
    if squashed is not None:
        squashed.flush()
    return rows


def _search(
    rows: Shards,
    settings: SearchSettings,
    groups: NDArray[np.int64],
    folder: Path,
    device: torch.device,
) -> Found:
    """Return the neighbours of the tiles of one quadrant."""
    gpu = device.type == "cuda"
    faiss_gpu = faiss_on_gpu(gpu)
    n, large = len(rows), len(rows) >= settings.large
    chosen = np.arange(n)
    if large and n > settings.learnt:
        draw = np.random.default_rng([settings.seed, n])
        chosen = np.sort(draw.choice(n, settings.learnt, replace=False))
    components = principal_components(rows, settings.dimensions, chosen, device)
    wanted = Wanted(NEIGHBOURS, groups, settings.duplicates * components.spread)
    if large:
        code = min(settings.code, len(components.sd))
        components = components.dealt(code)
        lists = Lists(settings.lists, code, settings.probes, settings.shortlist)
        index = build_lists(rows, components, lists, chosen, folder, settings.seed, faiss_gpu)
        found = in_lists(rows, np.arange(n), components, index, lists, wanted)
        return complete(rows, found, wanted, whole=False, gpu=gpu)
    whitened = np.concatenate([components.whitened(block) for _, block in rows.blocks(BLOCK)])
    k = min(settings.clusters, max(n // LEAST_PER_CLUSTER, 1))
    labels, centroids = k_means(whitened, k, settings.iterations, settings.seed, faiss_gpu)
    merge = settings.small_clusters == "merge"
    if merge:
        labels = merge_small(labels, centroids, NEIGHBOURS + 1)
    return complete(rows, in_clusters(rows, labels, wanted, gpu), wanted, merge, gpu)
