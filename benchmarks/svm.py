"""Support vector machines of Fisher vectors: the Gram matrix against scikit-learn's LinearSVC.

The task is UCF101's: one machine a class against the rest, C = 100, hinge, 131,584 features of norm
1, read from a file of float32. Features are synthetic: latents that carry the class, mixed, with
noise, a signed square root, then the norm, as of Fisher vectors.

LinearSVC has its defaults but for C, the loss and enough steps. It holds the features as float64
and once more as a list of 16 bytes a number: at the 9,537 samples of split 1 that is 28 GiB. So
both sides are compared at fewer samples and classes; `--alone` runs ours at any size.

    python -m benchmarks svm                                          # some minutes
    python -m benchmarks svm --samples 9537 --classes 101 --alone     # split 1 of UCF101
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from benchmarks import common
from partbench.metrics.svm import SvmModels, fit_svm

FEATURES, C, LATENTS, TARGET = 131_584, 100.0, 100, 10
ROWS = 64  # drawn at a time


def draw(
    path: Path, labels: NDArray[np.int64], width: int, classes: int, seed: int, part: int
) -> NDArray:
    """Write features of a part of a task to a file, some rows at a time; return a memory map."""
    of_task = np.random.default_rng(seed)
    mixing = of_task.standard_normal((LATENTS, width), dtype=np.float32) / np.float32(LATENTS**0.5)
    centres = 0.2 * of_task.standard_normal((classes, LATENTS), dtype=np.float32)
    rng = np.random.default_rng([seed, part])
    array = np.lib.format.open_memmap(path, "w+", np.float32, (len(labels), width))
    for start in range(0, len(labels), ROWS):
        own = labels[start : start + ROWS]
        latents = rng.standard_normal((len(own), LATENTS), dtype=np.float32) + centres[own]
        rows = latents @ mixing + rng.standard_normal((len(own), width), dtype=np.float32)
        rows = np.sign(rows) * np.sqrt(np.abs(rows))
        array[start : start + ROWS] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    array.flush()
    return np.load(path, mmap_mode="r")


def compare(folder: Path, args: Any) -> dict[str, Any]:
    train_labels = np.arange(args.samples) % args.classes
    test_labels = np.arange(args.test) % args.classes
    train = draw(folder / "train.npy", train_labels, args.features, args.classes, args.seed, 0)
    test = draw(folder / "test.npy", test_labels, args.features, args.classes, args.seed, 1)
    found: list[tuple[SvmModels, NDArray]] = []

    def ours() -> None:
        models = fit_svm(train, train_labels, [C])
        found.append((models, models.scores(test)[0].argmax(1)))

    took = common.timed(ours)
    models, predicted = found[0]
    accuracy = float((predicted == test_labels).mean())
    gap = float(models.gap.max())
    print(
        f"svm, {args.samples} x {args.features}, {args.classes} classes: ours {took.wall:.3g} s, "
        f"accuracy {100 * accuracy:.2f} %, largest duality gap {gap:.1e}",
        flush=True,
    )
    task = {k: getattr(args, k) for k in ("samples", "features", "classes", "test", "seed")}
    result = {
        "task": {**task, "C": C, "loss": "hinge"},
        "accuracy": accuracy,
        "duality_gap": gap,
        "ours": took.json(),
    }
    if args.alone:
        return result
    theirs: list[NDArray] = []

    def reference() -> None:
        model = LinearSVC(C=C, loss="hinge", max_iter=10_000, random_state=args.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(np.array(train, np.float64), train_labels)
        theirs.append(model.predict(np.array(test, np.float64)))

    seconds = common.timed(reference)
    other = float((theirs[0] == test_labels).mean())
    agree = float((theirs[0] == predicted).mean())
    print(f"  LinearSVC's accuracy {100 * other:.2f} %, {100 * agree:.2f} % of predictions agree")
    ratio = common.report_ratio("svm", took.wall, seconds.wall, TARGET)
    cpu_ratio = seconds.cpu / took.cpu
    print(
        f"  processor time: ours {took.cpu:.3g} s, reference {seconds.cpu:.3g} s, {cpu_ratio:.3g}"
    )
    return result | {
        "reference": seconds.json(),
        "reference_accuracy": other,
        "agreement": agree,
        "cpu_ratio": cpu_ratio,
        **ratio,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "svm")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--classes", type=int, default=30)
    parser.add_argument("--test", type=int, default=1000, help="test samples")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads, for both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="without LinearSVC")
    args = parser.parse_args(argv)
    machine = common.solver_machine(args.threads)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(args.threads):
        result = compare(Path(folder), args)
    common.write(args.out, "svm", {"machine": machine, **result})


if __name__ == "__main__":
    main()
