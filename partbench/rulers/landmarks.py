"""Landmarks from keypoints by least squares, as a function and batch by batch."""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics import landmarks as metrics
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.metrics.landmark_factors import Factors
from partbench.metrics.landmarks import FloatArray, LinearMap, Truth, flat
from partbench.probes.landmarks import UNITS, VERSION
from partbench.rulers.common import Estimate, booleans, floats, public

Normaliser = Literal["iod", "box", "image"]


@public
def landmark_error(
    train_points: Any,
    train_landmarks: Any,
    test_points: Any,
    test_landmarks: Any,
    *,
    train_visible: Any = None,
    test_visible: Any = None,
    intercept: bool = False,
    normaliser: Normaliser = "iod",
    eyes: tuple[int, int] = (0, 1),
    box: Any = None,
    side: float | None = None,
) -> Estimate:
    """Return the mean error of landmarks that least squares read from keypoints.

    The protocol of Thewlis et al. (ICCV 2017), as the probe `landmarks` has it: a linear map is
    fitted on the training images; the error is the mean over test images of the mean over an
    image's visible landmarks of the distance, in % of the normaliser. Without an intercept, as in
    the papers, it depends on the frames of both sides.

    Args:
        train_points: [N, K, E], the keypoints (x, y) and perhaps further values of each.
        train_landmarks: [N, L, 2], (x, y).
        test_points: [M, K, E].
        test_landmarks: [M, L, 2], in the unit of the training landmarks.
        train_visible: [N, L]; by default all are.
        test_visible: [M, L].
        intercept: whether the map has a constant.
        normaliser: `iod`, the distance between two landmarks; `box`, the root of the area of the
            test boxes; `image`, the side.
        eyes: the two landmarks of `iod`.
        box: [M, 4], (x, y, width, height) of the test images, for `box`.
        side: in the unit of the landmarks, for `image`.

    Returns:
        The error in %, with Student's interval over test images.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, nothing visible.
    """
    ruler = _Gathered(intercept, normaliser, eyes, side)
    points, landmarks, visible = _examples(
        train_points, train_landmarks, train_visible, "train_", each=True
    )
    mapped = metrics.fit(flat(points), landmarks, visible, intercept)
    ruler.shapes = points.shape[1:], landmarks.shape[1:]
    ruler.measure(mapped, test_points, test_landmarks, test_visible, box, "test_")
    return ruler.estimate()


class LandmarkError:
    """`landmark_error` batch by batch, for a validation loop.

    First `fit` takes the batches of training images, then `update` those of the images to measure.
    Neither keeps them: the map needs a triangular factor for each landmark, and the interval one
    number for each image.

    Args:
        intercept: see `landmark_error`.
        normaliser: likewise.
        eyes: likewise.
        side: likewise.
    """

    @public
    def __init__(
        self,
        *,
        intercept: bool = False,
        normaliser: Normaliser = "iod",
        eyes: tuple[int, int] = (0, 1),
        side: float | None = None,
    ) -> None:
        self._given = intercept, normaliser, eyes, side
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._ruler = _Gathered(*self._given)
        self._factors: Factors | None = None
        self._map: LinearMap | None = None

    @public
    def fit(self, points: Any, landmarks: Any, visible: Any = None) -> Self:
        """Count training images in: points [B, K, E], landmarks [B, L, 2], visible [B, L].

        Raises:
            ValueError: as `landmark_error`; after the first `update`.
        """
        if self._map is not None:
            raise BadInput("`fit` after `update`: the map is fixed; `reset` forgets it")
        points, landmarks, visible = _examples(points, landmarks, visible, "", each=False)
        self._ruler.check(points, landmarks)
        if self._factors is None:
            inputs = points.shape[1] * points.shape[2]
            self._factors = Factors(inputs, landmarks.shape[1], self._given[0])
        if len(points):
            self._factors.add(flat(points), np.where(visible[..., None], landmarks, 0), visible)
        return self

    @public
    def update(self, points: Any, landmarks: Any, visible: Any = None, box: Any = None) -> Self:
        """Count images to measure in; shapes as in `fit`, `box` [B, 4].

        Raises:
            ValueError: as `landmark_error`; before any `fit`.
        """
        if self._map is None:
            if self._factors is None or not self._factors.n.any():
                raise BadInput("`update` before `fit`: give training images first")
            if (unseen := np.flatnonzero(self._factors.n == 0)).size:
                raise BadInput(
                    f"landmark {unseen[0]} is visible in no training image; leave it out"
                )
            self._map = self._factors.solve()
        self._ruler.measure(self._map, points, landmarks, visible, box, "")
        return self

    @public
    def compute(self) -> Estimate:
        """Return the error of all batches so far; see `landmark_error`.

        Raises:
            ValueError: no image counts.
        """
        return self._ruler.estimate()


class _Gathered:
    """Errors by image of test images, checked and gathered."""

    def __init__(
        self, intercept: bool, normaliser: Normaliser, eyes: tuple[int, int], side: float | None
    ) -> None:
        if normaliser not in UNITS:
            raise BadInput(f"normaliser is {normaliser!r}; give one of {', '.join(UNITS)}")
        if (side is not None) != (normaliser == "image"):
            raise BadInput("`side` is for the normaliser 'image', which needs it")
        if side is not None and not 0 < side < np.inf:
            raise BadInput(f"side is {side}; give the image's, above 0")
        if len(eyes) != 2 or eyes[0] == eyes[1] or min(eyes) < 0:
            raise BadInput(f"eyes are {eyes}; give the numbers of two landmarks, from 0")
        self.normaliser, self.eyes, self.side = normaliser, eyes, side
        self.shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self.errors: list[FloatArray] = []

    def check(self, points: NDArray[Any], landmarks: NDArray[Any]) -> None:
        """Refuse, with `BadInput`, other numbers of keypoints or landmarks than before."""
        shapes = points.shape[1:], landmarks.shape[1:]
        if self.shapes is not None and self.shapes != shapes:
            raise BadInput(
                f"points and landmarks of an image have shapes {list(shapes[0])} and "
                f"{list(shapes[1])}, those before {list(self.shapes[0])} and {list(self.shapes[1])}"
            )
        self.shapes = shapes

    def measure(
        self, mapped: LinearMap, points: Any, landmarks: Any, visible: Any, box: Any, of: str
    ) -> None:
        """Add the errors of test images."""
        points, landmarks, visible = _examples(points, landmarks, visible, of, each=False)
        self.check(points, landmarks)
        if not len(points):
            return
        if (box is not None) != (self.normaliser == "box"):
            raise BadInput("`box` is for the normaliser 'box', which needs it")
        if self.normaliser == "iod":
            length = metrics.interocular(landmarks, visible, self.eyes, f"{of}landmarks")
        elif self.normaliser == "box":
            length = metrics.box_side(floats(box, "box"), visible, "box")
        else:
            length = np.full(len(points), float(self.side or np.nan))
        truth = Truth(landmarks, visible, length)
        with np.errstate(over="ignore", invalid="ignore"):
            errors = truth.errors(mapped(flat(points)))
        if not np.isfinite(errors[truth.counted]).all():
            raise BadInput(
                "an error is infinite: the length that it is divided by is nearly 0, or the points "
                "are far larger than those of the training images"
            )
        self.errors.append(metrics.per_image(errors))

    def estimate(self) -> Estimate:
        """Return the mean over images."""
        by_image = np.concatenate([np.empty(0), *self.errors])
        counted = by_image[np.isfinite(by_image)]
        if not len(counted):
            raise BadInput("no image counts: none shows a landmark and has a normaliser")
        unit = UNITS[self.normaliser]
        if len(counted) == 1:
            return Estimate(float(counted[0]), None, unit, 1, VERSION)
        mean, low, high = over_seeds_and_samples(counted[None])
        return Estimate(mean, (low, high), unit, len(counted), VERSION)


def _examples(
    points: Any, landmarks: Any, visible: Any, of: str, each: bool
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return arguments as arrays that fit one another; a batch may be empty or show nothing."""
    points, landmarks = floats(points, f"{of}points"), floats(landmarks, f"{of}landmarks")
    if landmarks.ndim != 3 or landmarks.shape[2] != 2 or not landmarks.shape[1]:
        raise BadInput(f"{of}landmarks have shape {list(landmarks.shape)}; expected [N, L, 2]")
    n = len(landmarks)
    if points.ndim != 3 or len(points) != n or 0 in points.shape[1:]:
        raise BadInput(f"{of}points have shape {list(points.shape)}; expected [{n}, K, values]")
    if visible is None:
        visible = np.ones(landmarks.shape[:2], bool)
    visible = booleans(visible, f"{of}visible")
    if visible.shape != landmarks.shape[:2]:
        raise BadInput(
            f"{of}visible has shape {list(visible.shape)}; expected {list(landmarks.shape[:2])}"
        )
    if n:
        metrics.check_points(points, n, f"{of}points", values=None)
    names = [str(i) for i in range(landmarks.shape[1])]
    if each or visible.any():
        metrics.check_landmarks(landmarks, visible, names, f"{of}landmarks", each)
    return points, landmarks, visible
