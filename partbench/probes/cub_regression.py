"""CUB's landmark regression from the centres of a run's parts; the arithmetic is `metrics.cub`.

Huang and Li (CVPR 2020) fit one regression on the birds of three classes and measure it on each;
Choudhury et al. (NeurIPS 2021) also one on all classes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.metrics import cub
from partbench.metrics.landmarks import BoolArray, FloatArray, Truth, box_side, flat

EMPTY = 1e-8
"""Mass up to which a part is absent from an image."""
CLASSES = 200
"""Of CUB; with fewer, a number is not the papers' "all"."""
SPLITS = ("train", "test")


class Errors(NamedTuple):
    """Errors of the test images' landmarks in % of the box, [N, L]; NaN where none counts."""

    parts: FloatArray
    """Of the regression from the centres of the parts."""
    constant: FloatArray
    """Of each landmark's mean place."""


def regress(
    prepared: Prepared,
    centres: Mapping[str, FloatArray],
    mass: Mapping[str, FloatArray],
    absent: Literal["origin", "mean"],
    first_pixel: Literal[0, 1],
    pooled_classes: Sequence[int],
) -> dict[str, Errors]:
    """Fit the regressions on the training images and measure them on the test images.

    Args:
        prepared: the data set, with landmarks and one box an image.
        centres: split -> centres of the parts, [N, K, 2], pixels.
        mass: split -> pixels that each part takes, [N, K].
        absent: where a part without mass is put: at pixel (0, 0), or at its mean.
        first_pixel: the number of the first pixel of a row or column, for the centres.
        pooled_classes: official numbers of CUB's classes on which one regression is fitted, to be
            measured on each of them.

    Returns:
        Classes, such as `CUB-001` or `all` -> the errors of their test images.

    Raises:
        BadInput: landmarks or boxes do not fit, or are not finite.
    """
    sides = {}
    for name in SPLITS:
        box = _boxes(prepared, name)
        inputs = inputs_of(centres[name], mass[name], box, absent, first_pixel)
        sides[name] = (inputs, _truth(prepared, name, box))
    (inputs, train), (test_inputs, truth) = sides["train"], sides["test"]
    results = {}
    for classes, (fitted, measured) in _rows(prepared, pooled_classes).items():
        examples = (inputs[fitted], train.landmarks[fitted], train.visible[fitted])
        errors = Errors(
            truth.errors(cub.predict(examples, test_inputs)),
            truth.errors(cub.predict_constant(examples, len(test_inputs))),
        )
        for values in errors:
            values[~measured] = np.nan
        if not np.isfinite(errors.parts).any():
            raise BadInput(
                f"{prepared.folder}: no landmark of {classes} is visible both in training and in "
                "test images"
            )
        results[classes] = errors
    return results


def _rows(
    prepared: Prepared, pooled_classes: Sequence[int]
) -> dict[str, tuple[BoolArray, BoolArray]]:
    """Return classes -> the training images to fit on and the test images to measure on."""
    everything = (
        np.ones(len(prepared.split("train")), bool),
        np.ones(len(prepared.split("test")), bool),
    )
    if prepared.meta["reader"] != "cub":
        return {"all": everything}
    on_all = "all" if prepared.classes >= CLASSES else f"{prepared.classes} classes"
    train, test = (_official_numbers(prepared, name) for name in SPLITS)
    pooled = np.array(pooled_classes, np.int64)
    if not len(pooled) or not np.isin(pooled, train).all() or not np.isin(pooled, test).all():
        return {on_all: everything}
    fitted = np.isin(train, pooled)
    return {f"CUB-{c:03d}": (fitted, test == c) for c in pooled.tolist()} | {on_all: everything}


def inputs_of(
    centres: FloatArray,
    mass: FloatArray,
    box: FloatArray,
    absent: Literal["origin", "mean"],
    first_pixel: Literal[0, 1],
) -> FloatArray:
    """Return what the regression reads of parts, [N, 2K], in units of the box.

    Args:
        centres: [N, K, 2], pixels, of which the first has the number 0.
        mass: [N, K], pixels.
        box: [N, 4], pixels.
        absent: see `regress`; NaN stands for the mean.
        first_pixel: see `regress`.
    """
    counted = np.asarray(centres, np.float64) + first_pixel
    if absent == "origin":
        return flat(cub.box_units(cub.from_origin(counted, mass), box))
    missing = (mass <= EMPTY)[..., None]
    return flat(np.where(missing, np.nan, cub.box_units(counted, box)))


def _boxes(prepared: Prepared, name: str) -> FloatArray:
    """Return a split's boxes, [N, 4], pixels."""
    split = prepared.split(name)
    box = np.array(split.annotation("box"), np.float64)
    box_side(box, np.ones((len(split), 1), bool), f"{split.folder}: split '{name}': box")
    return box


def _truth(prepared: Prepared, name: str, box: FloatArray) -> Truth:
    """Return a split's landmarks in units of the box."""
    split = prepared.split(name)
    landmarks = np.array(split.annotation("landmarks"), np.float64)
    visible = np.array(split.annotation("visible"))
    if not np.isfinite(landmarks[visible]).all():
        raise BadInput(f"{split.folder}: split '{name}': a visible landmark is not finite")
    return cub.in_box(landmarks, visible, box)


def _official_numbers(prepared: Prepared, name: str) -> NDArray[np.int64]:
    """Return CUB's own number of the class of each image of a split, from 1."""
    used = sorted(set(prepared.meta["settings"]["classes"])) or range(1, prepared.classes + 1)
    return np.array(used)[np.array(prepared.split(name).annotation("labels"))]
