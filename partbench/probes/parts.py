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

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.metrics import cub, parts
from partbench.metrics.intervals import (
    bootstrap_totals,
    jackknife,
    percentiles,
)
from partbench.metrics.landmarks import FloatArray
from partbench.metrics.parts import Counts
from partbench.outputs import part_maps
from partbench.outputs.part_maps import PartArrays
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.probes.cub_regression import regress
from partbench.probes.part_counts import count_landmarks, count_pixels
from partbench.settings import Settings

VERSION = 2
"""Version of the definition; numbers of different versions are not comparable. Since 2 the oracle's
mean IoU is the greatest possible, no longer that of the groups for NMI, which K parts can exceed;
and a landmark outside of the image is on the background."""
DRAWS = 1000
"""Resampled data sets that an interval stands on."""
COUNTED = {"auto": ("parts", "landmarks"), "pixels": ("parts",), "landmarks": ("landmarks",)}
"""Setting `at` -> annotations, one of which the data must have."""
NOBODY = "no foreground known"
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


Foreground = Literal["", "own", "mask", "box", "predicted"]
FOREGROUNDS: dict[Foreground, str] = {
    "": "",
    "own": "own foreground",
    "mask": "ground-truth mask",
    "box": "box as foreground",
    "predicted": "predicted foreground",
}
"""Who knew the foreground, in words; nobody, or it does not count: empty."""


class PartSetting(Setting):
    """What tells numbers of a metric apart."""

    on: str = Field(
        "",
        pattern=r"^(CUB-\d{3}|all|\d+ classes)?$",
        description="classes that the landmark regression is measured on: CUB-001, `all` of CUB, "
        "or how many",
    )
    k: int = Field(ge=1, description="parts")
    foreground: Foreground = Field(
        "",
        description="where a ruler that counts the background has it from: the method, true "
        "masks, boxes, or a network trained on masks",
    )
    crop: str = Field("", pattern=r"^[\w-]*$", description="of the data, for numbers at landmarks")
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
            self.seen,
            "legacy: labels with background" if self.legacy else "",
        )
        return ", ".join(filter(None, words))

    @property
    def seen(self) -> str:
        """What the true labels were read from, in words; empty for pixels as they are."""
        labels = f"{self.labels} labels" if self.labels else ""
        crop = CROPS.get(self.crop, f"crop {self.crop}") if self.crop else ""
        return ", ".join(filter(None, [labels, crop]))


def foreground_of(predicted: PartArrays, prepared: Prepared) -> Foreground:
    """Return who knew the foreground that a run's parts were cut out by."""
    if predicted.foreground_of == "own":
        return "own"
    if predicted.foreground_of == "none":
        return ""
    if "foreground" in prepared.meta:
        return "predicted"
    return "box" if prepared.meta["settings"].get("foreground") == "box" else "mask"


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
    mean: FloatArray = share.sum(-1) / (present > 0).sum(-1)
    return mean


def mean_iou(tables: NDArray[Any]) -> FloatArray:
    """Return `matched_iou(...).mean_iou` of tables [M, T, P], [M]."""
    return np.array([parts.matched_iou(table).mean_iou for table in tables])


class Parts(Probe):
    """The parts probe of a run's part maps.

    The table of samples has for each number outcomes whose mean it is: see `jackknife` for those
    that are no means over images. Beside them, `details` has the percentiles of a bootstrap over
    images.
    """

    Settings = PartSettings
    Setting = PartSetting
    version = VERSION
    needs = ("part_maps",)

    @classmethod
    def random(cls, metric: str) -> bool:
        """Return whether the seed draws warps; it also draws bootstraps, which are intervals."""
        return metric == "equivariance_agreement"

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (COUNTED[settings.at],)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the part maps in `source`; see `Probe.run`.

        Raises:
            BadInput: also where the data set has neither labels of pixels nor landmarks.
        """
        prepared = Prepared(data)
        test = prepared.split("test")
        predicted = part_maps.read(source, prepared)
        at = settings.at
        if at == "auto":
            at = "pixels" if test.has("parts") else "landmarks"
        if at == "landmarks" and not test.has("landmarks"):
            raise BadInput(
                f"{data}: split 'test' has neither parts nor landmarks; the probe `parts` needs a "
                "data set that labels pixels or landmarks"
            )
        crop = prepared.meta["settings"]["crop"]
        of_k = PartSetting(k=predicted.k)
        if at == "pixels":
            names = ["background", *prepared.meta["part_names"]]
            counted = count_pixels(predicted, test, names)
            blended = prepared.meta["settings"].get("legacy_labels") == "bilinear"
            setting = PartSetting(k=predicted.k, labels="bilinear" if blended else "")
        else:
            names = list(prepared.meta["landmark_names"])
            counted = count_landmarks(predicted, test, names)
            setting = PartSetting(k=predicted.k, crop=crop)

        numbers = Numbers("%", "higher")
        foreground = foreground_of(predicted, prepared)
        known_by = FOREGROUNDS[foreground]
        rulers = [("fg_", setting, counted.fg)]
        if counted.full is not None:
            full = setting.model_copy(update={"foreground": foreground})
            rulers.append(("", full, counted.full))
        groups = parts.greedy_grouping(counted.fg.sum((0, 2)), predicted.k)
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
        if predicted.agreement is not None:
            numbers.add(
                "equivariance_agreement",
                of_k,
                100 * predicted.agreement,
                unit="% of pixels",
                note="foreground of a warped copy whose part is that of the place it shows; "
                f"{known_by or NOBODY}",
            )
        regressed = {}
        if test.has("landmarks") and test.has("box") and test.annotation("box").ndim == 2:
            on = PartSetting(k=predicted.k, crop=crop)
            note = f"parts' centres of mass; {known_by or NOBODY}"
            regressed = add_regression(numbers, prepared, predicted, settings, on, note, seed)
        table = (counted.fg if counted.full is None else counted.full).sum(0)
        fg_names = names[1:] if at == "pixels" else names
        details = {
            "k": predicted.k,
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
    intervals = parts.bootstrap(tables, DRAWS, seed)
    measures = {"nmi": parts.nmi, "ari": parts.ari} | ({"mean_iou": mean_iou} if areas else {})
    matched = "parts and labels matched one to one"
    for name, statistic in measures.items():
        low, high = getattr(intervals, name)
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


def add_regression(
    numbers: Numbers,
    prepared: Prepared,
    predicted: PartArrays,
    settings: PartSettings,
    setting: PartSetting,
    note: str,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Add the errors of the landmark regression from the parts' centres; see `cub.predict`.

    Args:
        numbers: to add to.
        prepared: the data set.
        predicted: the run's parts.
        settings: the probe's.
        setting: of the numbers, but for the classes they are measured on.
        note: on the regression's numbers.
        seed: of the bootstrap.

    Returns:
        Setting -> landmark -> its error in % of the box, none where no test image shows it.

    Raises:
        BadInput: landmarks or boxes do not fit, or are not finite.
    """
    names = prepared.meta["landmark_names"]
    notes = {"landmark_error": note, "constant_landmark_error": "each landmark's mean place"}
    by_landmark = {}
    errors_of = regress(
        prepared, predicted.centres, predicted.mass, settings.absent, settings.pooled_classes
    )
    for name, both in errors_of.items():
        on = setting.model_copy(update={"on": name})
        for metric, errors in zip(notes, both, strict=True):
            sums = cub.sums(errors)
            draws = bootstrap_totals(sums[sums[:, 1] > 0], DRAWS, seed)
            numbers.add(
                metric,
                on,
                jackknife(cub.ratio, sums),
                unit="% of box",
                better="lower",
                interval=percentiles(cub.ratio(draws)),
                note=notes[metric],
            )
        means = [cub.micro_average(column) for column in both.parts.T]
        by_landmark[str(on)] = {
            landmark: mean if np.isfinite(mean) else None
            for landmark, mean in zip(names, means, strict=True)
        }
    return by_landmark
