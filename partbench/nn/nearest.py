"""The nearest neighbours of descriptors: exactly inside clusters, or of an inverted file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from faiss.contrib.ondisk import merge_ondisk
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.nn.clusters import Components
from partbench.progress import Progress
from partbench.shards import Shards

NONE = -1
"""In place of a neighbour that was not found."""
QUERIES = 1 << 12
"""Rows that are searched for at once."""
BASE = 1 << 16
"""Rows that are searched at once, where all are."""
FLOATS = 1 << 24
"""Numbers that are compared at once."""
GPU = torch.device("cuda")
ON_GPU = 1 << 28
"""Distances that a GPU holds at once, 1 GB."""
Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows, nearest first, and squared distances, [n, count] each; `NONE` and inf where too few."""


class Wanted(NamedTuple):
    """Which neighbours count."""

    neighbours: int
    """How many."""
    groups: NDArray[np.int64]
    """[n]: no row is a neighbour of a row of its own group."""
    above: float
    """Squared distance up to which two rows show the same picture, and are no neighbours."""

    def choose(self, own: NDArray[np.int64], found: Found) -> Found:
        """Return those of the neighbours found that count.

        Args:
            own: [m], the rows whose neighbours they are.
            found: [m, k] each.
        """
        rows, distances = found
        counts = (rows != NONE) & (self.groups[rows] != self.groups[own][:, None])
        distances = np.where(counts & (distances > self.above), distances, np.float32(np.inf))
        order = np.argsort(distances, 1, kind="stable")[:, : self.neighbours]
        distances = np.take_along_axis(distances, order, 1)
        rows = np.where(np.isfinite(distances), np.take_along_axis(rows, order, 1), NONE)
        missing = ((0, 0), (0, max(self.neighbours - rows.shape[1], 0)))
        return (
            np.pad(rows, missing, constant_values=NONE),
            np.pad(distances, missing, constant_values=np.inf),
        )


def in_clusters(rows: Shards, labels: NDArray[np.int64], wanted: Wanted, gpu: bool) -> Found:
    """Return the nearest rows inside the cluster of each row, by exact search.

    Args:
        rows: [n, D].
        labels: [n], the clusters.
        wanted: which neighbours count.
        gpu: whether to search on the GPU.
    """
    found = _nothing(len(rows), wanted.neighbours)
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order], append=NONE)) + 1
    with Progress("neighbours in clusters", len(rows), "tiles") as progress:
        for members in np.split(order, ends[:-1]):
            inside = rows.take(members)
            inside -= inside.mean(0)  # so that little cancels in distances
            _put(found, members, _in_cluster(inside, members, wanted, gpu))
            progress.advance(len(members))
    return found


def _in_cluster(
    inside: NDArray[np.float32], members: NDArray[np.int64], wanted: Wanted, gpu: bool
) -> Found:
    def look(some: NDArray[np.int64], k: int) -> Found:
        near = _search(inside[some], inside, k, gpu)
        distances = _distances(inside[some], near, inside)
        return wanted.choose(members[some], (members[near], distances))

    return _widened(look, len(members), wanted, 2 * wanted.neighbours + 1, len(members))


def of_all(rows: Shards, own: NDArray[np.int64], wanted: Wanted, gpu: bool) -> Found:
    """Return the nearest of all rows of some rows, by exact search of one block after another.

    However many rows show the same picture, the others are found.

    Args:
        rows: [n, D].
        own: [m], those rows.
        wanted: which neighbours count.
        gpu: whether to search on the GPU.
    """

    def look(some: NDArray[np.int64], k: int) -> Found:
        queries = rows.take(own[some])
        near = _nothing(len(some), k)
        for start, block in rows.blocks(BASE):
            here = _search(queries, block, min(k, len(block)), gpu)
            both = (
                np.concatenate([near[0], here + start], 1),
                np.concatenate([near[1], _distances(queries, here, block)], 1),
            )
            order = np.argsort(both[1], 1, kind="stable")[:, :k]
            near = np.take_along_axis(both[0], order, 1), np.take_along_axis(both[1], order, 1)
        return wanted.choose(own[some], near)

    return _widened(look, len(own), wanted, 4 * wanted.neighbours + 1, len(rows))


def _widened(
    look: Callable[[NDArray[np.int64], int], Found], n: int, wanted: Wanted, k: int, most: int
) -> Found:
    """Return the neighbours of `n` queries, each among as many of the nearest rows as it takes.

    Args:
        look: returns those that count among the `k` nearest, of some of the queries.
        n: queries.
        wanted: which neighbours count.
        k: nearest rows to begin with.
        most: rows that there are.
    """
    found = _nothing(n, wanted.neighbours)
    todo = np.arange(n)
    while len(todo):
        k = min(k, most)
        for some in _parts(todo, min(QUERIES, max(FLOATS // k, 1))):
            _put(found, some, look(some, k))
        todo = todo[found[0][todo, -1] == NONE] if k < most else todo[:0]
        k *= 4
    return found


class Lists(NamedTuple):
    """How an inverted file with product quantisation is built and searched."""

    lists: int
    """Inverted lists."""
    code: int
    """Bytes of a code."""
    probes: int
    """Lists that are searched."""
    shortlist: int
    """Nearest codes of which the descriptors themselves are compared."""


def build_lists(
    rows: Shards,
    components: Components,
    lists: Lists,
    chosen: NDArray[np.int64],
    folder: Path,
    seed: int,
    gpu: bool,
) -> Any:
    """Return an inverted file with product quantisation whose lists lie on disk.

    Its codes are those of the rows along their principal components. Each shard of rows makes an
    index of its own, and these are merged, so that memory holds one shard's codes.

    Args:
        rows: [n, D].
        components: of the rows, dealt to the bytes of a code.
        lists: how to build it.
        chosen: the rows to learn from, ascending.
        folder: for the index's files; it must last as long as the index.
        seed: of k-means.
        gpu: whether the lists' centroids are learnt on the GPU.
    """
    dimensions = components.axes.shape[1]
    quantizer = faiss.IndexFlatL2(dimensions)
    index: Any = faiss.IndexIVFPQ(quantizer, dimensions, lists.lists, lists.code, 8)
    index.cp.seed = index.pq.cp.seed = seed % 2**31
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    if gpu:
        index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(dimensions))
    index.train(np.concatenate([components.reduced(rows.take(c)) for c in _parts(chosen, BASE)]))
    empty = folder / "empty.index"
    faiss.write_index(index, str(empty))
    parts = []
    with Progress("codes", len(rows), "tiles") as progress:
        for start in range(0, len(rows), rows.rows):
            shard = faiss.read_index(str(empty))
            for ids in _parts(np.arange(start, min(start + rows.rows, len(rows))), BASE):
                shard.add_with_ids(components.reduced(rows.take(ids)), ids)
                progress.advance(len(ids))
            parts.append(str(folder / f"{start // rows.rows:05d}.index"))
            faiss.write_index(shard, parts[-1])
    merge_ondisk(index, parts, str(folder / "lists.ivfdata"))
    return index


def in_lists(
    rows: Shards,
    own: NDArray[np.int64],
    components: Components,
    index: Any,
    lists: Lists,
    wanted: Wanted,
) -> Found:
    """Return the nearest rows of some rows that an inverted file finds.

    Of the nearest codes, the rows themselves are compared, so distances are exact. Where too few
    count, more lists are searched.

    Args:
        rows: [n, D].
        own: [m], those rows.
        components: those that the index was built with.
        index: see `build_lists`.
        lists: how to search.
        wanted: which neighbours count.
    """
    found = _nothing(len(own), wanted.neighbours)
    todo, probes, shortlist = np.arange(len(own)), lists.probes, lists.shortlist
    with Progress("neighbours in lists", len(own), "tiles") as progress:
        while len(todo):
            index.nprobe = probes = min(probes, lists.lists)
            shortlist = min(shortlist, len(rows))
            short = []
            for some in _parts(todo, QUERIES):
                queries = rows.take(own[some])
                _, near = index.search(components.reduced(queries), shortlist)
                chosen = wanted.choose(own[some], (near, _distances(queries, near, rows)))
                _put(found, some, chosen)
                short.append(some[chosen[0][:, -1] == NONE])
                progress.advance(len(some) - len(short[-1]))
            more = probes < lists.lists
            todo = np.concatenate(short) if more else todo[:0]
            probes, shortlist = 4 * probes, 4 * shortlist
    return found


def complete(rows: Shards, found: Found, wanted: Wanted, whole: bool, gpu: bool) -> Found:
    """Return neighbours with none missing.

    Args:
        rows: [n, D].
        found: of each row.
        wanted: which neighbours count.
        whole: rows that miss any are searched for among all rows; otherwise only those that miss
            all. What is missing then is repeated from the nearest on.
        gpu: whether to search on the GPU.

    Raises:
        BadInput: a row has no neighbour at all.
    """
    short = np.flatnonzero(found[0][:, -1 if whole else 0] == NONE)
    for some in _parts(short, QUERIES):
        _put(found, some, of_all(rows, some, wanted, gpu))
    there = (found[0] != NONE).sum(1)
    if not there.all():
        raise BadInput(
            f"{(there == 0).sum()} of {len(there)} images have a quadrant that looks like the same "
            "quadrant of all others; use other images, or lower `duplicates`"
        )
    ranks = np.arange(wanted.neighbours) % there[:, None]
    return np.take_along_axis(found[0], ranks, 1), np.take_along_axis(found[1], ranks, 1)


def _put(found: Found, rows: NDArray[np.int64], of_rows: Found) -> None:
    found[0][rows], found[1][rows] = of_rows


def _nothing(n: int, count: int) -> Found:
    return np.full((n, count), NONE, np.int64), np.full((n, count), np.inf, np.float32)


def _parts(values: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _search(
    queries: NDArray[np.float32], base: NDArray[np.float32], k: int, gpu: bool
) -> NDArray[np.int64]:
    """Return the rows of the base that are nearest to the queries, nearest first, [m, k]."""
    return _by_torch(queries, base, k) if gpu else np.asarray(faiss.knn(queries, base, k)[1])


@torch.inference_mode()
def _by_torch(queries: NDArray[np.float32], base: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return what faiss finds, by a GPU: the build of faiss that most machines have uses none."""
    rows = torch.from_numpy(base).to(GPU)
    lengths = rows.square().sum(1)
    found = []
    for part in torch.from_numpy(queries).split(max(ON_GPU // len(base), 1)):
        # The length of a query changes nothing in the order of its distances.
        distances = torch.addmm(lengths, part.to(GPU), rows.T, alpha=-2)
        found.append(distances.topk(k, largest=False).indices.cpu())
    return torch.cat(found).numpy()


def _at_once(rows: Shards | NDArray[np.float32], k: int) -> int:
    dimensions = rows.dimensions if isinstance(rows, Shards) else rows.shape[1]
    return max(FLOATS // (k * dimensions), 1)


def _distances(
    queries: NDArray[np.float32], near: NDArray[np.int64], base: Shards | NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return squared distances [m, k] of queries [m, D] and rows of the base near them [m, k].

    Faiss subtracts large numbers from each other, which rounds small distances.
    """
    made = []
    for part in _parts(np.arange(len(near)), _at_once(base, near.shape[1])):
        which = np.maximum(near[part], 0)
        there = base.take(which) if isinstance(base, Shards) else base[which]
        there -= queries[part, None]
        made.append(np.einsum("mkd,mkd->mk", there, there))
    distances = np.concatenate(made)
    distances[near == NONE] = np.inf
    return distances
