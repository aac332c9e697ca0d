"""Keypoints: where a method's parts are.

<split>.points.npy   float32 [N, K, 2], (x, y) in the method's own frame, of train and test
<split>.logvar.npy   float32 [N, K, 2], log-variances of their posterior, where there is one
<split>.appearance.npy  float32 [N, K, F], what else describes each keypoint, where there is any
test.carried.npy     float32 [N, K, 2], keypoints of a warped copy of each image, carried back
                     to the places of the original that they show; NaN where that is outside
                     the window that the method sees
test.stayed.npy      float32 [N, K, 2], the same of keypoints that had not moved with the warp:
                     those of the originals, taken for those of the copies, carried back
keypoints.json       the frame, the origins of the paper's regression, and whether the last
                     keypoint is the background's
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partbench.coordinates import ORIGINS, Frame, RegressionOrigins, of_pixels
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.integrity import read_record, write_record
from partbench.metrics.landmarks import check_alike, check_points
from partbench.nn.tps import STRONG, ThinPlateSpline, warp
from partbench.outputs.arrays import (
    AGAIN,
    SPLITS,
    Arrays,
    first_images,
    read_images,
    read_numbers,
    read_points,
    write_arrays,
)
from partbench.outputs.capability import Capability, call_of, check_tensor

FILE = "keypoints.json"
CARRIED = ("carried", "stayed")
SLACK = 1.0
"""Pixels by which a keypoint may lie outside the window."""


class Keypoints(NamedTuple):
    """Keypoints of a batch, in the numbers that the method's paper regresses from."""

    points: Tensor
    """[B, K, 2] float32, (x, y) in the method's own `frame`."""
    logvar: Tensor | None = None
    """[B, K, 2] log-variances of their posterior, where there is one."""
    background: bool = False
    """Whether the last keypoint is a constant that stands for the background."""
    appearance: Tensor | None = None
    """[B, K, F] what else describes each keypoint, that landmarks may be regressed from too."""


@runtime_checkable
class HasKeypoints(Protocol):
    """A method that finds keypoints; `Method` has a default `frame` and `protocol`."""

    protocol: RegressionOrigins
    """Where the paper's regression to landmarks counts from."""

    def keypoints(self, images: Tensor) -> Keypoints:
        """Return the keypoints of images [B, 3, S, S] in [0, 1]."""

    def frame(self) -> Frame:
        """Return what -1 and 1 of a keypoint's coordinates are in pixels."""


class KeypointArrays(NamedTuple):
    """What a folder of outputs holds of a run's keypoints."""

    frame: Frame
    """Of the points."""
    protocol: RegressionOrigins
    """Where the run's paper counts from."""
    background: bool
    """Whether the last keypoint is a constant that stands for the background."""
    points: dict[str, NDArray[np.float64]]
    """Split -> [N, K, 2]."""
    logvar: dict[str, NDArray[np.float64]] | None
    """Split -> [N, K, 2], where there are log-variances."""
    carried: NDArray[np.float64]
    """[N, K, 2], of the test images; NaN where a keypoint cannot be carried back."""
    stayed: NDArray[np.float64]
    """[N, K, 2], the same of keypoints that had not moved with the warp."""
    appearance: dict[str, NDArray[np.float64]] | None = None
    """Split -> [N, K, F], where there is any."""


class Pictures(NamedTuple):
    """A run's keypoints on the first test images."""

    originals: NDArray[np.uint8]
    """[n, S, S, 3]."""
    points: NDArray[np.floating[Any]]
    """[n, K, 2], (x, y) in pixels of the originals."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        originals, points = read_images(arrays, "originals"), arrays.get("keypoints")
        if originals is None or points is None or points.dtype.kind != "f":
            return None
        fits = points.ndim == 3 and points.shape[2] == 2
        return cls(originals, points) if fits else None


class KeypointCapability(Capability):
    """Keypoints of all images."""

    offer = HasKeypoints
    member = "keypoints"

    def check_class(self, method: type) -> None:
        """Also refuse a `protocol` that is none; see `Capability.check_class`."""
        super().check_class(method)
        protocol = getattr(method, "protocol", None)
        if self.offered_by(method) and not (
            isinstance(protocol, RegressionOrigins) and set(protocol) <= set(ORIGINS)
        ):
            raise BadInput(
                f"{method.__name__}.protocol is {protocol!r}; it must be a RegressionOrigins of "
                "partbench/coordinates.py, each origin 'corner' or 'centred'"
            )

    def check(self, method: HasKeypoints, samples: Tensor) -> None:
        """Check the keypoints of two images; see `Capability.check`."""
        keypoints, frame = method.keypoints(samples), method.frame()
        what, calls = call_of(method, "keypoints(images)"), call_of(method, "frame()")
        if not isinstance(keypoints, Keypoints):
            raise BadInput(
                f"{what} is of type {type(keypoints).__name__}; it must be a Keypoints of "
                "partbench/outputs/keypoints.py"
            )
        if not isinstance(frame, Frame):
            raise BadInput(
                f"{calls} is of type {type(frame).__name__}; it must be a Frame of "
                "partbench/coordinates.py, such as of_borders(size)"
            )
        check_tensor(keypoints.points, f"{what}.points", (len(samples), "K", 2))
        if keypoints.logvar is not None:
            shape = tuple(keypoints.points.shape)
            check_tensor(keypoints.logvar, f"{what}.logvar", shape)
        if keypoints.appearance is not None:
            each = (*keypoints.points.shape[:2], "F")
            check_tensor(keypoints.appearance, f"{what}.appearance", each)
        own = keypoints.points[:, :-1] if keypoints.background else keypoints.points
        if keypoints.background and not own.shape[1]:
            raise BadInput(f"{what}: only the background's keypoint; a method needs one more")
        pixels = frame.to_pixels(own)
        outside = (~frame.contains(pixels, SLACK)).nonzero()
        if len(outside):
            image, number = outside[0].tolist()
            x, y = own[image, number].tolist()
            at = ", ".join(f"{value:.1f}" for value in pixels[image, number].tolist())
            raise BadInput(
                f"{what}.points: keypoint {number} of image {image} is ({x:.4g}, {y:.4g}), pixel "
                f"({at}), outside the window of {frame.side} x {frame.side} pixels; coordinates "
                f"are counted from -1 to 1, and {calls} says where these lie"
            )

    def write(
        self, method: HasKeypoints, data: Prepared, folder: Path, device: torch.device, label: str
    ) -> None:
        """Write keypoints, and those of warped test images; see `Capability.write`."""
        frame, pixels = method.frame(), of_pixels(data.size)
        warper = ThinPlateSpline(data.size).to(device)
        background = False

        def locate(images: Tensor, _: slice) -> dict[str, Tensor]:
            nonlocal background
            keypoints = method.keypoints(images)
            background = keypoints.background
            arrays = {"points": keypoints.points}
            more = {"logvar": keypoints.logvar, "appearance": keypoints.appearance}
            return arrays | {key: value for key, value in more.items() if value is not None}

        def locate_warped(images: Tensor, rows: slice) -> dict[str, Tensor]:
            weights = warper.draw(len(images), STRONG)

            def carry_back(points: Tensor) -> Tensor:
                places = pixels.from_pixels(frame.to_pixels(points))
                carried = pixels.to_pixels(warper.carry_back(places, weights))
                seen = frame.contains(carried).unsqueeze(-1)
                return frame.from_pixels(carried).where(seen, torch.nan)

            moved = method.keypoints(warp(images, warper.grid(weights))).points
            before = torch.from_numpy(np.array(located[rows])).to(moved)
            return {"carried": carry_back(moved), "stayed": carry_back(before)}

        for name in SPLITS:
            split, name_it = data.split(name), f"{label} keypoints of {name}"
            write_arrays(folder, split, name_it, locate, device)
        located = np.load(folder / "test.points.npy", mmap_mode="r")
        name_it, gaps = f"{label} keypoints of warped test", CARRIED
        write_arrays(folder, data.split("test"), name_it, locate_warped, device, gaps)
        about = {**frame._asdict(), "background": background}
        write_record(folder / FILE, about | {"protocol": method.protocol._asdict()})

    def draw(
        self, method: HasKeypoints, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `keypoints`, float32 [n, K, 2] in pixels of the originals."""
        points = method.keypoints(first_images(split, device)).points
        return {"keypoints": method.frame().to_pixels(points).cpu().numpy()}


def read(folder: Path, sizes: Mapping[str, int]) -> KeypointArrays:
    """Return a run's keypoints.

    Args:
        folder: of the run's outputs on a data set.
        sizes: split -> images.

    Raises:
        BadInput: a file is missing or damaged, does not fit the others, or is not finite; there
            is no keypoint beside the background's.
    """
    frame, protocol, background = _read_about(folder / FILE)
    points = {name: read_points(folder / f"{name}.points.npy", n) for name, n in sizes.items()}
    check_alike(points["train"], points["test"], "keypoints")
    if background and points["test"].shape[1] == 1:
        raise BadInput(f"{folder}: only the background's keypoint; a method needs one more")
    logvar = None
    if any((folder / f"{name}.logvar.npy").exists() for name in sizes):
        logvar = {}
        for name, n in sizes.items():
            path = folder / f"{name}.logvar.npy"
            logvar[name] = read_points(path, n)
            if logvar[name].shape != points[name].shape:
                raise BadInput(
                    f"{path}: log-variances have {list(logvar[name].shape[1:])}, keypoints "
                    f"{list(points[name].shape[1:])}; {AGAIN}"
                )
    carried, stayed = (_read_carried(folder, kind, points["test"]) for kind in CARRIED)
    appearance = _read_appearance(folder, points)
    return KeypointArrays(frame, protocol, background, points, logvar, carried, stayed, appearance)


def _read_carried(folder: Path, kind: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what was carried back, of the shape of the test images' points."""
    path = folder / f"test.{kind}.npy"
    carried = read_numbers(path)
    if carried.shape != points.shape:
        raise BadInput(
            f"{path}: shape {list(carried.shape)}, but the keypoints have "
            f"{list(points.shape)}; {AGAIN}"
        )
    return carried


def _read_appearance(
    folder: Path, points: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]] | None:
    """Return what else describes keypoints, by split; None where no split has any."""
    paths = {name: folder / f"{name}.appearance.npy" for name in points}
    if not any(path.exists() for path in paths.values()):
        return None
    appearance = {name: read_numbers(path) for name, path in paths.items()}
    for name, path in paths.items():
        check_points(appearance[name], len(points[name]), str(path), values=None)
        if appearance[name].shape[1] != points[name].shape[1]:
            raise BadInput(
                f"{path}: {appearance[name].shape[1]} keypoints, but there are "
                f"{points[name].shape[1]}; {AGAIN}"
            )
    check_alike(appearance["train"], appearance["test"], "appearances")
    return appearance


def _read_about(path: Path) -> tuple[Frame, RegressionOrigins, bool]:
    """Return the frame, the regression's origins and the background's flag of keypoints.json."""
    values = read_record(path, path.parent)
    try:
        frame = Frame(**{key: values[key] for key in Frame._fields})
        origins = {key: values["protocol"][key] for key in RegressionOrigins._fields}
        background = values["background"]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: no key {error}; {AGAIN}") from None
    for name, origin in origins.items():
        if origin not in ORIGINS:
            raise BadInput(f"{path}: protocol.{name} is {origin!r}, must be corner or centred")
    return frame, RegressionOrigins(**origins), background
