"""A prepared data set with the clusters of a trained run's features.

Another network can learn them as if they were labels: knowledge transfer (Noroozi et al., CVPR
2018). As in the version of Zbinden (MSc thesis, University of Bern 2019), features are reduced to
256 principal components, whitened and brought to unit length before k-means. The images that
trainings see without labels decide the clusters; those of other splits belong to the nearest one.
The new data set is a folder of links to the arrays of the old one, with the clusters beside them.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partbench.clustering import ClusterSettings
from partbench.data.prepared import Prepared, Split
from partbench.data.resample import resample
from partbench.derived import put_derived
from partbench.errors import BadInput
from partbench.files import aside_of, create_array, explained, locked, make_empty
from partbench.model import load_model
from partbench.nn.clusters import faiss_on_gpu, k_means, principal_components
from partbench.outputs.trunks import HasTrunks
from partbench.progress import Progress
from partbench.settings import nearest
from partbench.shards import Shards

BATCH = 128


def find_clusters(
    name: str,
    model: Path,
    data: Path,
    out: Path,
    settings: ClusterSettings,
    device: str,
    threads: int,
    code: str = "",
) -> None:
    """Write the data set `data` again, with the clusters of a run's features.

    Args:
        name: of the new data set.
        model: model.pt of a run whose method has trunks.
        data: folder of the prepared data set; its images are resized to what the run has learnt.
        out: folder to make; whole or absent.
        settings: how to cluster.
        device: "cpu" or "cuda".
        threads: CPU threads.
        code: fingerprint of the code that finds them.

    Raises:
        BadInput: the model or the data cannot be read, the run's method has no such part, there
            are fewer training images than clusters, or a feature is not finite.
    """
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    prepared = Prepared(data)
    run, method = load_model(model, device)
    if not isinstance(method, HasTrunks):
        raise BadInput(f"{model}: {run.method} has no trunks, hence no features to cluster")
    trunk = part_of(method.trunks(), settings.part, str(model)).eval()
    if prepared.whole:
        raise BadInput(f"{data}: clusters are of square images; use data with another `crop`")
    train = prepared.training_split("images")
    if train.frames:
        raise BadInput(f"{data}: holds clips; clusters are of single images")
    if len(train) < settings.clusters:
        raise BadInput(
            f"{data}: {len(train)} training images for {settings.clusters} clusters; lower "
            "`clusters` of the data set"
        )
    side = method.data.size

    def describe(images: Tensor) -> Tensor:
        return trunk(method.normalize(_resized(images, side))).float().flatten(1)

    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside):
        make_empty(aside)
        work = aside / "work"
        gpu = faiss_on_gpu(device == "cuda")
        rows = _described(
            train, describe, work, torch.device(device), f"{run} features of {train.name}"
        )
        components = principal_components(
            rows, settings.dimensions, np.arange(len(rows)), torch.device(device)
        )
        reduced = _reduced(rows, components.whitened)
        labels, centroids = k_means(
            reduced, settings.clusters, settings.iterations, settings.seed, gpu
        )
        _write(aside, train.name, labels)
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(centroids)
        for split in prepared.meta["splits"]:
            if split == train.name:
                continue
            label = f"{run} features of {split}"
            rows = _described(prepared.split(split), describe, work, torch.device(device), label)
            _write(aside, split, index.search(_reduced(rows, components.whitened), 1)[1][:, 0])
        shutil.rmtree(work)
        sizes = np.bincount(labels, minlength=settings.clusters)
        about = {
            "by": str(run),
            "of": prepared.meta["data_set"],
            **settings.model_dump(mode="json"),
            "components": reduced.shape[1],
            "images in the smallest, median and largest cluster": np.quantile(
                sizes, (0, 0.5, 1)
            ).tolist(),
        }
        put_derived(prepared, aside, out, name, code, {"clusters": about})


def part_of(trunks: Mapping[str, nn.Module], part: str, where: str) -> nn.Module:
    """Return a method's network of that name; raises BadInput if there is none."""
    if part not in trunks:
        raise BadInput(f"{where}: there is no part '{part}'; {nearest(part, trunks)}")
    return trunks[part]


def _resized(images: Tensor, side: int) -> Tensor:
    """Return uint8 images [B, S, S, 3] as [B, 3, side, side] in [0, 1]."""
    n, size = images.shape[:2]
    whole = torch.tensor([0.0, 0.0, size, size], dtype=torch.float64, device=images.device)
    return resample(images, whole.expand(n, -1), side)


@torch.inference_mode()
def _described(
    split: Split,
    describe: Callable[[Tensor], Tensor],
    work: Path,
    device: torch.device,
    label: str,
) -> Shards:
    """Return the features of a split, in files of an emptied folder."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    rows: Shards | None = None
    with Progress(label, len(split), "images") as progress:
        for start in range(0, len(split), BATCH):
            images = torch.from_numpy(np.array(split.images[start : start + BATCH]))
            found = describe(images.to(device)).cpu().numpy()
            if rows is None:
                rows = Shards(work, len(split), found.shape[1])
            rows.write(start, found)
            progress.advance(len(found))
    assert rows is not None
    return rows


def _reduced(
    rows: Shards, whiten: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return whitened rows, read in parts."""
    return np.concatenate([whiten(block) for _, block in rows.blocks(1 << 14)])


def _write(folder: Path, split: str, labels: NDArray[Any]) -> None:
    array = create_array(folder / f"{split}.clusters.npy", np.int64, labels.shape)
    array[:] = labels
    array.flush()
