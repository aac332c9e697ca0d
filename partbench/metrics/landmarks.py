"""Landmarks predicted from keypoints by least squares: the fits, their errors, few-shot curves.

The protocol of unsupervised landmarks since Thewlis et al. (ICCV 2017): a linear map, without
regularisation, takes the keypoints of an image to its annotated landmarks. It is fitted on
training images and its error is measured on test images, in % of a length of the face.

Without an intercept, which is how the papers do it, the result depends on the origins of both
sides; with one it does not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from partbench.errors import BadInput

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class LinearMap(NamedTuple):
    """A linear map from D inputs to L landmarks; or several, along leading axes."""

    coef: FloatArray
    """[..., D, L, 2]."""
    offset: FloatArray
    """[..., L, 2]; zeros without an intercept."""

    def __call__(self, inputs: FloatArray) -> FloatArray:
        """Return landmarks [..., N, L, 2] of inputs [N, D]."""
        *several, d, n_landmarks, _ = self.coef.shape
        flat = np.moveaxis(self.coef, -3, 0).reshape(d, -1)
        product = (inputs @ flat).reshape(len(inputs), *several, n_landmarks, 2)
        return np.moveaxis(product, 0, -3) + self.offset[..., None, :, :]


def fit(inputs: FloatArray, landmarks: FloatArray, use: BoolArray, intercept: bool) -> LinearMap:
    """Fit a linear map by least squares; of all that fit equally well, the one of least norm.

    Where the inputs are linearly dependent, or fewer than D + 1 images are used, many maps fit
    equally well, and the least sum of squared coefficients (the intercept not counted) decides.
    The solution is by singular values (LAPACK's gelsd); those below the largest times
    max(n, D) times float64's epsilon count as zero. Normal equations would square the condition
    number, which log-variances beside coordinates make large.

    Args:
        inputs: [N, D].
        landmarks: [N, L, 2].
        use: [N, L], which images each landmark is fitted on, at least one for each.
        intercept: whether a constant may be added; then both sides are centred, which is exact.
    """
    n_landmarks = landmarks.shape[1]
    coef = np.empty((inputs.shape[1], n_landmarks, 2))
    offset = np.zeros((n_landmarks, 2))
    # Landmarks that are fitted on the same images share the decomposition of their inputs.
    groups: dict[bytes, list[int]] = {}
    for landmark, rows in enumerate(use.T):
        groups.setdefault(rows.tobytes(), []).append(landmark)
    for members in groups.values():
        rows = np.flatnonzero(use[:, members[0]])
        x, y = inputs[rows], landmarks[rows][:, members].reshape(len(rows), -1)
        if intercept:
            x, x_mean = centre(x)
            y, y_mean = centre(y)
        solution = np.linalg.lstsq(x, y, rcond=None)[0]
        coef[:, members] = solution.reshape(-1, len(members), 2)
        if intercept:
            offset[members] = (y_mean - x_mean @ solution).reshape(-1, 2)
    return LinearMap(coef, offset)


def mean_shape(landmarks: FloatArray, use: BoolArray) -> LinearMap:
    """Return the map that always predicts the mean of each landmark: an intercept alone."""
    return fit(np.zeros((len(landmarks), 1)), landmarks, use, intercept=True)


def centre(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return values [N, D] with their mean taken off, and the mean [D].

    Constant columns become exact zeros: rounding errors left in them would count as inputs.
    """
    first = values[0]
    shifted = values - first
    mean = shifted.mean(0)
    return shifted - mean, first + mean


def spectrum(inputs: FloatArray, intercept: bool) -> tuple[FloatArray, int]:
    """Return the singular values of the inputs [N, D] as `fit` sees them, and their rank."""
    x = centre(inputs)[0] if intercept else inputs
    singular = np.asarray(np.linalg.svd(x, compute_uv=False), np.float64)
    cutoff = singular.max() * max(x.shape) * np.finfo(np.float64).eps
    return singular, int((singular > cutoff).sum())


class Truth(NamedTuple):
    """The landmarks of the test images, and the length that each image's errors are divided by."""

    landmarks: FloatArray
    """[N, L, 2]."""
    visible: BoolArray
    """[N, L]."""
    normaliser: FloatArray
    """[N], in the unit of the landmarks; NaN leaves an image out of the errors."""

    @property
    def counted(self) -> BoolArray:
        """Which landmarks have an error, [N, L]: visible ones of images with a normaliser."""
        return self.visible & np.isfinite(self.normaliser)[:, None]

    def errors(self, predicted: FloatArray) -> FloatArray:
        """Return the errors of landmarks [..., N, L, 2] in % of the normaliser, [..., N, L].

        NaN for those that are not `counted`.
        """
        distance = np.hypot(*np.moveaxis(predicted - self.landmarks, -1, 0))
        return np.where(self.counted, 100 * distance / self.normaliser[:, None], np.nan)


def per_image(errors: FloatArray) -> FloatArray:
    """Return the mean over an image's counted landmarks, [..., N]; NaN where there is none.

    The mean over images of this is the error that papers report; where landmarks are hidden, an
    image counts the same however many it shows.
    """
    counted = np.isfinite(errors)
    total = np.where(counted, errors, 0).sum(-1)
    number = counted.sum(-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def interocular(
    landmarks: FloatArray, visible: BoolArray, eyes: tuple[int, int], where: str
) -> FloatArray:
    """Return the distance between two landmarks, [N]; NaN where one of them is invisible.

    Args:
        landmarks: [N, L, 2].
        visible: [N, L].
        eyes: the indices of the two.
        where: what the landmarks are, for the message.

    Raises:
        BadInput: an index that is out of range, or two visible eyes at one point.
    """
    if max(eyes) >= landmarks.shape[1]:
        raise BadInput(
            f"{where}: the eyes are landmarks {eyes[0]} and {eyes[1]}, but there are "
            f"{landmarks.shape[1]}, numbered from 0; set `eyes`, or another normaliser"
        )
    left, right = eyes
    distance = np.hypot(*(landmarks[:, left] - landmarks[:, right]).T)
    both = visible[:, left] & visible[:, right]
    if (zero := np.flatnonzero(both & (distance == 0))).size:
        raise BadInput(
            f"{where}: row {zero[0]} has both eyes at {landmarks[zero[0], left].tolist()}: its "
            "inter-ocular distance is zero; correct the row or leave it out"
        )
    return np.where(both, distance, np.nan)


def box_side(box: FloatArray, visible: BoolArray, where: str) -> FloatArray:
    """Return the side of the square of the box's area, sqrt(width * height), [N].

    So Bulat and Tzimiropoulos (ICCV 2017) define the box-normalised error.

    Args:
        box: [N, 4], (x, y, width, height).
        visible: [N, L]; images that show no landmark need no box.
        where: what the boxes are, for the message.

    Raises:
        BadInput: boxes of another shape, or an image with a visible landmark and no box of
            positive area.
    """
    if box.shape != (len(visible), 4):
        raise BadInput(
            f"{where}: shape {list(box.shape)}, expected one box (x, y, width, height) for each "
            f"of {len(visible)} images"
        )
    width, height = box[:, 2], box[:, 3]
    fine = (width > 0) & (height > 0) & np.isfinite(width * height)
    if (bad := np.flatnonzero(visible.any(1) & ~fine)).size:
        raise BadInput(
            f"{where}: row {bad[0]} is {box[bad[0]].tolist()}: no box of positive area; correct "
            "the row or leave it out"
        )
    return np.sqrt(np.where(fine, width * height, np.nan))


def check_landmarks(
    landmarks: NDArray[np.floating],
    visible: BoolArray,
    names: Sequence[str],
    where: str,
    each: bool = True,
) -> None:
    """Refuse, with `BadInput`, what cannot be fitted or measured.

    Args:
        landmarks: must be [N, L, 2], finite where visible.
        visible: must be [N, L], with each landmark visible somewhere.
        names: [L], for the message.
        where: what they are, for the message.
        each: whether one that is visible nowhere is refused.
    """
    if landmarks.ndim != 3 or landmarks.shape[2] != 2 or 0 in landmarks.shape:
        raise BadInput(
            f"{where}: landmarks have shape {list(landmarks.shape)}; expected [images, landmarks, "
            "2], with at least one of each"
        )
    if visible.shape != landmarks.shape[:2]:
        raise BadInput(
            f"{where}: visible has shape {list(visible.shape)}, but there are "
            f"{len(landmarks)} images with {landmarks.shape[1]} landmarks"
        )
    if not visible.any():
        raise BadInput(f"{where}: no landmark is visible in any image that counts")
    if each and (unseen := np.flatnonzero(~visible.any(0))).size:
        raise BadInput(
            f"{where}: landmark {names[unseen[0]]} is visible in no image that counts; leave it out"
        )
    if (bad := np.argwhere(visible & ~np.isfinite(landmarks).all(2))).size:
        row, which = bad[0]
        raise BadInput(
            f"{where}: row {row} has landmark {names[which]} at {landmarks[row, which].tolist()}; "
            "mark it as invisible or leave the row out"
        )


def check_points(points: NDArray[Any], n: int, where: str, values: int | None = 2) -> None:
    """Refuse, with `BadInput`, what is not an [n, K, values] array of finite numbers."""
    fits = points.ndim == 3 and len(points) == n and 0 not in points.shape
    if not fits or points.dtype.kind not in "fiu" or values not in (None, points.shape[2]):
        raise BadInput(
            f"{where}: {points.dtype} of shape {list(points.shape)}; expected numbers of shape "
            f"[{n} images, keypoints, {values or 'values'}]"
        )
    if (bad := np.argwhere(~np.isfinite(points))).size:
        row, keypoint, _ = bad[0]
        raise BadInput(
            f"{where}: row {row}, keypoint {keypoint} is {points[row, keypoint].tolist()}; "
            "give finite numbers"
        )


def check_alike(train: FloatArray, test: FloatArray, what: str) -> None:
    """Refuse, with `BadInput`, training and test images with different numbers of something."""
    if train.shape[1:] != test.shape[1:]:
        raise BadInput(
            f"training images have {what} of shape {list(train.shape[1:])}, test images "
            f"{list(test.shape[1:])}; make both with the same model"
        )


def draw(visible: BoolArray, n: int, rng: np.random.Generator) -> BoolArray:
    """Return which images each landmark is fitted on when n annotations of each are drawn.

    The images are put in a random order, and each landmark takes the first n that show it: where
    all are visible these are n images. A landmark that fewer images show takes all of them.

    Args:
        visible: [N, L].
        n: annotations.
        rng: draws the order.
    """
    order = rng.permutation(len(visible))
    shown = visible[order]
    use = np.empty_like(visible)
    use[order] = shown & (shown.cumsum(0) <= n)
    return use


def few_shot(
    train: tuple[FloatArray, FloatArray, BoolArray],
    test_inputs: FloatArray,
    truth: Truth,
    intercept: bool,
    sizes: Sequence[int],
    draws: int,
    seed: int,
) -> dict[int, FloatArray]:
    """Return the errors of maps fitted on few annotations: n -> per image in %, [draws, N_test].

    Draws of a size do not depend on the other sizes. The whole training set, added as the last
    size, is fitted once, as it has one draw.

    Args:
        train: inputs [N, D], landmarks [N, L, 2] and visible [N, L], each landmark somewhere.
        test_inputs: [N_test, D].
        truth: of the test images.
        intercept: see `fit`.
        sizes: numbers of annotations; those that are not below N are left out.
        draws: of each size.
        seed: of the draws.
    """
    inputs, landmarks, visible = train
    curve = {}
    with threadpool_limits(1):  # in fits this small, threads wait for one another
        for n in sorted({n for n in sizes if n < len(inputs)} | {len(inputs)}):
            rng = np.random.default_rng((seed, n))
            few = n < len(inputs)
            subsets = [draw(visible, n, rng) for _ in range(draws)] if few else [visible]
            maps = [fit(inputs, landmarks, use, intercept) for use in subsets]
            together = LinearMap(*(np.stack(parts) for parts in zip(*maps, strict=True)))
            curve[n] = per_image(truth.errors(together(test_inputs)))
    return curve


def flat(values: FloatArray) -> FloatArray:
    """Return [N, K, E] as [N, K * E]."""
    return values.reshape(len(values), -1)


def failure_rate(errors: FloatArray, above: float) -> float:
    """Return the share of images in % whose error [N] is greater than `above`; NaN not counted."""
    return 100 * float((errors[np.isfinite(errors)] > above).mean())


def cumulative_errors(errors: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Return the share in [0, 1] of images with an error of at most each threshold, [T]."""
    counted = np.sort(errors[np.isfinite(errors)])
    return np.searchsorted(counted, thresholds, side="right") / len(counted)


def area_under_curve(errors: FloatArray, up_to: float) -> float:
    """Return the area under the cumulative error curve from 0 to `up_to`, over `up_to`: [0, 1].

    The curve is a step function, so its integral is exactly the mean of (1 - error / up_to)+.
    """
    counted = errors[np.isfinite(errors)]
    return float(np.maximum(0, 1 - counted / up_to).mean())
