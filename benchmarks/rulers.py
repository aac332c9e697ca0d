"""The rulers as a library, against what a user would write with scikit-learn and scipy.

A validation loop: each batch goes to `update`, and `compute` follows. The reference keeps the
batches and calls scikit-learn on all of them: NMI and ARI of part maps, a linear regression of
landmarks without an intercept, logistic regressions of the same grid of C. The Frechet distance is
the formula with `scipy.linalg.sqrtm`. Both results are asserted equal. Beside the whole loop, the
json holds what one `update` costs, in microseconds.

    python -m benchmarks rulers
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from benchmarks import common
from partbench import metrics
from partbench.metrics.held_out import draw_held_out

LABELS, PARTS, SIDE = 16, 5, 128
KEYPOINTS, LANDMARKS = 10, 5
CLASSES, FEATURES = 10, 128
CS = (0.01, 0.1, 1.0)
DESCRIPTORS = 256

Batches = list[tuple[NDArray[Any], ...]]


def cut(batch: int, *arrays: NDArray[Any]) -> Batches:
    return [
        tuple(values[start : start + batch] for values in arrays)
        for start in range(0, len(arrays[0]), batch)
    ]


def whole(batches: Batches) -> tuple[NDArray[Any], ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))


def parts(n: int, batch: int, draw: np.random.Generator) -> tuple[Batches, Any, Any, Any]:
    """Return the batches, a ruler that learnt what it needs, its result and the reference's."""
    true = draw.integers(0, LABELS, (n, SIDE, SIDE), dtype=np.uint8)
    pred = np.where(draw.random(true.shape) < 0.5, true % PARTS, 0).astype(np.uint8)
    batches = cut(batch, true, pred)

    def reference() -> list[float]:
        one, other = (values.ravel() for values in whole(batches))
        return [normalized_mutual_info_score(one, other), adjusted_rand_score(one, other)]

    def ruler() -> Any:
        return metrics.PartAgreement(LABELS, PARTS, interval=False)

    return batches, ruler, lambda r: [r.compute().nmi.value, r.compute().ari.value], reference


def landmarks(n: int, batch: int, draw: np.random.Generator) -> tuple[Batches, Any, Any, Any]:
    points = draw.normal(size=(2 * n, KEYPOINTS, 2))
    mixed = points.reshape(2 * n, -1) @ draw.normal(size=(2 * KEYPOINTS, 2 * LANDMARKS))
    truth = (mixed + draw.normal(size=mixed.shape)).reshape(2 * n, LANDMARKS, 2)
    train, batches = cut(batch, points[:n], truth[:n]), cut(batch, points[n:], truth[n:])

    def reference() -> list[float]:
        (x, y), (test_x, test_y) = whole(train), whole(batches)
        fitted = LinearRegression(fit_intercept=False).fit(x.reshape(n, -1), y.reshape(n, -1))
        away = np.linalg.norm(
            fitted.predict(test_x.reshape(n, -1)).reshape(y.shape) - test_y, axis=2
        )
        eyes = np.linalg.norm(test_y[:, 0] - test_y[:, 1], axis=1)
        return [float((away.mean(1) / eyes).mean())]

    def ruler() -> Any:
        made = metrics.LandmarkError()
        for one in train:
            made.fit(*one)
        return made

    return batches, ruler, lambda r: [r.compute().value], reference


def features(n: int, batch: int, draw: np.random.Generator) -> tuple[Batches, Any, Any, Any]:
    labels = draw.integers(0, CLASSES, 2 * n)
    x = draw.normal(size=(2 * n, FEATURES)) + np.eye(FEATURES)[labels]
    batches = cut(batch, x[n:], labels[n:])
    train = x[:n], labels[:n]

    def reference() -> list[float]:
        test_x, test_labels = whole(batches)
        mean, sd = train[0].mean(0), train[0].std(0)
        made, told = (train[0] - mean) / sd, train[1]
        held = draw_held_out(told, 0.2, np.random.default_rng(0))
        right = [
            _logistic(c).fit(made[~held], told[~held]).score(made[held], told[held]) for c in CS
        ]
        best = _logistic(CS[int(np.argmax(right))]).fit(made, told)
        return [float(best.score((test_x - mean) / sd, test_labels))]

    def ruler() -> Any:
        return metrics.LinearAccuracy(cs=CS, held_out=0.2).fit(*train)

    return batches, ruler, lambda r: [r.compute().value], reference


def _logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-6, max_iter=1000)


def images(n: int, batch: int, draw: np.random.Generator) -> tuple[Batches, Any, Any, Any]:
    generated, real = draw.normal(size=(n, DESCRIPTORS)), draw.normal(size=(n, DESCRIPTORS)) + 0.1
    batches = cut(batch, generated)

    def reference() -> list[float]:
        (made,) = whole(batches)
        one, other = np.cov(made, rowvar=False), np.cov(real, rowvar=False)
        shift = made.mean(0) - real.mean(0)
        root = np.trace(np.real(sqrtm(one @ other)))
        return [float(shift @ shift + np.trace(one) + np.trace(other) - 2 * root) / 100]

    def ruler() -> Any:
        return _Generated(metrics.FrechetDistance().update(real, real=True))

    return batches, ruler, lambda r: [r.distance.compute().value], reference


class _Generated:
    """A Frechet distance that is fed generated images alone."""

    def __init__(self, distance: Any) -> None:
        self.distance = distance

    def update(self, features: NDArray[Any]) -> None:
        self.distance.update(features, real=False)


CASES = {"parts": parts, "landmarks": landmarks, "features": features, "images": images}


def measure(name: str, n: int, batch: int, repeats: int, seed: int) -> dict[str, Any]:
    """Return the times of one ruler's loop, and those of the reference."""
    batches, ruler, compute, reference = CASES[name](n, batch, np.random.default_rng(seed))
    found: dict[str, list[float]] = {}
    updates, loops, references = [], [], []
    for _ in range(repeats):
        fed = ruler()

        def update(fed: Any = fed) -> None:
            for one in batches:
                fed.update(*one)

        updates.append(common.timed(update))
        last = common.timed(lambda fed=fed: found.update(ours=compute(fed)))
        before = common.timed(ruler)
        loops.append(common.Seconds(*map(sum, zip(before, updates[-1], last, strict=True))))
        references.append(common.timed(lambda: found.update(theirs=reference())))
    # Distances are in no per cent; the reference has them divided.
    np.testing.assert_allclose(np.array(found["ours"]) / 100, found["theirs"], rtol=1e-6)
    ours, theirs = common.median(loops), common.median(references)
    result = common.report_ratio(f"rulers, {name}", ours.wall, theirs.wall)
    each = 1e6 * common.median(updates).wall / len(batches)
    print(f"rulers, {name}: one update of {batch} {each:.0f} us", flush=True)
    return {**result, "update_us": each, "batches": len(batches)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "rulers")
    parser.add_argument("--samples", type=int, default=2_000, help="of each set")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    cases = {
        name: measure(name, args.samples, args.batch, args.repeats, args.seed) for name in CASES
    }
    task = {
        "samples": args.samples, "batch": args.batch, "repeats": args.repeats, "seed": args.seed,
        "parts": {"side": SIDE, "labels": LABELS, "parts": PARTS},
        "landmarks": {"keypoints": KEYPOINTS, "landmarks": LANDMARKS},
        "features": {"classes": CLASSES, "features": FEATURES, "cs": list(CS)},
        "images": {"features": DESCRIPTORS},
    }  # fmt: skip
    machine = common.machine("cpu", ("numpy", "scipy", "scikit-learn"))
    common.write(args.out, "rulers", {"machine": machine, "task": task, "cases": cases})


if __name__ == "__main__":
    main()
