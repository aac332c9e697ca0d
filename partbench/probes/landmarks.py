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
measured as `implicit_intercept`. Their code also regresses from the particles' appearances
("mu+logvar+features") and from few particles, of the lowest or the highest variance; KeyNet's
leaves the last tenth of the training images to validation, so that of MAFL's 19,000 it fits on
17,100 (`annotations`).

`equivariance` says how far keypoints are from following a warp. Alone it rewards keypoints that do
not move: near the centre, warps move little. `equivariance_over_staying` divides it by the error of
the same keypoints had they stayed where they were.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from partbench.coordinates import Origin, RegressionFrame, RegressionOrigins, from_corner
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.metrics import landmarks as metrics
from partbench.metrics.landmarks import FloatArray, Truth, flat
from partbench.metrics.warps import over_staying
from partbench.outputs.keypoints import KeypointArrays
from partbench.outputs.keypoints import read as read_keypoints
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.settings import Settings

VERSION = 2
"""Version of the definition; numbers of different versions are not comparable. Since 2 keypoints
under a warp are also compared with those that had stayed where they were."""
CURVE_TO, CURVE_STEPS = 15.0, 61
FACES = 8
UNITS = {"iod": "% inter-ocular", "box": "% of box", "image": "% of image side"}
Normaliser = Literal["iod", "box", "image"]


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
    top: int = Field(
        10,
        ge=0,
        description="particles that one more regression is from, those of the lowest and those of "
        "the highest mean variance (DLP); 0: no such number",
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the training images, the last of them, that one more regression is "
        "not fitted on (KeyNet's code keeps them for validation); 0: no such number",
    )
    failure_at: float = Field(10.0, gt=0, description="% from which on an image has failed")

    @model_validator(mode="after")
    def _two_eyes(self) -> Self:
        if self.eyes[0] == self.eyes[1]:
            raise ValueError("eyes must be two different landmarks")
        return self


class LandmarkSetting(Setting):
    """What tells numbers of a metric apart: what is regressed from, and how."""

    inputs: Literal["mu", "mu+logvar", "mu+logvar+features"] = Field(
        "mu",
        description="places of the keypoints, or with their log-variances, or also with what else "
        "describes them",
    )
    background: bool = Field(
        True, description="with the constant keypoint of the background, where there is one"
    )
    annotations: int | None = Field(
        None, ge=1, description="annotated images that the map is fitted on; none: all"
    )
    intercept: bool = False
    top: int | None = Field(None, ge=1, description="keypoints that are regressed from; none: all")
    variance: Literal["", "lowest", "highest"] = Field(
        "", description="which keypoints these are, by their mean variance in the training images"
    )

    def __str__(self) -> str:
        words = (
            self.inputs if self.inputs != "mu" else "",
            "" if self.background else "no background",
            "" if self.annotations is None else f"n={self.annotations}",
            "intercept" if self.intercept else "",
            "" if self.top is None else f"{self.top} of {self.variance} variance",
        )
        return ", ".join(filter(None, words))


PLAIN, INTERCEPT = SHOWN = (LandmarkSetting(), LandmarkSetting(intercept=True))
"""The settings whose curves are kept: the papers' fit and the honest one."""


class Landmarks(Probe):
    """The landmark probe of a run's keypoints.

    An image whose normaliser is unknown, as one of its eyes is invisible, is left out of the
    errors and has NaN in the table of samples.
    """

    Settings = LandmarkSettings
    Setting = LandmarkSetting
    # A bird from the side shows one eye.
    PAPER = {name: {"normaliser": "box"} for name in ("cub", "cub-001", "cub-002", "cub-003")}
    references = ("thewlis2017landmarks", "zhang2018landmarks", "jakab2018keynet", "daniel2022dlp")
    version = VERSION
    needs = ("keypoints",)

    @classmethod
    def random(cls, metric: str) -> bool:
        """Return whether the seed draws annotations or warps; see `Probe.random`."""
        return metric.startswith(("few_shot_", "equivariance"))

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("landmarks",), ("box",)) if settings.normaliser == "box" else (("landmarks",),)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the keypoints in `source`; see `Probe.run`."""
        prepared = Prepared(data)
        names = prepared.meta["landmark_names"]
        splits = {name: prepared.split(name) for name in ("train", "test")}
        sizes = {name: len(split) for name, split in splits.items()}
        keypoints = read_keypoints(source, sizes)
        paper = keypoints.protocol
        origins = RegressionOrigins(
            paper.points if settings.points_frame == "paper" else settings.points_frame,
            paper.landmarks if settings.landmarks_frame == "paper" else settings.landmarks_frame,
        )
        frame = RegressionFrame.of(origins.landmarks, keypoints.frame)

        pixels = {name: np.array(split.annotation("landmarks")) for name, split in splits.items()}
        visible = {name: np.array(split.annotation("visible")) for name, split in splits.items()}
        for name in splits:
            where = f"{data}: split '{name}'"
            metrics.check_landmarks(pixels[name], visible[name], names, where)
        targets = {
            name: frame.from_pixels(values.astype(np.float64)) for name, values in pixels.items()
        }
        length = lengths(splits["test"], prepared.size, settings)
        truth = Truth(targets["test"], visible["test"], length / frame.unit)
        metrics.check_landmarks(pixels["test"], truth.counted, names, f"{data}: split 'test'")
        inputs = regression_inputs(keypoints, origins.points, settings.top)

        numbers = Numbers(UNITS[settings.normaliser], "lower")
        metric = f"{settings.normaliser}_error"
        errors: dict[LandmarkSetting, FloatArray] = {}
        predicted: dict[LandmarkSetting, FloatArray] = {}
        for regressed, values in inputs.items():
            for intercept in (False, True):
                setting = regressed.model_copy(update={"intercept": intercept})
                mapped = metrics.fit(values["train"], targets["train"], visible["train"], intercept)
                predicted[setting] = mapped(values["test"])
                errors[setting] = metrics.per_image(truth.errors(predicted[setting]))
                numbers.add(metric, setting, errors[setting])
        if n := kept_of(sizes["train"], settings.held_out):
            train = inputs[PLAIN]["train"][:n], targets["train"][:n], visible["train"][:n]
            where = f"{data}: the first {n} training images (probes.landmarks.held_out)"
            metrics.check_landmarks(*train[1:], names, where)
            for setting in SHOWN:
                mapped = metrics.fit(*train, setting.intercept)
                left = metrics.per_image(truth.errors(mapped(inputs[PLAIN]["test"])))
                of_n = setting.model_copy(update={"annotations": n})
                numbers.add(metric, of_n, left, note=f"fitted on the first {n} training images")
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
                (inputs[PLAIN]["train"], targets["train"], visible["train"]),
                inputs[PLAIN]["test"],
                truth,
                setting.intercept,
                settings.few_shot,
                settings.draws,
                seed,
            )
            for n, draws in curve.items():
                spread = curve_point(draws)["sd"]
                note = (
                    f"SD over {len(draws)} draws {spread:.2f}"
                    if spread is not None
                    else "all images"
                )
                of_n = setting.model_copy(update={"annotations": n})
                numbers.add(f"few_shot_{metric}", of_n, draws.mean(0), note=note)
            curves[str(setting)] = curve_json(curve)
        baseline = metrics.mean_shape(targets["train"], visible["train"])
        shape = baseline(np.zeros((sizes["test"], 1)))
        numbers.add("mean_shape", PLAIN, metrics.per_image(truth.errors(shape)), reference=True)
        moved = inconsistency(keypoints, keypoints.carried, str(source))
        stayed = inconsistency(keypoints, keypoints.stayed, str(source))
        numbers.add(
            "equivariance",
            PLAIN,
            metrics.per_image(moved),
            unit="% of window side",
            note="mean distance between keypoints and those of a warped copy, carried back",
        )
        numbers.add(
            "equivariance_over_staying",
            PLAIN,
            100 * over_staying(moved, stayed, str(source)),
            unit="% of staying put",
            note="that distance over that of keypoints that do not move with the warp: 0 is to "
            "follow it, 100 to stay",
        )
        details = {
            "k": keypoints.carried.shape[1],
            "background": keypoints.background,
            "frames": origins._asdict(),
            "images that count": int(np.isfinite(errors[PLAIN]).sum()),
            "inputs": {
                str(setting): input_json(inputs[PLAIN]["train"], setting.intercept)
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


def kept_of(n: int, held_out: float) -> int:
    """Return how many of n training images remain without the last share; 0 where all do."""
    kept = n - int(n * held_out)
    return kept if kept < n else 0


def regression_inputs(
    keypoints: KeypointArrays, origin: Origin, top: int = 0
) -> dict[LandmarkSetting, dict[str, FloatArray]]:
    """Return what landmarks are regressed from: setting (without intercept) -> split -> [N, D].

    Args:
        keypoints: the run's.
        origin: of the frame that their coordinates are given in.
        top: keypoints of the lowest and of the highest variance that are also regressed from, if
            there are more with a variance; 0: none.
    """
    points, logvar = keypoints.points, keypoints.logvar
    if origin == "corner":
        points = {name: from_corner(x, keypoints.frame) for name, x in points.items()}
    variants = {PLAIN: points}
    if logvar is not None:
        variants[LandmarkSetting(inputs="mu+logvar")] = {
            name: np.concatenate([x, logvar[name]], axis=2) for name, x in points.items()
        }
    inputs = {}
    for setting, values in variants.items():
        inputs[setting] = {name: flat(x) for name, x in values.items()}
        if keypoints.background:
            without = setting.model_copy(update={"background": False})
            inputs[without] = {name: flat(x[:, :-1]) for name, x in values.items()}
    if logvar is not None and keypoints.appearance is not None:
        inputs[LandmarkSetting(inputs="mu+logvar+features")] = {
            name: flat(np.concatenate([x, logvar[name], keypoints.appearance[name]], axis=2))
            for name, x in points.items()
        }
    if logvar is not None and 0 < top < points["train"].shape[1]:
        order = np.argsort(logvar["train"].sum(2).mean(0), kind="stable")
        chosen: dict[Literal["lowest", "highest"], NDArray[np.intp]]
        chosen = {"lowest": order[:top], "highest": order[-top:]}
        for variance, which in chosen.items():
            few = LandmarkSetting(top=top, variance=variance)
            inputs[few] = {name: flat(x[:, np.sort(which)]) for name, x in points.items()}
    return inputs


def inconsistency(keypoints: KeypointArrays, carried: FloatArray, where: str) -> FloatArray:
    """Return the distances of test keypoints from those that a warp moved and brought back, [N, K].

    They are in % of the window's side, NaN for those that cannot be carried back. The background's
    keypoint is left out.

    Args:
        keypoints: the run's.
        carried: [N, K, 2], those of the warped copies, carried back.
        where: the outputs, for the message.

    Raises:
        BadInput: nothing was carried back.
    """
    frame = keypoints.frame
    moved = frame.to_pixels(keypoints.points["test"]) - frame.to_pixels(carried)
    if keypoints.background:
        moved = moved[:, :-1]
    shares: FloatArray = 100 * np.hypot(*np.moveaxis(moved, -1, 0)) / frame.side
    if not np.isfinite(shares).any():
        raise BadInput(f"{where}: no keypoint was carried back; extract the run's outputs again")
    return shares


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
