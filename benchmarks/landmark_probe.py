"""The landmark probe's whole few-shot curve against scikit-learn, a fit a draw.

As on MAFL: 19,000 training and 1,000 test images, 31 keypoints (62 inputs), 5 landmarks; 1, 5,
10, 100, 500, 1,000, 5,000 and all annotations, 10 draws each, without and with an intercept. Inputs
are synthetic: correlated, of unequal scales, with two columns of zeros as DLP's background.

The plain way fits scikit-learn's LinearRegression on each draw, predicts and measures; it draws
10 times the whole set too. Both find the same minimum-norm solution: the errors are asserted equal.

    python -m benchmarks landmark_probe
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from benchmarks import common
from partbench.metrics.landmarks import Truth, draw, few_shot
from partbench.probes.landmarks import LandmarkSettings

N_TRAIN, N_TEST, N_KEYPOINTS, N_LANDMARKS = 19_000, 1_000, 31, 5
SIZES = LandmarkSettings().few_shot
DRAWS = LandmarkSettings().draws
LIMIT = 2.0  # seconds
SAME = 1e-8  # relative difference of errors

Known = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]


def make(seed: int) -> tuple[Known, NDArray[np.float64], Truth]:
    rng = np.random.default_rng(seed)
    n, d = N_TRAIN + N_TEST, 2 * N_KEYPOINTS
    pose = rng.normal(size=(n, 8))
    inputs = pose @ rng.normal(size=(8, d)) * 0.1 + 0.05 * rng.normal(size=(n, d))
    inputs += rng.uniform(-0.7, 0.7, d)
    inputs[:, -2:] = 0
    landmarks = np.tensordot(pose, rng.normal(size=(8, N_LANDMARKS, 2)), 1)
    landmarks += rng.normal(size=landmarks.shape) + rng.uniform(30, 90, (N_LANDMARKS, 2))
    visible = np.ones((n, N_LANDMARKS), bool)
    train, test = slice(N_TRAIN), slice(N_TRAIN, None)
    length = np.linalg.norm(landmarks[test, 0] - landmarks[test, 1], axis=1)
    truth = Truth(landmarks[test], visible[test], length)
    return (inputs[train], landmarks[train], visible[train]), inputs[test], truth


def plain(
    train: Known, test: NDArray[np.float64], truth: Truth, intercept: bool, seed: int
) -> dict[int, NDArray[np.float64]]:
    """Return what `few_shot` returns, a draw at a time; the last size 10 times too."""
    inputs, landmarks, visible = train
    curve = {}
    for n in (*SIZES, N_TRAIN):
        rng = np.random.default_rng((seed, n))
        errors = []
        for _ in range(DRAWS):
            rows = draw(visible, n, rng)[:, 0]
            model = LinearRegression(fit_intercept=intercept)
            model.fit(inputs[rows], landmarks[rows].reshape(-1, 2 * N_LANDMARKS))
            predicted = model.predict(test).reshape(-1, N_LANDMARKS, 2)
            distance = np.linalg.norm(predicted - truth.landmarks, axis=2)
            errors.append((100 * distance / truth.normaliser[:, None]).mean(1))
        curve[n] = np.array(errors)
    return curve


def compare(intercept: bool, repeats: int, seed: int) -> dict[str, Any]:
    train, test, truth = make(seed)
    ours: dict[int, NDArray[np.float64]] = {}
    theirs: dict[int, NDArray[np.float64]] = {}
    times: dict[str, list[common.Seconds]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        times["ours"].append(
            common.timed(
                lambda: ours.update(few_shot(train, test, truth, intercept, SIZES, DRAWS, seed))
            )
        )
        times["plain"].append(
            common.timed(lambda: theirs.update(plain(train, test, truth, intercept, seed)))
        )
    for n, errors in theirs.items():
        # The whole set is fitted once here and ten times there.
        np.testing.assert_allclose(np.broadcast_to(ours[n], errors.shape), errors, rtol=SAME)
    name = f"landmark_probe, {'with' if intercept else 'without'} intercept"
    spent = {side: common.median(values) for side, values in times.items()}
    return {
        **common.report_ratio(name, spent["ours"].wall, spent["plain"].wall),
        "cpu_seconds": {side: seconds.cpu for side, seconds in spent.items()},
        "limit": common.report_limit(name, spent["ours"].wall, LIMIT),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "landmark_probe")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads of the plain way")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    machine = common.solver_machine(args.threads)
    task = {
        "train": N_TRAIN, "test": N_TEST, "inputs": 2 * N_KEYPOINTS, "landmarks": N_LANDMARKS,
        "sizes": [*SIZES, N_TRAIN], "draws": DRAWS, "repeats": args.repeats, "seed": args.seed,
    }  # fmt: skip
    with threadpool_limits(args.threads):
        result = {
            name: compare(intercept, args.repeats, args.seed)
            for name, intercept in (("no intercept", False), ("intercept", True))
        }
    common.write(args.out, "landmark_probe", {"machine": machine, "task": task, **result})


if __name__ == "__main__":
    main()
