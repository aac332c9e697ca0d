"""Parts against annotations: NMI, ARI and IoU of labels, and CUB's landmark regression.

NMI and ARI are of the data set: all pixels, or points, in one contingency table. What they can
reach depends on the number of parts K, so every setting names K, and beside them stands an oracle
of the same K: for NMI and ARI the true labels, greedily merged into K groups, which is nearly the
best that K parts can reach; for IoU the best itself.

Two rulers, both of Choudhury et al. (NeurIPS 2021): "fg_" counts where the truth is foreground,
and the K labels there; without it the background counts too, as one more label on both sides. Then
the background must come from somewhere, and the setting says from where: the method's own
foreground, or the data set's, told to the method. A true mask makes half of the task perfect.

Where the data set has pixel labels (DeepFashion, CCP, PASCAL-Part, toy), pixels count; else its
landmarks do: the label at each visible landmark, against the landmark's number (CUB).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.prepared import Prepared, Split
from partbench.data.reader import UNSURE
from partbench.errors import BadInput
from partbench.files import read_json, read_npz
from partbench.metrics import cub, parts
from partbench.metrics.intervals import (
    bootstrap_totals,
    jackknife,
    over_seeds_and_samples,
    percentiles,
)
from partbench.metrics.landmarks import FloatArray, Truth, box_side
from partbench.metrics.parts import Counts
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.probes.landmarks import check_alike, flat, load, load_landmarks, read_points
from partbench.settings import Settings, nearest

VERSION = 2
"""Version of the definition; numbers of different versions are not comparable. Since 2 the oracle's
mean IoU is the greatest possible, no longer that of the groups for NMI, which K parts can exceed;
and a landmark outside of the image is on the background."""
DRAWS = 1000
"""Resampled data sets that an interval stands on."""
MOST_CELLS = 1 << 27
"""Counts of all tables together: 1 GiB."""
KEYS = ("pred", "true")
NOBODY = "no foreground known"
SPLITS = ("train", "test")
EMPTY = 1e-8
"""Mass up to which a part is absent from an image."""
CLASSES = 200
"""Of CUB; with fewer, a number is not the papers' "all"."""
CROPS = {
    "tight": "box crops",
    "box": "square box crops",
    "whole": "whole images",
    "center": "centre crops",
    "stretch": "stretched images",
    "pad": "padded images",
}
"""What `crop` of the data makes of images, in settings of numbers at landmarks: the first and the
third are the papers'."""


class PartSettings(Settings):
    """Settings of the parts probe."""

    at: Literal["auto", "pixels", "landmarks"] = Field(
        "auto",
        description="where labels are compared: at all pixels, at the visible landmarks, or at "
        "pixels where the data set labels them and else at landmarks",
    )
    least_share: float = Field(
        0.01,
        gt=0,
        le=1,
        description="share of an image's foreground from which a part counts as present there, "
        "for its consistency across images",
    )
    pooled_classes: tuple[int, ...] = Field(
        (1, 2, 3),
        description="official numbers of CUB's classes on which one regression is fitted, to be "
        "measured on each of them (Huang and Li); empty: only that on all classes",
    )
    absent: Literal["origin", "mean"] = Field(
        "origin",
        description="where the regression puts a part without mass: at pixel (0, 0), as in the "
        "code of Huang and Li and Choudhury et al., or at its mean (PDiscoNet)",
    )


Foreground = Literal["own", "mask", "box", "predicted"]
FOREGROUNDS: dict[Foreground | Literal[""], str] = {
    "": "",
    "own": "own foreground",
    "mask": "ground-truth mask",
    "box": "box as foreground",
    "predicted": "predicted foreground",
}
"""Who knew the foreground, in words."""


class PartSetting(Setting):
    """What tells numbers of a metric apart."""

    on: str = Field(
        "",
        description="classes that the landmark regression is measured on: CUB-001, `all` of CUB, "
        "or how many",
    )
    k: int = Field(ge=1, description="parts")
    foreground: Foreground | Literal[""] = Field(
        "",
        description="where a ruler that counts the background has it from: the method, true "
        "masks, boxes, or a network trained on masks",
    )
    crop: str = Field("", description="of the data, for numbers at landmarks")
    labels: Literal["", "bilinear"] = Field(
        "", description="how the true labels of pixels were resized, where not by the nearest"
    )
    legacy: bool = Field(
        False, description="the background's label counts too, as in unsup-parts' first notebook"
    )

    def __str__(self) -> str:
        words = (
            self.on,
            f"K = {self.k}",
            FOREGROUNDS[self.foreground],
            f"{self.labels} labels" if self.labels else "",
            CROPS.get(self.crop, f"crop {self.crop}") if self.crop else "",
            "legacy: labels with background" if self.legacy else "",
        )
        return ", ".join(filter(None, words))


class PartFile(NamedTuple):
    """What parts.json says of a run's part maps."""

    parts: int
    """K."""
    foreground: Literal["own", "mask", "none"]
    """Whose foreground the parts were cut out by: the method's, the data set's, nobody's."""


def read_part_file(path: Path) -> PartFile:
    """Read parts.json; raises BadInput where a key is missing or holds what it cannot."""
    found = read_json(path)
    try:
        file = PartFile(found["k"], found["foreground"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: no key {error}; extract the run's outputs again") from None
    whole = type(file.parts) is int and 1 <= file.parts <= UNSURE
    if file.foreground not in ("own", "mask", "none") or not whole:
        raise BadInput(
            f"{path}: {file.parts!r} parts, foreground {file.foreground!r}; there must be 1 to "
            f"{UNSURE} parts, and the foreground is own, mask or none"
        )
    return file


class PartLabels(NamedTuple):
    """What a run says of each pixel of the test images."""

    k: int
    labels: NDArray[Any]
    """[N, S, S] integers, 0 to k - 1."""
    foreground: NDArray[Any] | None
    """[N, S, S], true on the foreground."""
    known_by: Foreground | Literal[""]
    """Who knew the foreground; empty where nobody did."""

    def codes(self, image: int) -> NDArray[np.intp]:
        """Return an image's labels, [S, S], with k added on what is taken for background."""
        codes = np.asarray(self.labels[image], np.intp)
        if codes.size and not 0 <= codes.min() <= codes.max() < self.k:
            wrong = codes.max() if codes.max() >= self.k else codes.min()
            raise BadInput(
                f"test.labels.npy, image {image}: label {wrong}, but parts.json says that there "
                f"are {self.k} parts, 0 to {self.k - 1}; extract the run's outputs again"
            )
        if self.foreground is None:
            return codes
        return np.where(self.foreground[image], codes, codes + self.k)


def read_part_labels(source: Path, file: PartFile, prepared: Prepared) -> PartLabels:
    """Open the labels and the foreground of the test images; nothing is read yet.

    Raises:
        BadInput: a file is missing or damaged, or does not fit the data set's images.
    """
    test = prepared.split("test")
    shape = (len(test), prepared.canvas, prepared.canvas)
    labels, foreground = _open(source / "test.labels.npy", shape), None
    known_by: Foreground | Literal[""] = ""
    if file.foreground == "own":
        foreground, known_by = _open(source / "test.foreground.npy", shape), "own"
    elif file.foreground == "mask":
        foreground = _fitting(test.annotation("mask"), shape, f"{test.folder}: mask")
        known_by = "box" if prepared.meta["settings"].get("foreground") == "box" else "mask"
        if "foreground" in prepared.meta:
            known_by = "predicted"
    return PartLabels(file.parts, labels, foreground, known_by)


def _open(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path}: {error}; extract the run's outputs again") from None
    return _fitting(array, shape, str(path))


def _fitting(array: NDArray[Any], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    if array.dtype.kind not in "iub" or array.shape != shape:
        raise BadInput(
            f"{where}: {array.dtype} of shape {list(array.shape)}; expected integers of shape "
            f"{list(shape)}, as the test images have; give model and data set the same `size`, and "
            "one image a sample"
        )
    return array


class Counted(NamedTuple):
    """How often each true label meets each predicted one, image by image."""

    fg: Counts
    """[N, T, K], where the truth is foreground."""
    full: Counts | None
    """With the background, as column 0, and of pixels as row 0 too; None if nobody knows it."""


def count_pixels(predicted: PartLabels, test: Split, names: Sequence[str]) -> Counted:
    """Count the pixels of each test image, those aside that are to be left out.

    Args:
        predicted: the run's labels.
        test: the split.
        names: of the true labels, background first.

    Raises:
        BadInput: a label beyond the names, true labels of another shape than the predicted, no
            foreground in any image.
    """
    where = f"{test.folder}: parts"
    true = _fitting(test.annotation("parts"), predicted.labels.shape, where)
    tables = np.zeros((len(true), len(names), 2 * predicted.k), np.int64)
    for image, table in enumerate(tables):
        labels = np.array(true[image])
        codes = predicted.codes(image)
        try:
            table[:] = parts.contingency(
                labels, codes, len(names), 2 * predicted.k, labels != UNSURE
            )
        except BadInput as error:
            raise BadInput(f"{where} of image {image}: {error}") from None
    if not tables[:, 1:].any():
        raise BadInput(f"{where}: no foreground in any image, so there is nothing to count")
    return _counted(predicted, tables, tables[:, 1:])


def count_landmarks(predicted: PartLabels, test: Split, names: Sequence[str]) -> Counted:
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
        codes = cub.labels_at(predicted.codes(image), places, outside)
        table[:] = parts.contingency(shown, codes, len(names), 2 * predicted.k)
    if not tables.any():
        raise BadInput(f"{where}: no visible landmark in any image, so there is nothing to count")
    return _counted(predicted, tables, tables)


def _counted(predicted: PartLabels, tables: Counts, inside: Counts) -> Counted:
    """Return the tables of codes [N, T, 2K] by ruler; `inside` has the foreground's rows."""
    k = predicted.k
    full = None
    if predicted.foreground is not None:
        full = np.concatenate([tables[..., k:].sum(2, keepdims=True), tables[..., :k]], axis=2)
    return Counted(inside[..., :k] + inside[..., k:], full)


def dominant(tables: Counts, least_share: float) -> Counts:
    """Return which true label each part mostly lies on in each image, [N, K, T], ones and zeros.

    Args:
        tables: [N, T, K], of the foreground.
        least_share: of the image's foreground that a part must take; else its row is zeros.
    """
    n_true = tables.shape[1]
    sizes = tables.sum(1)
    present = (sizes > 0) & (sizes >= least_share * sizes.sum(1, keepdims=True))
    commonest = np.eye(n_true, dtype=np.int64)[tables.argmax(1)]
    return commonest * present[..., None]


def consistency(images: NDArray[Any]) -> FloatArray:
    """Return how often a part lies on the same true label from image to image.

    For each part: the share of the images where it is present in which its dominant true label is
    its most common dominant label. The mean over the parts that are present somewhere.

    Args:
        images: [..., K, T], sums of `dominant` over images.

    Returns:
        [...], from 0 to 1.
    """
    present = images.sum(-1)
    share = images.max(-1) / np.maximum(present, 1)
    found: FloatArray = share.sum(-1) / (present > 0).sum(-1)
    return found


def mean_iou(tables: NDArray[Any]) -> FloatArray:
    """Return `matched_iou(...).mean_iou` of tables [M, T, P], [M]."""
    return np.array([parts.matched_iou(table).mean_iou for table in tables])


class Parts(Probe):
    """The parts probe of a run's part maps.

    It reads `parts.json`, `test.labels.npy`, `test.foreground.npy` where the method finds the
    foreground, `test.agreement.npy`, and for the landmark regression `<split>.centres.npy` and
    `<split>.mass.npy`; see `partbench.extract`.

    The table of samples has for each number outcomes whose mean it is: see `jackknife` for those
    that are no means over images. Beside them, `details` has the percentiles of a bootstrap over
    images.
    """

    Settings = PartSettings
    Setting = PartSetting
    version = VERSION
    needs = ("part_maps",)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the part maps in `source`; see `Probe.run`.

        Raises:
            BadInput: also where the data set has neither labels of pixels nor landmarks.
        """
        prepared = Prepared(data)
        test = prepared.split("test")
        file = read_part_file(source / "parts.json")
        predicted = read_part_labels(source, file, prepared)
        at = settings.at
        if at == "auto":
            at = "pixels" if test.has("parts") else "landmarks"
        if at == "landmarks" and not test.has("landmarks"):
            raise BadInput(
                f"{data}: split 'test' has neither parts nor landmarks; the probe `parts` needs a "
                "data set that labels pixels or landmarks"
            )
        crop = prepared.meta["settings"]["crop"]
        of_k = PartSetting(k=file.parts)
        if at == "pixels":
            names = ["background", *prepared.meta["part_names"]]
            counted = count_pixels(predicted, test, names)
            blended = prepared.meta["settings"].get("legacy_labels") == "bilinear"
            setting = PartSetting(k=file.parts, labels="bilinear" if blended else "")
        else:
            names = list(prepared.meta["landmark_names"])
            counted = count_landmarks(predicted, test, names)
            setting = PartSetting(k=file.parts, crop=crop)

        numbers = Numbers("%", "higher")
        known_by = FOREGROUNDS[predicted.known_by]
        rulers = [("fg_", setting, counted.fg)]
        if counted.full is not None:
            full = setting.model_copy(update={"foreground": predicted.known_by})
            rulers.append(("", full, counted.full))
        groups = parts.greedy_grouping(counted.fg.sum((0, 2)), file.parts)
        for ruler, of_ruler, tables in rulers:
            # A perfect model finds the background too, beside its K parts.
            best = groups if tables.shape[1] == len(groups) else np.append(0, groups + 1)
            add_labels(numbers, ruler, of_ruler, tables, best, at == "pixels", seed)
        if at == "landmarks" and counted.full is not None:
            numbers.add(
                "fg_ari",
                setting.model_copy(update={"legacy": True}),
                100 * jackknife(parts.ari, counted.full),
                note="as the first released notebook of unsup-parts has it: K + 1 labels; "
                f"{known_by}",
            )
        if at == "pixels":
            add_images(numbers, setting, counted.fg, settings.least_share, seed)
        if not prepared.whole:
            numbers.add(
                "equivariance_agreement",
                of_k,
                100 * agreement(source / "test.agreement.npy", len(test)),
                unit="% of pixels",
                note="foreground of a warped copy whose part is that of the place it shows; "
                f"{known_by or NOBODY}",
            )
        regressed = {}
        if test.has("landmarks") and test.has("box") and test.annotation("box").ndim == 2:
            on = PartSetting(k=file.parts, crop=crop)
            regressed = add_regression(numbers, source, prepared, predicted, settings, on, seed)
        table = (counted.fg if counted.full is None else counted.full).sum(0)
        fg_names = names[1:] if at == "pixels" else names
        details = {
            "k": file.parts,
            "at": at,
            "foreground": known_by,
            "labels": names if len(table) == len(names) else fg_names,
            "background column": counted.full is not None,
            "table": table.tolist(),
            "bootstrap95": numbers.intervals,
            "oracle groups": [
                [name for name, g in zip(fg_names, groups, strict=True) if g == group]
                for group in range(groups.max() + 1)
            ],
            "landmarks": regressed,
        }
        return numbers.result(details)


def add_labels(
    numbers: Numbers,
    ruler: str,
    setting: PartSetting,
    tables: Counts,
    groups: NDArray[np.intp],
    areas: bool,
    seed: int,
) -> None:
    """Add NMI and ARI, where pixels count the matched IoU, and the oracle's of all three.

    Args:
        numbers: to add to.
        ruler: put before each metric's name.
        setting: of the numbers.
        tables: [N, T, P].
        groups: [T], the part of each true label, merged into as many parts.
        areas: whether the counts are areas.
        seed: of the bootstrap.
    """
    found = parts.bootstrap(tables, DRAWS, seed)
    measures = {"nmi": parts.nmi, "ari": parts.ari} | ({"mean_iou": mean_iou} if areas else {})
    matched = "parts and labels matched one to one"
    for name, statistic in measures.items():
        low, high = getattr(found, name)
        numbers.add(
            f"{ruler}{name}",
            setting,
            100 * jackknife(statistic, tables),
            interval=(100 * low, 100 * high),
            note=matched if name == "mean_iou" else "",
        )
    counts, one_hot = tables.sum(2), np.eye(groups.max() + 1, dtype=np.int64)[groups]
    background = not ruler
    k = tables.shape[2] - background
    for name, statistic in measures.items():

        def oracle(counts: Counts, name: str = name, of: Any = statistic) -> FloatArray:
            if name == "mean_iou":
                return parts.best_mean_iou(counts, k, background=background)
            merged: FloatArray = of(counts[..., None] * one_hot)
            return merged

        best = "the greatest that as many parts can have"
        merged = "the true labels, greedily merged into as many parts"
        numbers.add(
            f"oracle_{ruler}{name}",
            setting,
            100 * jackknife(oracle, counts),
            note=best if name == "mean_iou" else merged,
        )


def add_images(
    numbers: Numbers, setting: PartSetting, tables: Counts, least_share: float, seed: int
) -> None:
    """Add what is measured image by image: mean NMI and ARI, and consistency across images.

    Raises:
        BadInput: no part takes `least_share` of any image.
    """
    for name, statistic in (("nmi", parts.nmi), ("ari", parts.ari)):
        note = "mean over images of the image's own"
        numbers.add(f"fg_{name}_per_image", setting, 100 * statistic(tables), note=note)
    images = dominant(tables, least_share)
    rows = images[images.any((1, 2))]
    if not len(rows):
        raise BadInput(
            f"no part takes {least_share:.0%} of the foreground of any test image, so none counts "
            "as present; lower probes.parts.least_share"
        )
    drawn = bootstrap_totals(rows.reshape(len(rows), -1).astype(np.float64), DRAWS, seed)
    low, high = percentiles(100 * consistency(drawn.reshape(-1, *rows.shape[1:])))
    numbers.add(
        "part_consistency",
        setting,
        100 * jackknife(consistency, images),
        interval=(low, high),
        note="images in which a part lies on its usual label; mean over parts",
    )


def agreement(path: Path, n: int) -> FloatArray:
    """Return test.agreement.npy, [n], shares; NaN where an image has no foreground.

    Raises:
        BadInput: it cannot be read, has another shape, or is NaN everywhere.
    """
    shares = load(path)
    if shares.shape != (n,):
        raise BadInput(
            f"{path}: shape {list(shares.shape)} for {n} test images; extract the run's outputs "
            "again"
        )
    if not np.isfinite(shares).any():
        raise BadInput(f"{path}: the method finds no foreground in any image")
    return shares


def add_regression(
    numbers: Numbers,
    source: Path,
    prepared: Prepared,
    predicted: PartLabels,
    settings: PartSettings,
    setting: PartSetting,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Add the errors of the landmark regression from the parts' centres; see `cub.predict`.

    Args:
        numbers: to add to.
        source: the folder of the outputs.
        prepared: the data set.
        predicted: the run's labels, which say how many parts there are and who knew the
            foreground.
        settings: the probe's.
        setting: of the numbers, but for the classes they are measured on.
        seed: of the bootstrap.

    Returns:
        Setting -> landmark -> its error in % of the box, none where no test image shows it.

    Raises:
        BadInput: centres, landmarks or boxes do not fit, or are not finite.
    """
    names = prepared.meta["landmark_names"]
    notes = {
        "landmark_error": f"parts' centres of mass; {FOREGROUNDS[predicted.known_by] or NOBODY}",
        "constant_landmark_error": "each landmark's mean place",
    }
    k = predicted.k
    sides = {name: _regression_side(source, prepared, name, k, settings) for name in SPLITS}
    (inputs, known), (test_inputs, truth) = sides["train"], sides["test"]
    everything = (np.ones(len(inputs), bool), np.ones(len(test_inputs), bool))
    rows = {"all": everything}
    if prepared.meta["reader"] == "cub":
        numbers_of = {name: _official_numbers(prepared, name) for name in SPLITS}
        pooled = np.array(settings.pooled_classes, np.int64)
        if len(pooled) and all(np.isin(pooled, n).all() for n in numbers_of.values()):
            fitted = np.isin(numbers_of["train"], pooled)
            classes = {f"CUB-{c:03d}": (fitted, numbers_of["test"] == c) for c in pooled.tolist()}
            rows = classes | rows
        if prepared.classes < CLASSES:
            rows[f"{prepared.classes} classes"] = rows.pop("all")
    found = {}
    for name, (fitted, measured) in rows.items():
        train = (inputs[fitted], known.landmarks[fitted], known.visible[fitted])
        errors = truth.errors(cub.predict(train, test_inputs))
        errors[~measured] = np.nan
        if not np.isfinite(errors).any():
            raise BadInput(
                f"{prepared.folder}: no landmark of {name} is visible both in training and in test "
                "images"
            )
        constant = truth.errors(
            cub.predict((np.zeros((len(train[0]), 1)), *train[1:]), np.zeros((len(errors), 1)))
        )
        constant[~measured] = np.nan
        full = setting.model_copy(update={"on": name})
        for metric, values in (("landmark_error", errors), ("constant_landmark_error", constant)):
            sums = _sums(values)
            counted = sums[sums[:, 1] > 0]
            draws = bootstrap_totals(counted, DRAWS, seed)
            numbers.add(
                metric,
                full,
                jackknife(_ratio, sums),
                unit="% of box",
                better="lower",
                interval=percentiles(_ratio(draws)),
                note=notes[metric],
            )
        means = [cub.micro_average(column) for column in errors.T]
        found[str(full)] = {
            landmark: mean if np.isfinite(mean) else None
            for landmark, mean in zip(names, means, strict=True)
        }
    return found


def _regression_side(
    source: Path, prepared: Prepared, name: str, k: int, settings: PartSettings
) -> tuple[FloatArray, Truth]:
    """Return a split's inputs [N, 2K] and landmarks, both in units of the box."""
    split = prepared.split(name)
    where = f"{split.folder}: split '{name}'"
    centres = read_points(source / f"{name}.centres.npy", len(split))
    mass = load(source / f"{name}.mass.npy")
    if centres.shape != (len(split), k, 2) or mass.shape != (len(split), k):
        raise BadInput(
            f"{source}: {name} has centres of shape {list(centres.shape)} and mass of shape "
            f"{list(mass.shape)} for {len(split)} images and {k} parts; extract the run's outputs "
            "again"
        )
    box = np.array(split.annotation("box"), np.float64)
    box_side(box, np.ones((len(split), 1), bool), f"{where}: box")
    landmarks = np.array(split.annotation("landmarks"), np.float64)
    visible = np.array(split.annotation("visible"))
    if not np.isfinite(landmarks[visible]).all():
        raise BadInput(f"{where}: a visible landmark is not finite")
    absent = (mass <= EMPTY)[..., None]
    if settings.absent == "origin":
        inputs = cub.box_units(np.where(absent, 0, centres), box)
    else:
        inputs = np.where(absent, np.nan, cub.box_units(centres, box))
    targets = np.where(visible[..., None], cub.box_units(landmarks, box), 0)
    return flat(inputs), Truth(targets, visible, np.ones(len(split)))


def _official_numbers(prepared: Prepared, name: str) -> NDArray[np.int64]:
    """Return CUB's own number of the class of each image of a split, from 1."""
    used = sorted(set(prepared.meta["settings"]["classes"])) or range(1, prepared.classes + 1)
    return np.array(used)[np.array(prepared.split(name).annotation("labels"))]


def _sums(errors: FloatArray) -> FloatArray:
    """Return the sum of each image's errors and their number, [N, 2]."""
    counted = np.isfinite(errors)
    return np.stack([np.where(counted, errors, 0).sum(1), counted.sum(1)], axis=1)


def _ratio(sums: FloatArray) -> FloatArray:
    """Return the mean error of sums [..., 2]."""
    return sums[..., 0] / sums[..., 1]


def score_labels(path: Path, *, ignore: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure the parts in a file against its labels.

    Args:
        path: npz with `pred` and `true`, integers of one shape, at least one; other arrays are
            ignored. With two axes or more, the first is images: then there are intervals over
            images and means over images.
        ignore: a true label; where it stands nothing counts.
        seed: of the intervals' draws.

    Returns:
        What there is to say, ready for `json.dumps`; numbers are in %, intervals are null with
        fewer than two images.

    Raises:
        BadInput: no such file, not an npz, an array that is missing or not of integers, shapes
            that differ, nothing to count, more different labels than parts can have.
    """
    arrays = read_npz(path)
    if missing := [key for key in KEYS if key not in arrays]:
        unknown = [f"'{key}': {nearest(key, KEYS)}" for key in sorted(arrays) if key not in KEYS]
        raise BadInput("\n".join([f"{path}: no array named {', '.join(missing)}.", *unknown]))
    true, pred = arrays["true"], arrays["pred"]
    try:
        parts.check_labels(true, pred)
        if true.size == 0:
            raise BadInput(f"true and pred have shape {list(true.shape)}; nothing is left to count")
        (true_labels, true), (pred_labels, pred) = (
            parts.compact(labels, name) for labels, name in ((true, "true"), (pred, "pred"))
        )
        if true.ndim < 2:
            true, pred = true.reshape(1, -1), pred.reshape(1, -1)
        n_true, n_pred = len(true_labels), len(pred_labels)
        several = len(true) > 1
        n_tables = max(len(true), DRAWS) if several else 1
        if n_tables * n_true * n_pred > MOST_CELLS:
            raise BadInput(
                f"{n_tables:,} tables, of images or of draws of them, with {n_true:,} true and "
                f"{n_pred:,} predicted labels have more than {MOST_CELLS:,} cells; give fewer "
                "labels, or flatten the arrays to do without intervals over images"
            )
        tables = parts.contingency_by_image(true, pred, n_true, n_pred)
        counts = true_labels != ignore
        ignored = int(tables[:, ~counts].sum())
        tables, true_labels = tables[:, counts], true_labels[counts]
        tables = tables[tables.any((1, 2))]
        if not len(tables):
            raise BadInput(f"every true label is {ignore}, which --ignore leaves out")
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    pred_labels, tables = pred_labels[tables.any((0, 1))], tables[:, :, tables.any((0, 1))]

    table = tables.sum(0)
    matching = parts.matched_iou(table)
    groups = parts.greedy_grouping(table.sum(1), len(pred_labels))
    ceiling = parts.grouping_table(table.sum(1), groups)
    several = len(tables) > 1
    intervals = parts.bootstrap(tables, DRAWS, seed)._asdict() if several else None
    return {
        "probe": "parts",
        "version": VERSION,
        "unit": "%",
        "direction": "higher is better",
        "nmi": 100 * float(parts.nmi(table)),
        "ari": 100 * float(parts.ari(table)),
        "mean_iou": 100 * matching.mean_iou,
        "majority_accuracy": 100 * parts.majority_accuracy(table),
        "interval95": intervals
        and {key: [100 * end for end in ends] for key, ends in intervals.items()},
        "per_image": {
            "nmi": _over_images(parts.nmi(tables)),
            "ari": _over_images(parts.ari(tables)),
        }
        if several
        else None,
        "ceiling": {
            "k": ceiling.shape[1],
            "nmi": 100 * float(parts.nmi(ceiling)),
            "ari": 100 * float(parts.ari(ceiling)),
            "groups": [true_labels[groups == k].tolist() for k in range(ceiling.shape[1])],
        },
        "per_label": [
            {
                "label": int(label),
                "n": int(row.sum()),
                "part": int(pred_labels[partner]) if partner >= 0 else None,
                "iou": 100 * float(iou),
            }
            for label, row, partner, iou in zip(
                true_labels, table, matching.partner, matching.iou, strict=True
            )
        ],
        "n": int(table.sum()),
        "n_ignored": ignored,
        "k": len(pred_labels),
        "labels": len(true_labels),
        "images": len(tables) if several else None,
        "parts": pred_labels.tolist(),
        "table": table.tolist() if table.size <= 4096 else None,
        "seed": seed,
        "settings": {"ignore": ignore, "draws": DRAWS if several else 0},
    }


def _over_images(values: FloatArray) -> dict[str, Any]:
    interval = over_seeds_and_samples(100 * values[None])
    return {"mean": interval.mean, "interval95": [interval.low, interval.high]}


def score_landmarks(train_path: Path, test_path: Path, *, seed: int = 0) -> dict[str, Any]:
    """Run CUB's landmark regression on two files of part centres and keypoints.

    The fit is on all training images of the file: for CUB-001, 002 and 003 give the three classes
    together, as the papers do.

    Args:
        train_path: npz with `points` [N, K, 2], `landmarks` [N, L, 2] and `box` [N, 4], (x, y,
            width, height), in pixels, where there are any invisible landmarks `visible` [N, L].
        test_path: likewise; `classes` [N], integers, for an error of each class.
        seed: of the interval's draws.

    Returns:
        What a result file holds, ready for `json.dumps`. Errors are in % of the box, whose width
        and height count separately, over all visible landmarks of test images; the interval is a
        bootstrap's over images. Landmarks that no training image or no test image shows are
        skipped: their error is null.

    Raises:
        BadInput: as `load_landmarks`; no boxes; files that do not fit one another; no landmark
            that both files show.
    """
    train, test = load_landmarks(train_path, each=False), load_landmarks(test_path, each=False)
    check_alike(train.points, test.points, "keypoints")
    check_alike(train.landmarks, test.landmarks, "landmarks")
    units = []
    for path, file in ((train_path, train), (test_path, test)):
        if file.points.shape[2] != 2:
            raise BadInput(f"{path}: extra values of keypoints have no place in CUB's protocol")
        if file.box is None:
            raise BadInput(f"{path}: no array named box; CUB's errors are shares of the box")
        box_side(file.box, np.ones((len(file.points), 1), bool), f"{path}: box")
        points, landmarks = (cub.box_units(p, file.box) for p in (file.points, file.landmarks))
        units.append((flat(points), np.where(file.visible[..., None], landmarks, 0)))
    (inputs, landmarks), (test_inputs, test_landmarks) = units
    known = (inputs, landmarks, train.visible)
    truth = Truth(test_landmarks, test.visible, np.ones(len(test_inputs)))
    errors = truth.errors(cub.predict(known, test_inputs))
    if not np.isfinite(errors).any():
        raise BadInput(f"{test_path}: no landmark that {train_path} shows is visible here")
    constant = cub.predict((np.zeros((len(inputs), 1)), *known[1:]), np.zeros((len(errors), 1)))

    counted = np.isfinite(errors)
    sums = _sums(errors)
    sums = sums[sums[:, 1] > 0]
    interval = (
        list(percentiles(_ratio(bootstrap_totals(sums, DRAWS, seed)))) if len(sums) > 1 else None
    )
    return {
        "probe": "landmarks",
        "version": VERSION,
        "protocol": "cub",
        "metric": "landmark_error",
        "unit": "% of box",
        "direction": "lower is better",
        "value": cub.micro_average(errors),
        "interval95": interval,
        "constant": cub.micro_average(truth.errors(constant)),
        "per_class": _per_class(errors, test_path),
        "per_landmark": [_or_null(cub.micro_average(column)) for column in errors.T],
        "skipped": np.flatnonzero(~counted.any(0)).tolist(),
        "n_points": int(counted.sum()),
        "n_train": len(inputs),
        "n_test": len(errors),
        "keypoints": train.points.shape[1],
        "seed": seed,
        "settings": {"draws": DRAWS if interval else 0},
    }


def _per_class(errors: FloatArray, path: Path) -> dict[str, float | None] | None:
    classes: NDArray[Any] | None = read_npz(path).get("classes")
    if classes is None:
        return None
    if classes.dtype.kind not in "iu" or classes.shape != (len(errors),):
        raise BadInput(
            f"{path}: classes is {classes.dtype} of shape {list(classes.shape)}; expected one "
            f"integer for each of {len(errors)} images"
        )
    return {str(c): _or_null(cub.micro_average(errors[classes == c])) for c in np.unique(classes)}


def _or_null(value: float) -> float | None:
    return value if np.isfinite(value) else None
