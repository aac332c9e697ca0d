"""MAFL's ruler: landmarks by least squares from keypoints that partbench did not make."""

from pathlib import Path
from typing import Any

import numpy as np

from partbench.errors import BadInput
from partbench.metrics import landmarks as metrics
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.metrics.landmarks import FloatArray, LinearMap, Truth, flat
from partbench.probes.landmarks import (
    UNITS,
    VERSION,
    LandmarkSettings,
    Normaliser,
    curve_json,
    per_landmark,
)
from partbench.score.arrays import check_files_alike, numbered, read_landmarks


def score(
    train_path: Path,
    test_path: Path,
    *,
    intercept: bool = False,
    normaliser: Normaliser = "iod",
    side: float | None = None,
    curve: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Run MAFL's protocol on two files of keypoints and landmarks, in the frame they are in.

    Args:
        train_path: see `read_landmarks`.
        test_path: likewise.
        intercept: the papers have none.
        normaliser: the inter-ocular distance between the landmarks 0 and 1 is the protocol's.
        side: of the image, in the landmarks' unit, for the normaliser "image".
        curve: whether to measure the few-shot curve.
        seed: of its draws.

    Returns:
        What a result file holds, ready for `json.dumps`; errors are in %. The 95 % interval is
        Student's over test images.

    Raises:
        BadInput: as `read_landmarks`; files that do not fit one another; an inter-ocular distance
            of zero, no boxes or no side where they are needed, a side where it is not used.
    """
    settings = LandmarkSettings(normaliser=normaliser)
    if side is not None and normaliser != "image":
        raise BadInput(
            f"--side is {side:g}, which the normaliser '{normaliser}' does not use; give "
            "--normaliser image, or leave --side out"
        )
    train, test = read_landmarks(train_path), read_landmarks(test_path)
    check_files_alike(train_path, test_path, train, test, "keypoints with their extra values")
    if normaliser == "iod":
        length = metrics.interocular(test.landmarks, test.visible, settings.eyes, str(test_path))
    elif normaliser == "box":
        if test.box is None:
            raise BadInput(f"{test_path}: no array named box; the normaliser 'box' needs it")
        length = metrics.box_side(test.box, test.visible, f"{test_path}: box")
    else:
        if side is None or not 0 < side < np.inf:
            raise BadInput(f"--side is {side}; the normaliser 'image' needs the image's side")
        length = np.full(len(test.points), side)
    truth = Truth(test.landmarks, test.visible, length)
    names = numbered(test.landmarks)
    metrics.check_landmarks(test.landmarks, truth.counted, names, str(test_path))

    inputs, test_inputs = flat(train.points), flat(test.points)
    examples = (inputs, train.landmarks, train.visible)

    def measured(mapped: LinearMap, inputs: FloatArray) -> FloatArray:
        return truth.errors(mapped(inputs))

    with np.errstate(over="ignore", invalid="ignore"):
        errors = measured(metrics.fit(*examples, intercept), test_inputs)
    if not np.isfinite(errors[truth.counted]).all():
        raise BadInput(
            f"{test_path}: an error is infinite: the length that it is divided by is nearly 0, or "
            f"the points are far larger than those of {train_path}; give both in another unit"
        )
    by_image = metrics.per_image(errors)
    counted = by_image[np.isfinite(by_image)]
    if len(counted) < 2:
        raise BadInput(f"{test_path}: {len(counted)} image that counts; an interval needs two")
    baseline = measured(
        metrics.mean_shape(train.landmarks, train.visible), np.zeros((len(test_inputs), 1))
    )
    interval = over_seeds_and_samples(counted[None])
    few = None
    if curve:
        few = metrics.few_shot(
            examples, test_inputs, truth, intercept, settings.few_shot, settings.draws, seed
        )
    singular, rank = metrics.spectrum(inputs, intercept)
    return {
        "probe": "landmarks",
        "version": VERSION,
        "protocol": "mafl",
        "metric": f"{normaliser}_error",
        "unit": UNITS[normaliser],
        "direction": "lower is better",
        "value": interval.mean,
        "interval95": [interval.low, interval.high],
        "mean_shape": float(np.nanmean(metrics.per_image(baseline))),
        "failure_rate": metrics.failure_rate(by_image, settings.failure_at),
        "area_under_curve": metrics.area_under_curve(by_image, settings.failure_at),
        "per_landmark": per_landmark(errors),
        "few_shot": None if few is None else curve_json(few),
        "n_train": len(inputs),
        "n_test": len(test_inputs),
        "n_counted": len(counted),
        "keypoints": train.points.shape[1],
        "inputs": inputs.shape[1],
        "rank": rank,
        "singular_values": singular.tolist(),
        "seed": seed,
        "settings": {
            "intercept": intercept,
            "normaliser": normaliser,
            "side": side,
            "eyes": list(settings.eyes),
            "failure_at": settings.failure_at,
            "sizes": list(settings.few_shot) if curve else [],
            "draws": settings.draws,
        },
    }
