"""Landmark probe: how well least squares reads annotated landmarks from unsupervised keypoints.

Protocol. A linear map is fitted on the keypoints of the training images and measured on the test
images; the error is the mean over images of the mean over an image's visible landmarks of the
distance to the truth, in % of the inter-ocular distance. The papers fit it without an intercept,
so their numbers depend on where coordinates have their origin, and each puts it elsewhere: Deep
Latent Particles and KeyNet count landmarks in pixels from the window's corner, KeyNet its
keypoints too, Zhang et al. count both from the centre. Settings without "intercept" are in the
frame of the run's own paper; those with it do not depend on any frame.

Deep Latent Particles' "Ours" is the setting "", its "Ours+" is "mu+logvar". There the constant
log-variance of the background particle is an intercept by another name; what it is worth is
measured as `implicit_intercept`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from partbench.coordinates import Frame
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import read_json
from partbench.metrics import landmarks as metrics
from partbench.metrics.landmarks import FloatArray, Truth, check_alike, check_points, flat
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.settings import Settings

VERSION = 1
"""Version of the definition; numbers of different versions are not comparable."""
CURVE_TO, CURVE_STEPS = 15.0, 61
FACES = 8
UNITS = {"iod": "% inter-ocular", "box": "% of box", "image": "% of image side"}
Normaliser = Literal["iod", "box", "image"]
Origin = Literal["corner", "centred"]


class LandmarkSettings(Settings):
    """Settings of the landmark probe."""

    points_frame: Literal["paper", "centred", "corner"] = Field(
        "paper",
        description="the keypoints' frame: from -1 to 1 (DLP, Zhang), pixels from the window's "
        "corner (KeyNet), or that of the run's own paper",
    )
    landmarks_frame: Literal["paper", "centred", "corner"] = Field(
        "paper",
        description="the landmarks' frame: pixels from the window's corner (DLP, KeyNet), sides "
        "of the window from its centre (Zhang), or that of the run's own paper",
    )
    normaliser: Normaliser = Field(
        "iod",
        description="what errors are a share of: the inter-ocular distance (MAFL, all three "
        "papers), sqrt(width * height) of the box (Bulat and Tzimiropoulos, ICCV 2017), or the "
        "prepared image's side (Lorenz et al., CVPR 2019)",
    )
    eyes: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = Field(
        (0, 1), description="the landmarks between which the inter-ocular distance is"
    )
    few_shot: tuple[PositiveInt, ...] = Field(
        (1, 5, 10, 100, 500, 1000, 5000),
        description="numbers of annotations of the few-shot curve (KeyNet), which ends with all; "
        "empty: no curve",
    )
    draws: int = Field(10, ge=2, description="draws of each number of annotations (KeyNet)")
    failure_at: float = Field(10.0, gt=0, description="% from which on an image has failed")

    @model_validator(mode="after")
    def _two_eyes(self) -> Self:
        if self.eyes[0] == self.eyes[1]:
            raise ValueError("eyes must be two different landmarks")
        return self


class LandmarkSetting(Setting):
    """What tells numbers of a metric apart: what is regressed from, and how."""

    inputs: Literal["mu", "mu+logvar"] = Field(
        "mu", description="places of the keypoints, or with their log-variances"
    )
    background: bool = Field(
        True, description="with the constant keypoint of the background, where there is one"
    )
    annotations: int | None = Field(
        None, ge=1, description="annotated images that the map is fitted on; none: all"
    )
    intercept: bool = False

    def __str__(self) -> str:
        words = (
            self.inputs if self.inputs != "mu" else "",
            "" if self.background else "no background",
            "" if self.annotations is None else f"n={self.annotations}",
            "intercept" if self.intercept else "",
        )
        return ", ".join(filter(None, words))


PLAIN, INTERCEPT = SHOWN = (LandmarkSetting(), LandmarkSetting(intercept=True))
"""The settings whose curves are kept: the papers' fit and the honest one."""


class KeypointFile(NamedTuple):
    """What keypoints.json says of a run's keypoints."""

    frame: Frame
    background: bool
    """Whether the last keypoint is a constant that stands for the background."""
    points: Origin
    """The frame in which the run's paper regresses from keypoints."""
    landmarks: Origin
    """The frame in which it regresses to landmarks."""


def read_keypoint_file(path: Path) -> KeypointFile:
    """Read keypoints.json; raises BadInput where a key is missing or a frame unknown."""
    found = read_json(path)
    try:
        frame = Frame(**{key: found[key] for key in Frame._fields})
        points, landmarks = found["protocol"]["points"], found["protocol"]["landmarks"]
        background = found["background"]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: no key {error}; extract the run's outputs again") from None
    for name, origin in (("points", points), ("landmarks", landmarks)):
        if origin not in ("corner", "centred"):
            raise BadInput(f"{path}: protocol.{name} is {origin!r}, must be corner or centred")
    return KeypointFile(frame, background, points, landmarks)


class LandmarkFrame(NamedTuple):
    """The frame that landmarks are regressed in: (pixels - origin) / unit."""

    origin: float
    unit: float

    def of_pixels(self, pixels: Any) -> FloatArray:
        """Return pixels of the prepared image in this frame."""
        return (np.asarray(pixels, np.float64) - self.origin) / self.unit

    def to_pixels(self, points: FloatArray) -> FloatArray:
        """Return points of this frame as pixels of the prepared image."""
        return points * self.unit + self.origin


def landmark_frame(name: Origin, frame: Frame) -> LandmarkFrame:
    """Return the frame of landmarks `name`, for a method that sees the window of `frame`."""
    if name == "corner":
        return LandmarkFrame(frame.left, 1)
    return LandmarkFrame(frame.left + frame.side / 2, frame.side)


class Landmarks(Probe):
    """The landmark probe of a run's keypoints.

    It reads `keypoints.json`, `<split>.points.npy` [N, K, 2], `<split>.logvar.npy` [N, K, 2] if
    there are log-variances, and `test.carried.npy` [N, K, 2]: the keypoints found on a warped
    copy of each test image, carried back to the original; NaN where they cannot be.

    An image whose normaliser is unknown, as one of its eyes is invisible, is left out of the
    errors and has NaN in the table of samples.
    """

    Settings = LandmarkSettings
    Setting = LandmarkSetting
    # A bird from the side shows one eye.
    PAPER = {name: {"normaliser": "box"} for name in ("cub", "cub-001", "cub-002", "cub-003")}
    version = VERSION
    needs = ("keypoints",)

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("landmarks",), ("box",)) if settings.normaliser == "box" else (("landmarks",),)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the keypoints in `source`; see `Probe.run`."""
        prepared = Prepared(data)
        names = prepared.meta["landmark_names"]
        file = read_keypoint_file(source / "keypoints.json")
        points_frame = file.points if settings.points_frame == "paper" else settings.points_frame
        origin = file.landmarks if settings.landmarks_frame == "paper" else settings.landmarks_frame
        frame = landmark_frame(origin, file.frame)

        splits = {name: prepared.split(name) for name in ("train", "test")}
        pixels = {name: np.array(split.annotation("landmarks")) for name, split in splits.items()}
        visible = {name: np.array(split.annotation("visible")) for name, split in splits.items()}
        for name in splits:
            where = f"{data}: split '{name}'"
            metrics.check_landmarks(pixels[name], visible[name], names, where)
        targets = {name: frame.of_pixels(values) for name, values in pixels.items()}
        length = lengths(splits["test"], prepared.size, settings)
        truth = Truth(targets["test"], visible["test"], length / frame.unit)
        metrics.check_landmarks(pixels["test"], truth.counted, names, f"{data}: split 'test'")
        sizes = {name: len(split) for name, split in splits.items()}
        raw, designs = read_designs(source, file, points_frame, sizes)

        numbers = Numbers(UNITS[settings.normaliser], "lower")
        metric = f"{settings.normaliser}_error"
        errors: dict[LandmarkSetting, FloatArray] = {}
        predicted: dict[LandmarkSetting, FloatArray] = {}
        for regressed, design in designs.items():
            for intercept in (False, True):
                setting = regressed.model_copy(update={"intercept": intercept})
                mapped = metrics.fit(design["train"], targets["train"], visible["train"], intercept)
                predicted[setting] = mapped(design["test"])
                errors[setting] = metrics.per_image(truth.errors(predicted[setting]))
                numbers.add(metric, setting, errors[setting])
        all_inputs = LandmarkSetting(inputs="mu+logvar")
        without = all_inputs.model_copy(update={"background": False})
        if without in errors:
            numbers.add(
                "implicit_intercept",
                PLAIN,
                errors[without] - errors[all_inputs],
                note="what the background particle's constants take off the error of mu+logvar: "
                "they are an intercept where the protocol has none",
            )
        for setting in SHOWN:
            failed = np.where(
                np.isfinite(errors[setting]), errors[setting] > settings.failure_at, np.nan
            )
            note = f"images with an error above {settings.failure_at:g} %"
            numbers.add("failure_rate", setting, failed, unit="%", scale=100, note=note)
        curves = {}
        for setting in SHOWN if settings.few_shot else ():
            curve = metrics.few_shot(
                (designs[PLAIN]["train"], targets["train"], visible["train"]),
                designs[PLAIN]["test"],
                truth,
                setting.intercept,
                settings.few_shot,
                settings.draws,
                seed,
            )
            for n, found in curve.items():
                spread = curve_point(found)["sd"]
                note = (
                    f"SD over {len(found)} draws {spread:.2f}"
                    if spread is not None
                    else "all images"
                )
                of_n = setting.model_copy(update={"annotations": n})
                numbers.add(f"few_shot_{metric}", of_n, found.mean(0), note=note)
            curves[str(setting)] = curve_json(curve)
        baseline = metrics.mean_shape(targets["train"], visible["train"])
        shape = baseline(np.zeros((sizes["test"], 1)))
        numbers.add("mean_shape", PLAIN, metrics.per_image(truth.errors(shape)))
        carried = load(source / "test.carried.npy")
        numbers.add(
            "equivariance",
            PLAIN,
            inconsistency(raw, carried, file, str(source / "test.carried.npy")),
            unit="% of window side",
            note="mean distance between keypoints and those of a warped copy, carried back",
        )
        details = {
            "k": raw.shape[1],
            "background": file.background,
            "frames": {"points": points_frame, "landmarks": origin},
            "images that count": int(np.isfinite(errors[PLAIN]).sum()),
            "inputs": {
                str(setting): input_json(designs[PLAIN]["train"], setting.intercept)
                for setting in SHOWN
            },
            "cumulative errors": {
                str(setting): error_curve(errors[setting], settings.failure_at) for setting in SHOWN
            },
            "landmarks": {
                str(setting): dict(zip(names, per_landmark(truth.errors(values)), strict=True))
                for setting, values in predicted.items()
            },
            "few-shot": curves,
            "faces": faces(
                errors[INTERCEPT],
                frame.to_pixels(predicted[INTERCEPT]),
                pixels["test"],
                visible["test"],
            ),
        }
        return numbers.result(details)


def lengths(test: Split, size: int, settings: LandmarkSettings) -> FloatArray:
    """Return what each test image's errors are divided by, pixels, [N]; NaN where unknown.

    Raises:
        BadInput: as `metrics.interocular` and `metrics.box_side`; the data set has no boxes.
    """
    where = f"{test.folder}: split '{test.name}'"
    visible = np.array(test.annotation("visible"))
    if settings.normaliser == "iod":
        landmarks = np.array(test.annotation("landmarks"), np.float64)
        return metrics.interocular(landmarks, visible, settings.eyes, where)
    if settings.normaliser == "box":
        box = np.array(test.annotation("box"), np.float64)
        return metrics.box_side(box, visible, f"{where}: box")
    return np.full(len(test), float(size))


def read_designs(
    source: Path, file: KeypointFile, points_frame: Origin, sizes: Mapping[str, int]
) -> tuple[FloatArray, dict[LandmarkSetting, dict[str, FloatArray]]]:
    """Return the test keypoints [N, K, 2] in the method's frame, and the regressions' inputs.

    Args:
        source: the folder of the outputs.
        file: its keypoints.json.
        points_frame: of the inputs.
        sizes: split -> images.

    Returns:
        The keypoints, and setting (without intercept) -> split -> inputs [N, D].

    Raises:
        BadInput: a file is missing or damaged, does not fit the others, or is not finite; there
            is no keypoint beside the background's.
    """
    points, logvar = {}, {}
    for name, n in sizes.items():
        points[name] = read_points(source / f"{name}.points.npy", n)
    check_alike(points["train"], points["test"], "keypoints")
    if file.background and points["test"].shape[1] == 1:
        raise BadInput(f"{source}: only the background's keypoint; a method needs one more")
    raw = points["test"]
    if points_frame == "corner":
        points = {name: (x + 1) / 2 * file.frame.side for name, x in points.items()}
    parts = {PLAIN: points}
    if any((source / f"{name}.logvar.npy").exists() for name in sizes):
        for name, n in sizes.items():
            path = source / f"{name}.logvar.npy"
            logvar[name] = read_points(path, n)
            if logvar[name].shape != points[name].shape:
                raise BadInput(
                    f"{path}: log-variances have {list(logvar[name].shape[1:])}, keypoints "
                    f"{list(points[name].shape[1:])}; extract the run's outputs again"
                )
        parts[LandmarkSetting(inputs="mu+logvar")] = {
            name: np.concatenate([points[name], logvar[name]], axis=2) for name in sizes
        }
    designs = {}
    for setting, values in parts.items():
        designs[setting] = {name: flat(x) for name, x in values.items()}
        if file.background:
            without = setting.model_copy(update={"background": False})
            designs[without] = {name: flat(x[:, :-1]) for name, x in values.items()}
    return raw, designs


def load(path: Path) -> FloatArray:
    """Return an npy file as float64; raises BadInput if it is missing, damaged or no numbers."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path}: {error}; extract the run's outputs again") from None
    if array.dtype.kind not in "fiu":
        raise BadInput(f"{path}: {array.dtype}, expected numbers; extract the outputs again")
    return np.asarray(array, np.float64)


def read_points(path: Path, n: int) -> FloatArray:
    """Return an npy file [n, K, 2] as float64.

    Raises:
        BadInput: it cannot be read, has another shape, or holds what is not finite.
    """
    points = load(path)
    check_points(points, n, str(path))
    return points


def inconsistency(
    points: FloatArray, carried: FloatArray, file: KeypointFile, where: str
) -> FloatArray:
    """Return the mean distance of keypoints that a warp moved and brought back, [N].

    It is in % of the window's side, over the keypoints that are not the background; those that
    cannot be carried back (NaN) do not count, and an image with no other has NaN.

    Raises:
        BadInput: the shapes differ, or nothing was carried back.
    """
    if carried.shape != points.shape:
        raise BadInput(
            f"{where}: shape {list(carried.shape)}, but the keypoints have "
            f"{list(points.shape)}; extract the run's outputs again"
        )
    moved = file.frame.to_pixels(points) - file.frame.to_pixels(carried)
    if file.background:
        moved = moved[:, :-1]
    shares = 100 * np.hypot(*np.moveaxis(moved, -1, 0)) / file.frame.side
    if not np.isfinite(shares).any():
        raise BadInput(f"{where}: no keypoint was carried back; extract the run's outputs again")
    return metrics.per_image(shares)


def per_landmark(errors: FloatArray) -> list[float]:
    """Return the mean error of each landmark where it counts, [L], of errors [N, L]."""
    return [float(column[np.isfinite(column)].mean()) for column in errors.T]


def error_curve(errors: FloatArray, failure_at: float) -> dict[str, Any]:
    """Return the cumulative error curve of errors [N], plain json."""
    thresholds = np.linspace(0, CURVE_TO, CURVE_STEPS)
    return {
        "thresholds": thresholds.tolist(),
        "share": metrics.cumulative_errors(errors, thresholds).tolist(),
        "area": metrics.area_under_curve(errors, failure_at),
        "area up to": failure_at,
    }


def curve_point(errors: FloatArray) -> dict[str, float | None]:
    """Return mean and SD over draws (none with one) of per-image errors [draws, N]."""
    means = metrics.per_image(errors)
    sd = float(means.std(ddof=1)) if len(means) > 1 else None
    return {"mean": float(means.mean()), "sd": sd}


def curve_json(curve: dict[int, FloatArray]) -> dict[str, Any]:
    """Return a few-shot curve as plain json: n -> mean and SD over draws."""
    return {str(n): curve_point(errors) for n, errors in curve.items()}


def input_json(inputs: FloatArray, intercept: bool) -> dict[str, Any]:
    """Return number, rank and singular values of a regression's inputs, plain json."""
    singular, rank = metrics.spectrum(inputs, intercept)
    return {"number": inputs.shape[1], "rank": rank, "singular values": singular.tolist()}


def faces(
    errors: FloatArray,
    predicted: FloatArray,
    landmarks: NDArray[np.floating],
    visible: NDArray[np.bool_],
) -> dict[str, list[dict[str, Any]]]:
    """Return the images with the least and greatest errors, with landmarks in pixels."""
    order = np.argsort(errors, kind="stable")[: np.isfinite(errors).sum()]
    chosen = {"best": order[:FACES], "worst": order[::-1][:FACES]}
    return {
        name: [
            {
                "index": int(i),
                "error": float(errors[i]),
                "predicted": predicted[i].tolist(),
                "true": landmarks[i].tolist(),
                "visible": visible[i].tolist(),
            }
            for i in indices
        ]
        for name, indices in chosen.items()
    }
