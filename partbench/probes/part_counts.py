"""How often a run's parts meet the true labels, image by image, at all pixels or at landmarks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.data.prepared import Split
from partbench.data.reader import UNSURE
from partbench.errors import BadInput
from partbench.metrics import cub
from partbench.metrics.parts import Counts, contingency
from partbench.outputs.part_maps import PartArrays, fitting


class Counted(NamedTuple):
    """How often each true label meets each predicted one, image by image."""

    fg: Counts
    """[N, T, K], where the truth is foreground."""
    full: Counts | None
    """With the background, as column 0, and of pixels as row 0 too; None if nobody knows it."""


def count_pixels(predicted: PartArrays, test: Split, names: Sequence[str]) -> Counted:
    """Count the pixels of each test image, without those that are to be left out.

    Args:
        predicted: the run's parts.
        test: the split.
        names: of the true labels, background first.

    Raises:
        BadInput: a label beyond the names, true labels of another shape than the predicted, no
            foreground in any image.
    """
    where = f"{test.folder}: parts"
    true = fitting(test.annotation("parts"), predicted.labels.shape, where)
    tables = np.zeros((len(true), len(names), 2 * predicted.k), np.int64)
    for image, table in enumerate(tables):
        labels = np.array(true[image])
        codes = _codes(predicted, image)
        try:
            table[:] = contingency(labels, codes, len(names), 2 * predicted.k, labels != UNSURE)
        except BadInput as error:
            raise BadInput(f"{where} of image {image}: {error}") from None
    if not tables[:, 1:].any():
        raise BadInput(f"{where}: no foreground in any image, so there is nothing to count")
    return _by_ruler(predicted, tables, tables[:, 1:])


def count_landmarks(predicted: PartArrays, test: Split, names: Sequence[str]) -> Counted:
    """Count the labels at the visible landmarks of each test image; see `count_pixels`.

    Raises:
        BadInput: also without one row of landmarks, finite where visible, for each image.
    """
    where = f"{test.folder}: split 'test'"
    points, visible = test.annotation("landmarks"), test.annotation("visible")
    if points.shape != (len(test), len(names), 2):
        raise BadInput(f"{where}: landmarks of shape {list(points.shape)} for {len(names)} names")
    # Outside of the image, the first of the K or of the K + 1 labels: part 0 or the background.
    outside = 0 if predicted.foreground is None else predicted.k
    tables = np.zeros((len(test), len(names), 2 * predicted.k), np.int64)
    for image, table in enumerate(tables):
        shown = np.flatnonzero(visible[image])
        places = np.asarray(points[image][shown], np.float64)
        if not np.isfinite(places).all():
            raise BadInput(f"{where}: image {image} has a visible landmark that is not finite")
        codes = cub.labels_at(_codes(predicted, image), places, outside)
        table[:] = contingency(shown, codes, len(names), 2 * predicted.k)
    if not tables.any():
        raise BadInput(f"{where}: no visible landmark in any image, so there is nothing to count")
    return _by_ruler(predicted, tables, tables)


def _codes(predicted: PartArrays, image: int) -> NDArray[np.intp]:
    """Return an image's labels, [S, S], with k added on what is taken for background."""
    k = predicted.k
    codes = np.asarray(predicted.labels[image], np.intp)
    if codes.size and not 0 <= codes.min() <= codes.max() < k:
        wrong = codes.max() if codes.max() >= k else codes.min()
        raise BadInput(
            f"test.labels.npy, image {image}: label {wrong}, but parts.json says that there are "
            f"{k} parts, 0 to {k - 1}; extract the run's outputs again"
        )
    if predicted.foreground is None:
        return codes
    return np.where(predicted.foreground[image], codes, codes + k)


def _by_ruler(predicted: PartArrays, tables: Counts, inside: Counts) -> Counted:
    """Return the tables of codes [N, T, 2K] by ruler; `inside` has the foreground's rows."""
    k = predicted.k
    full = None
    if predicted.foreground is not None:
        full = np.concatenate([tables[..., k:].sum(2, keepdims=True), tables[..., :k]], axis=2)
    return Counted(inside[..., :k] + inside[..., k:], full)
