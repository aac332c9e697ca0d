"""CUB's landmark regression and the labels at its keypoints.

Huang and Li (CVPR 2020) measure parts by how well a linear map takes the centres of all parts to
each of 15 keypoints; Choudhury et al. (NeurIPS 2021) and their successors took it over. Facts from
the code of both: the standardised fit, the box units, and that what is absent is the point (0, 0)
in pixels ("legacy"). The last makes baselines look weak: the mean of all 15 keypoints has an error
of 17.9, as published; the mean of the visible ones has 12.4. What they do to images first is in
`partbench.data.whole`.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partbench.metrics.landmarks import BoolArray, FloatArray, Truth

Rule = Literal["legacy", "plain"]
EPSILON = 1e-8
"""Added to a part's mass, pixels."""


# ---------------------------------------------------------------------------- points and boxes


def box_units(points: NDArray[np.floating], box: NDArray[np.floating]) -> FloatArray:
    """Return points as shares of the box: x of its width, y of its height, from its corner.

    Args:
        points: [N, K, 2], pixels.
        box: [N, 4], (x, y, width, height), of positive width and height.
    """
    corner, size = np.split(np.asarray(box, np.float64)[:, None], 2, axis=2)
    shares: FloatArray = (np.asarray(points, np.float64) - corner) / size
    return shares


def in_box(landmarks: NDArray[np.floating], visible: BoolArray, box: FloatArray) -> Truth:
    """Return landmarks in units of the box, so that errors are in % of it.

    Args:
        landmarks: [N, L, 2], pixels.
        visible: [N, L]; what is not visible becomes (0, 0).
        box: [N, 4], see `box_units`.
    """
    units = np.where(visible[..., None], box_units(landmarks, box), 0)
    return Truth(units, visible, np.ones(len(units)))


def mean_keypoint(
    landmarks: NDArray[np.floating], visible: BoolArray, rule: Rule = "legacy"
) -> FloatArray:
    """Return the mean of each image's keypoints, [N, 1, 2], in pixels: a feature of one point.

    Args:
        landmarks: [N, L, 2], pixels.
        visible: [N, L].
        rule: "legacy" takes an invisible keypoint for the point (0, 0) of the image, as the
            published "GT keypoint avg" does; "plain" leaves it out, and an image without a
            visible keypoint has NaN.
    """
    seen = visible[..., None]
    total = np.where(seen, landmarks, 0).sum(1, keepdims=True, dtype=np.float64)
    if rule == "legacy":
        return np.asarray(total / landmarks.shape[1])
    with np.errstate(invalid="ignore"):
        return np.asarray(total / seen.sum(1, keepdims=True))


def from_origin(centres: NDArray[np.floating], mass: NDArray[np.floating]) -> FloatArray:
    """Return centres of parts with 1e-8 added to the mass that their moments were divided by.

    So the code of Huang and Li and of Choudhury et al. has it: a part without mass lies at (0, 0),
    which is outside of the image where pixels count from 1.

    Args:
        centres: [N, K, 2], moments over mass.
        mass: [N, K], not negative.
    """
    weight = np.asarray(mass, np.float64)[..., None]
    shrunk: FloatArray = np.asarray(centres, np.float64) * weight / (weight + EPSILON)
    return shrunk


def labels_at(
    labels: NDArray[np.integer], points: NDArray[np.floating], outside: int = 0
) -> NDArray[np.integer]:
    """Return the labels at points, [P], as nearest-neighbour sampling reads them.

    A point is in the pixel of index x - 1/2, rounded half to even: sampled so, coordinates run
    from the image's border, while CUB's begin at the first pixel's centre. Integer coordinates
    are ties; rounding errors of a grid from -1 to 1, which may break them, are not copied.

    Args:
        labels: [H, W].
        points: [P, 2], (x, y), pixels.
        outside: the label outside of the image; in the published code the first one, as zeros are
            sampled there, and of equal scores the first counts.
    """
    column, row = np.rint(points.T - 0.5).astype(np.intp)
    height, width = labels.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    sampled = np.full(len(points), outside, labels.dtype)
    sampled[inside] = labels[row[inside], column[inside]]
    return sampled


# ---------------------------------------------------------------------------- the regression


def predict(train: tuple[FloatArray, FloatArray, BoolArray], inputs: FloatArray) -> FloatArray:
    """Fit each keypoint on the training images that show it; predict it in the test images.

    Inputs and keypoints are standardised over those images, where a standard deviation of 0
    counts as 1, and fitted by least squares without an intercept; of equally good fits that of
    least norm counts. NaN in the inputs stands for an absent part: it counts as the mean of the
    images that have it, in training and test. PDiscoNet's code does so with inactive parts.

    Args:
        train: inputs [N, D], keypoints [N, L, 2] and visible [N, L].
        inputs: [M, D], of the test images.

    Returns:
        [M, L, 2]; NaN for keypoints that no training image shows.
    """
    train_inputs, landmarks, visible = train
    predicted = np.full((len(inputs), *landmarks.shape[1:]), np.nan)
    for landmark in np.flatnonzero(visible.any(0)):
        rows = visible[:, landmark]
        x, offset, scale = _standardised(train_inputs[rows])
        y, y_offset, y_scale = _standardised(landmarks[rows, landmark])
        coef = np.linalg.lstsq(x, y, rcond=None)[0]
        test = np.nan_to_num((inputs - offset) / scale)
        predicted[:, landmark] = test @ coef * y_scale + y_offset
    return predicted


def _standardised(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return [N, D] standardised, with what was taken off and divided by; NaN becomes 0."""
    present = np.isfinite(values)
    # Absent values are put at the first present one, so that they change no exact zero.
    first = values[present.argmax(0), np.arange(values.shape[1])]
    count = np.maximum(present.sum(0), 1)
    shifted = np.where(present, values - first, 0)
    mean = shifted.sum(0) / count
    centred = np.where(present, shifted - mean, 0)
    scale = np.sqrt((centred**2).sum(0) / count)
    scale[scale == 0] = 1
    return centred / scale, np.nan_to_num(first + mean), scale


def predict_constant(train: tuple[FloatArray, FloatArray, BoolArray], n: int) -> FloatArray:
    """Return each keypoint's mean over the training images that show it, n times: [n, L, 2].

    Args:
        train: see `predict`; the inputs do not matter.
        n: test images.
    """
    inputs, landmarks, visible = train
    return predict((np.zeros((len(inputs), 1)), landmarks, visible), np.zeros((n, 1)))


def sums(errors: FloatArray) -> FloatArray:
    """Return the sum of each image's errors [N, L] that are not NaN, and their number: [N, 2]."""
    counted = np.isfinite(errors)
    return np.stack([np.where(counted, errors, 0).sum(1), counted.sum(1)], axis=1)


def ratio(sums: FloatArray) -> FloatArray:
    """Return the mean error of `sums` [..., 2], or of sums of them."""
    return sums[..., 0] / sums[..., 1]


def micro_average(errors: FloatArray) -> float:
    """Return the mean of the errors [N, L] that are not NaN; NaN if there is none.

    Every visible keypoint counts the same, so an image counts by how many it shows.
    """
    counted = errors[np.isfinite(errors)]
    return float(counted.mean()) if counted.size else np.nan
