"""Ten nearest neighbours of a million descriptors, by the inverted file against an exact search.

The descriptors have 256 dimensions, as many as the stage `scenes` keeps of a tile's features, and
lie around 2,000 centres near a surface of 24 dimensions, as those of pictures do; without any such
order no index could find neighbours. The reference is faiss's exact search in memory, on as many
threads, for a sample of the queries. Ours reads memory-mapped shards and lists on disk. Its time
includes comparing the descriptors themselves; building the index stands beside it.

    python -m benchmarks neighbours
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from partbench.nn.clusters import principal_components
from partbench.nn.nearest import Found, Lists, Wanted, build_lists, in_lists
from partbench.search import SearchSettings
from partbench.shards import Shards

ROWS, DIMENSIONS, LATENT, CENTRES, NOISE = 10**6, 256, 24, 2000, 0.1
NEIGHBOURS = 10
FASTER, RECALL = 20.0, 0.95
BLOCK = 1 << 16


def fill(rows: Shards, seed: int) -> None:
    """Write the descriptors block by block."""
    draw = np.random.default_rng(seed)
    across = draw.normal(size=(LATENT, DIMENSIONS)) / LATENT**0.5
    centres = 2 * draw.normal(size=(CENTRES, LATENT))
    for start in range(0, len(rows), BLOCK):
        n = min(BLOCK, len(rows) - start)
        latent = centres[draw.integers(CENTRES, size=n)] + draw.normal(size=(n, LATENT))
        noise = NOISE * draw.normal(size=(n, DIMENSIONS))
        rows.write(start, (latent @ across + noise).astype(np.float32))


def exact(index: faiss.IndexFlatL2, queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest rows of rows; the first is the row itself."""
    near: NDArray[np.int64] = index.search(queries, NEIGHBOURS + 1)[1]
    return near[:, 1:]


def main(argv: Sequence[str] | None = None) -> None:
    defaults = SearchSettings()
    parser = common.arguments(__doc__, "neighbours")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--queries", type=int, default=20_000, help="of ours")
    parser.add_argument("--exact", type=int, default=1_000, help="of them, searched exactly too")
    parser.add_argument("--lists", type=int, default=defaults.lists)
    parser.add_argument("--code", type=int, default=defaults.code)
    parser.add_argument("--probes", type=int, default=defaults.probes)
    parser.add_argument("--shortlist", type=int, default=defaults.shortlist)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    lists = Lists(args.lists, args.code, args.probes, args.shortlist)
    draw = np.random.default_rng(args.seed)
    own = np.sort(draw.choice(args.rows, args.queries, replace=False))
    chosen = np.sort(draw.choice(args.rows, min(defaults.learnt, args.rows), replace=False))
    some = np.sort(draw.choice(args.queries, args.exact, replace=False))
    wanted = Wanted(NEIGHBOURS, np.arange(args.rows), 0)
    made: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("rows", "index"):
            (place / name).mkdir()
        rows = Shards(place / "rows", args.rows, DIMENSIONS)
        fill(rows, args.seed)
        components = principal_components(rows, DIMENSIONS, chosen, torch.device("cpu"))
        components = components.dealt(args.code)
        index = []

        def build() -> None:
            index.append(build_lists(rows, components, lists, chosen, place / "index", 0, False))

        def search() -> None:
            made["ours"] = in_lists(rows, own, components, index[0], lists, wanted)

        building = common.timed(build)
        ours = common.timed(search)
        flat = faiss.IndexFlatL2(DIMENSIONS)
        for _, block in rows.blocks(BLOCK):
            flat.add(block)
        queries = rows.take(own[some])
        nearest: list[NDArray[np.int64]] = []
        reference = common.timed(lambda: nearest.append(exact(flat, queries)))
    found = made["ours"][0][some]
    recall = float((found[:, :, None] == nearest[0][:, None]).any(1).mean())
    a_query, exactly = ours.wall / args.queries, reference.wall / args.exact
    verdict = "met" if recall >= RECALL else "not met"
    print(f"neighbours, recall at {NEIGHBOURS}: {recall:.4f} (target >= {RECALL}: {verdict})")
    whole = common.report_ratio(
        "neighbours, all rows with the building of the index",
        building.wall + a_query * args.rows,
        exactly * args.rows,
    )
    result = {
        "machine": common.machine("cpu", ("faiss-cpu", "numpy", "torch"), threads=args.threads),
        "task": {
            "rows": args.rows, "dimensions": DIMENSIONS, "latent": LATENT, "centres": CENTRES,
            "noise": NOISE, "neighbours": NEIGHBOURS, "queries": args.queries,
            "queries searched exactly": args.exact, **lists._asdict(), "seed": args.seed,
        },
        **common.report_ratio("neighbours, a query", a_query, exactly, FASTER),
        "recall": {"value": recall, "target": RECALL, "met": recall >= RECALL},
        "building": building.json(),
        "all rows, extrapolated from the queries": whole,
    }  # fmt: skip
    common.write(args.out, "neighbours", result)


if __name__ == "__main__":
    main()
