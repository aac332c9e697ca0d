"""NMI and ARI of 10^8 pixels against scikit-learn.

As a DeepFashion test set of some 1,500 images of 256 x 256: 16 labels, 5 parts, uint8. Labels are
made in runs, as in label maps, and parts agree with them half of the time. scikit-learn is given
the same arrays, one call for each of the two measures. Both numbers are asserted equal to 1e-12.

Ours is asserted to take no more memory for all pixels than for a tenth of them.

    python -m benchmarks part_metrics
"""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from benchmarks import common
from partbench.metrics.parts import ari, contingency, nmi

N_PIXELS, N_LABELS, N_PARTS, RUN = 10**8, 16, 5, 20
TARGET = 100.0  # times as fast
SAME = 1e-12

Labels = NDArray[np.uint8]


def make(n: int, seed: int) -> tuple[Labels, Labels]:
    rng = np.random.default_rng(seed)
    true = np.repeat(rng.integers(0, N_LABELS, -(-n // RUN), dtype=np.uint8), RUN)[:n]
    noise = np.repeat(rng.integers(0, 2 * N_PARTS, -(-n // RUN), dtype=np.uint8), RUN)[:n]
    pred = np.where(noise < N_PARTS, true % N_PARTS, noise % N_PARTS)
    return true, pred.astype(np.uint8)


def ours(true: Labels, pred: Labels) -> list[float]:
    table = contingency(true, pred, N_LABELS, N_PARTS)
    return [float(nmi(table)), float(ari(table))]


def theirs(true: Labels, pred: Labels) -> list[float]:
    return [
        float(normalized_mutual_info_score(true, pred)),
        float(adjusted_rand_score(true, pred)),
    ]


def peak(run: Any, *arrays: Labels) -> int:
    """Return the most bytes that numpy and Python held during a call, beside its arguments."""
    tracemalloc.start()
    run(*arrays)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "part_metrics")
    parser.add_argument("--pixels", type=int, default=N_PIXELS)
    parser.add_argument("--repeats", type=int, default=5, help="of ours; scikit-learn has one")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    true, pred = make(args.pixels, args.seed)
    found: dict[str, list[float]] = {}
    spent = common.median(
        common.timed(lambda: found.update(ours=ours(true, pred))) for _ in range(args.repeats)
    )
    reference = common.timed(lambda: found.update(theirs=theirs(true, pred)))
    np.testing.assert_allclose(found["ours"], found["theirs"], rtol=0, atol=SAME)

    tenth = args.pixels // 10
    bytes_held = {
        "ours": peak(ours, true, pred),
        "ours, a tenth": peak(ours, true[:tenth], pred[:tenth]),
        "scikit-learn, a tenth": peak(theirs, true[:tenth], pred[:tenth]),
    }
    assert bytes_held["ours"] <= 1.01 * bytes_held["ours, a tenth"], bytes_held
    text = ", ".join(f"{key} {value / 2**20:.1f} MiB" for key, value in bytes_held.items())
    print(f"part_metrics, peak memory: {text}", flush=True)
    task = {
        "pixels": args.pixels, "labels": N_LABELS, "parts": N_PARTS, "dtype": "uint8",
        "repeats": args.repeats, "seed": args.seed,
        "nmi": found["ours"][0], "ari": found["ours"][1],
    }  # fmt: skip
    machine = common.machine("cpu", ("numpy", "scipy", "scikit-learn"))
    result = {
        **common.report_ratio("part_metrics", spent.wall, reference.wall, TARGET),
        "cpu_seconds": {"ours": spent.cpu, "reference": reference.cpu},
        "peak_bytes": bytes_held,
    }
    common.write(args.out, "part_metrics", {"machine": machine, "task": task, **result})


if __name__ == "__main__":
    main()
