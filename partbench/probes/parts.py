"""Parts against annotations: NMI, ARI and IoU of labels, and CUB's landmark regression.

NMI and ARI are of the data set: all pixels, or points, in one contingency table. What they can
reach depends on the number of parts K, so every setting names K, and beside them stands an oracle
of the same K, a reference: for NMI and ARI the best of the true labels merged into K groups, or
where there are too many labels the greedy merger, as the note says; for IoU the best itself.

Two rulers, both of Choudhury et al. (NeurIPS 2021): "fg_" counts where the truth is foreground,
and the K labels there; without it the background counts too, as one more label on both sides. Then
the background must come from somewhere, and the setting says from where: the method's own
foreground, or the data set's, told to the method. A true mask makes half of the task perfect.

Where the data set has pixel labels (DeepFashion, CCP, PASCAL-Part, toy), pixels count; else its
landmarks do: the label at each visible landmark, against the landmark's number (CUB).
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.metrics import cub, parts
from partbench.metrics.ceilings import Grouping, Measure, best_grouping, best_mean_iou, of_merger
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

VERSION = 3
"""Version of the definition; numbers of different versions are not comparable. Since 2 the oracle's
mean IoU is the greatest possible, no longer that of the groups for NMI, which K parts can exceed;
and a landmark outside of the image is on the background. Since 3 images at their own aspect are
those of the authors' evaluation, on CUB centres count from pixel 1, and the oracle's NMI and ARI
are the greatest of all mergers."""
DRAWS = 1000
"""Resampled data sets that an interval stands on."""
COUNTED = {"auto": ("parts", "landmarks"), "pixels": ("parts",), "landmarks": ("landmarks",)}
"""Setting `at` -> annotations, one of which the data must have."""
MEASURES: dict[Measure, Callable[[Counts], FloatArray]] = {"nmi": parts.nmi, "ari": parts.ari}
EXACT = "the true labels, merged into as many parts: the best of all mergers"
GREEDY = "the true labels, greedily merged into as many parts: not quite the best merger"
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
    first_pixel: Literal[0, 1] = Field(
        0,
        description="number of the first pixel, which the regression counts centres from; on CUB "
        "1, as in the code of Huang and Li and Choudhury et al., while landmarks count from 0",
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


Departure = Literal["exact points", "nearest masks", "border kept"]
DEPARTURES: dict[Departure, tuple[str, str]] = {
    "exact points": ("points", "exact"),
    "nearest masks": ("mask_resize", "nearest"),
    "border kept": ("border", "kept"),
}
"""What departs from the authors' preparation of CUB -> the data's setting, and its value."""


def departures_of(prepared: Prepared) -> tuple[Departure, ...]:
    """Return what departs from the authors' preparation of images at their own aspect."""
    made_with = prepared.meta["settings"]
    if not prepared.whole:
        return ()
    return tuple(name for name, (key, value) in DEPARTURES.items() if made_with.get(key) == value)


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
        False,
        description="the background's label counts too, as in unsup-parts' first notebook, where "
        "it is predicted: then `foreground` is empty",
    )
    departures: tuple[Departure, ...] = Field(
        (), description="where the preparation of images at their own aspect is not the authors'"
    )

    def __str__(self) -> str:
        words = (
            self.on,
            f"K = {self.k}",
            FOREGROUNDS[self.foreground],
            self.seen,
            "legacy: labels with background" if self.legacy else "",
            *self.departures,
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


class Parts(Probe):
    """The parts probe of a run's part maps.

    The table of samples has for each number outcomes whose mean it is: see `jackknife` for those
    that are no means over images. Beside them, `details` has the percentiles of a bootstrap over
    images.
    """

    Settings = PartSettings
    Setting = PartSetting
    PAPER = {"cub": {"first_pixel": 1}}
    references = ("choudhury2021parts",)
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
        departures = departures_of(prepared)
        setting = setting.model_copy(update={"departures": departures})

        numbers = Numbers("%", "higher")
        foreground = foreground_of(predicted, prepared)
        known_by = FOREGROUNDS[foreground]
        rulers = [("fg_", setting, counted.fg)]
        if counted.full is not None:
            full = setting.model_copy(update={"foreground": foreground})
            rulers.append(("", full, counted.full))
        of_labels = counted.fg.sum((0, 2))
        ceilings = {name: best_grouping(of_labels, predicted.k, name) for name in MEASURES}
        for ruler, of_ruler, tables in rulers:
            add_labels(numbers, ruler, of_ruler, tables, ceilings, at == "pixels", seed)
        groups = ceilings["nmi"].groups
        if at == "landmarks" and counted.full is not None:
            # The paper's masks are predicted, and so not named.
            told = {"foreground": "" if foreground == "predicted" else foreground}
            numbers.add(
                "fg_ari",
                setting.model_copy(update={"legacy": True, **told}),
                100 * jackknife(parts.ari, counted.full),
                note="as the first released notebook of unsup-parts has it: K + 1 labels; "
                f"{known_by}",
            )
        if at == "pixels":
            add_images(numbers, setting, counted.fg, settings.least_share, seed)
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
            on = PartSetting(k=predicted.k, crop=crop, departures=departures)
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
    ceilings: Mapping[Measure, Grouping],
    areas: bool,
    seed: int,
) -> None:
    """Add NMI and ARI, where pixels count the matched IoU, and the oracle's of all three.

    Args:
        numbers: to add to.
        ruler: put before each metric's name.
        setting: of the numbers.
        tables: [N, T, P].
        ceilings: the true labels of the foreground merged into as many parts, by what the
            mergers are best for.
        areas: whether the counts are areas.
        seed: of the bootstrap.
    """
    intervals = parts.bootstrap(tables, DRAWS, seed)
    measures = MEASURES | ({"mean_iou": parts.mean_iou} if areas else {})
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
    counts = tables.sum(2)
    for measure, statistic in MEASURES.items():
        best = ceilings[measure]
        outcomes = jackknife(partial(of_merger, statistic, best.groups), counts)
        note = EXACT if best.exact else GREEDY
        numbers.add(f"oracle_{ruler}{measure}", setting, 100 * outcomes, note=note, reference=True)
    if areas:
        background = not ruler
        k = tables.shape[2] - background
        outcomes = jackknife(partial(best_mean_iou, k=k, background=background), counts)
        note = "the greatest that as many parts can have"
        numbers.add(f"oracle_{ruler}mean_iou", setting, 100 * outcomes, note=note, reference=True)


def add_images(
    numbers: Numbers, setting: PartSetting, tables: Counts, least_share: float, seed: int
) -> None:
    """Add what is measured image by image: mean NMI and ARI, and consistency across images.

    Raises:
        BadInput: no part takes `least_share` of any image.
    """
    for name, statistic in MEASURES.items():
        note = "mean over images of the image's own"
        numbers.add(f"fg_{name}_per_image", setting, 100 * statistic(tables), note=note)
    images = parts.dominant(tables, least_share)
    rows = images[images.any((1, 2))]
    if not len(rows):
        raise BadInput(
            f"no part takes {least_share:.0%} of the foreground of any test image, so none counts "
            "as present; lower probes.parts.least_share"
        )
    drawn = bootstrap_totals(rows.reshape(len(rows), -1).astype(np.float64), DRAWS, seed)
    low, high = percentiles(100 * parts.consistency(drawn.reshape(-1, *rows.shape[1:])))
    numbers.add(
        "part_consistency",
        setting,
        100 * jackknife(parts.consistency, images),
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
        prepared,
        predicted.centres,
        predicted.mass,
        settings.absent,
        0 if predicted.told else settings.first_pixel,
        settings.pooled_classes,
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
                reference=metric.startswith("constant"),
            )
        means = [cub.micro_average(column) for column in both.parts.T]
        by_landmark[str(on)] = {
            landmark: mean if np.isfinite(mean) else None
            for landmark, mean in zip(names, means, strict=True)
        }
    return by_landmark
