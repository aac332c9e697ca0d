"""Part maps: which part each pixel belongs to.

<split>.centres.npy   float32 [N, K, 2], centres of mass of the parts, pixels, of train and test
<split>.mass.npy      float32 [N, K], pixels that each part takes
test.labels.npy       uint8 [N, S, S], the part of each pixel, on the background too
test.foreground.npy   bool [N, S, S], where the method finds the foreground itself
test.agreement.npy    float32 [N], share of the foreground of a warped copy of each image whose
                      part is that of the place it shows; NaN where there is no foreground
parts.json            K, what the centres took for foreground: own, mask or none, and whether the
                      centres were told from annotations
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from partbench.data.prepared import Prepared, Split
from partbench.data.reader import UNSURE
from partbench.errors import BadInput
from partbench.integrity import read_record, write_record
from partbench.metrics.warps import part_agreement
from partbench.nn.tps import STRONG, ThinPlateSpline, nearest, warp
from partbench.outputs.arrays import (
    AGAIN,
    SPLITS,
    Arrays,
    first_images,
    open_array,
    read_images,
    read_numbers,
    read_points,
    write_arrays,
)
from partbench.outputs.capability import SLACK, Capability, call_of, check_tensor
from partbench.outputs.told_points import HasToldPoints, told

FILE = "parts.json"
BACKGROUND = 255
"""In pictures."""
ABSENT = 1e-8
"""Mass up to which a part is absent from an image."""

ForegroundOf = Literal["own", "mask", "none"]
"""Whose foreground parts were cut out by: the method's, the data set's, nobody's."""


class PartMaps(NamedTuple):
    """Which part each pixel of a batch belongs to."""

    weights: Tensor
    """[B, K, H, W] float32, at least 0: the share of each pixel that each part takes. Where the
    method has a background of its own, that has the rest of 1."""
    labels: Tensor
    """[B, H, W] int64, 0 to K - 1: the part of each pixel by the method's own rule, on the
    background too."""
    foreground: Tensor | None = None
    """[B, H, W] bool, what the method itself takes for foreground; None where it must be told."""


@runtime_checkable
class HasPartMaps(Protocol):
    """A method that gives each pixel to a part."""

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts of images [B, 3, H, W] in [0, 1], at the images' resolution."""


@runtime_checkable
class HasWholePartMaps(HasPartMaps, Protocol):
    """A method whose paper measures images at their own aspect by another rule than squares."""

    def whole_part_maps(self, images: Tensor) -> PartMaps:
        """Return the parts of images [B, 3, H, W] in [0, 1] at their own aspect, by that rule."""


def locator(method: HasPartMaps, whole: bool) -> Callable[[Tensor], PartMaps]:
    """Return what finds a method's parts in the images of a data set.

    Args:
        method: the method.
        whole: whether the data set's images keep their aspect.
    """
    if whole and isinstance(method, HasWholePartMaps):
        return method.whole_part_maps
    return method.part_maps


class PartArrays(NamedTuple):
    """What a folder of outputs holds of a run's parts; labels are opened and not read."""

    k: int
    """Parts."""
    foreground_of: ForegroundOf
    labels: NDArray[Any]
    """[N, S, S] integers, 0 to k - 1, of the test images."""
    foreground: NDArray[Any] | None
    """[N, S, S], true on the foreground: the method's or the data set's; None if nobody knows."""
    centres: dict[str, NDArray[np.float64]]
    """Split -> [N, k, 2], pixels."""
    mass: dict[str, NDArray[np.float64]]
    """Split -> [N, k], pixels."""
    agreement: NDArray[np.float64]
    """[N], shares; NaN where an image has no foreground."""
    told: bool = False
    """Whether centres were told from annotations, and so count pixels as these do."""


class Pictures(NamedTuple):
    """A run's parts of the first test images."""

    originals: NDArray[np.uint8]
    """[n, S, S, 3]."""
    parts: NDArray[np.uint8]
    """[n, S, S], `BACKGROUND` on the background."""

    @classmethod
    def read(cls, arrays: Arrays) -> Self | None:
        """Return the pictures, None if the arrays hold none."""
        originals, parts = read_images(arrays, "originals"), arrays.get("parts")
        if originals is None or parts is None or parts.dtype != np.uint8:
            return None
        return cls(originals, parts) if parts.shape == originals.shape[:3] else None


class PartMapCapability(Capability):
    """Parts of all images."""

    offer = HasPartMaps
    member = "part_maps"
    of_whole_images = True

    def check(self, method: HasPartMaps, samples: Tensor) -> None:
        """Check the parts of two images; see `Capability.check`."""
        _check_maps(method.part_maps(samples), call_of(method, "part_maps(images)"), samples)
        if isinstance(method, HasWholePartMaps):
            what = call_of(method, "whole_part_maps(images)")
            _check_maps(method.whole_part_maps(samples), what, samples)

    def write(
        self, method: HasPartMaps, data: Prepared, folder: Path, device: torch.device, label: str
    ) -> None:
        """Write centres and mass, and the labels of test images; see `Capability.write`."""
        square = None if data.whole else ThinPlateSpline(data.size).to(device)
        find = locator(method, data.whole)
        foreground_of: ForegroundOf = "mask" if data.split("test").has("mask") else "none"
        k = 0

        def measure(split: Split, images: Tensor, rows: slice) -> dict[str, Tensor]:
            nonlocal foreground_of, k
            maps, masks = find(images), masks_of(split, rows, images)
            k = maps.weights.shape[1]
            if maps.foreground is not None:
                foreground_of = "own"
            centres, mass = centres_of_mass(cut_out(maps, masks))
            if isinstance(method, HasToldPoints):
                centres, mass = told(method, data, split, rows, device)
            arrays = {"centres": centres, "mass": mass}
            return arrays if split.name == "train" else arrays | label_pixels(maps, images, masks)

        def label_pixels(maps: PartMaps, images: Tensor, masks: Tensor | None) -> dict[str, Tensor]:
            rest = [data.canvas - n for n in images.shape[2:]]
            around = (0, rest[1], 0, rest[0])
            arrays = {"labels": F.pad(maps.labels.byte(), around)}
            if maps.foreground is not None:
                arrays["foreground"] = F.pad(maps.foreground, around)
                masks = maps.foreground
            height, width = images.shape[2:]
            warper = square or ThinPlateSpline((height, width)).to(device)
            # Labels can be sampled at the nearest pixel only; 0 is what comes from outside.
            shown = maps.labels + 1
            if masks is not None:
                shown = shown * (masks > 0)
            grid = warper.grid(warper.draw(len(images), STRONG))
            carried = nearest(shown.unsqueeze(1).float(), grid).squeeze(1)
            labels = find(warp(images, grid)).labels + 1
            shares = part_agreement(carried.cpu().numpy(), labels.cpu().numpy())
            return arrays | {"agreement": torch.from_numpy(shares)}

        for name in SPLITS:
            split = data.split(name)
            name_it = f"{label} parts of {name}"
            write_arrays(folder, split, name_it, partial(measure, split), device, ("agreement",))
        is_told = isinstance(method, HasToldPoints)
        write_record(folder / FILE, {"k": k, "foreground": foreground_of, "told": is_told})

    def draw(
        self, method: HasPartMaps, split: Split, device: torch.device
    ) -> dict[str, NDArray[Any]]:
        """Return `parts`, uint8 [n, S, S]."""
        images, find = first_images(split, device), locator(method, split.has("extent"))
        n, _, height, width = images.shape
        pieces = [(slice(0, n), width, height)]
        if split.has("extent"):  # as they are measured: each without what is around it
            extents = split.annotation("extent")[:n].tolist()
            pieces = [(slice(i, i + 1), *extent) for i, extent in enumerate(extents)]
        parts = np.full((n, height, width), BACKGROUND, np.uint8)
        for rows, right, bottom in pieces:
            inside = images[rows, :, :bottom, :right]
            maps, shown = find(inside), masks_of(split, rows, inside)
            shown = maps.foreground if maps.foreground is not None or shown is None else shown > 0
            labels = maps.labels if shown is None else maps.labels.where(shown, BACKGROUND)
            parts[rows, :bottom, :right] = labels.byte().cpu().numpy()
        return {"parts": parts}


def _check_maps(maps: PartMaps, what: str, samples: Tensor) -> None:
    """Refuse, with `BadInput`, parts of samples that break the promise; `what` gave them."""
    if not isinstance(maps, PartMaps):
        raise BadInput(
            f"{what} is of type {type(maps).__name__}; it must be a PartMaps of "
            "partbench/outputs/part_maps.py"
        )
    n, _, height, width = samples.shape
    check_tensor(maps.weights, f"{what}.weights", (n, "K", height, width), low=0, high=1)
    most = maps.weights.sum(1).amax().item()
    if most > 1 + 10 * SLACK:
        raise BadInput(
            f"{what}.weights: the parts take {most:.4g} of a pixel together; it must be 1 at "
            "most, as they share it"
        )
    k = maps.weights.shape[1]
    integers = (torch.int64, torch.int32, torch.uint8)
    labels = f"{what}.labels"
    check_tensor(maps.labels, labels, (n, height, width), dtypes=integers, low=0, high=k - 1)
    if maps.foreground is not None:
        foreground = f"{what}.foreground"
        check_tensor(maps.foreground, foreground, (n, height, width), dtypes=(torch.bool,))


def whole_image(images: Tensor) -> PartMaps:
    """Return one part that takes all of images [B, 3, H, W], and no background."""
    shape = (len(images), *images.shape[2:])
    labels = torch.zeros(shape, dtype=torch.int64, device=images.device)
    weights = torch.ones(shape, device=images.device).unsqueeze(1)
    return PartMaps(weights, labels, labels == 0)


def strongest(scores: Tensor) -> Tensor:
    """Return each pixel's channel of the greatest score, the first of equal ones.

    Args:
        scores: [B, K, H, W].

    Returns:
        [B, H, W] int64.
    """
    return scores.max(1).indices  # `argmax` takes five times as long across channels


def masks_of(split: Split, rows: slice, images: Tensor) -> Tensor | None:
    """Return the data set's foreground where images are, [B, H, W] float32, if it has one."""
    if not split.has("mask"):
        return None
    masks = split.annotation("mask")[rows, : images.shape[2], : images.shape[3]]
    return torch.from_numpy(np.array(masks)).to(images.device).float()


def cut_out(maps: PartMaps, masks: Tensor | None) -> Tensor:
    """Return the weights of parts, [B, K, H, W], none on what is known to be background.

    Args:
        maps: the parts; weights of a method with a foreground of its own stay as they are.
        masks: [B, H, W] float32, the data set's foreground, if it has one.
    """
    if maps.foreground is not None or masks is None:
        return maps.weights
    return maps.weights * masks.unsqueeze(1)


def centres_of_mass(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return each part's centre and mass.

    Args:
        weights: [B, K, H, W], at least 0.

    Returns:
        [B, K, 2], (x, y) in pixels, a part without mass in the middle of the image; [B, K].
    """
    mass = weights.sum((2, 3))
    size = weights.new_tensor(weights.shape[:1:-1])  # width and height
    y, x = (torch.arange(n, device=weights.device, dtype=torch.float32) for n in weights.shape[2:])
    moment = torch.stack([weights.sum(2) @ x, weights.sum(3) @ y], -1)
    present = mass.unsqueeze(-1) > ABSENT
    centres = moment / mass.clamp_min(ABSENT).unsqueeze(-1)
    return torch.where(present, centres, (size - 1) / 2), mass


def read(folder: Path, data: Prepared) -> PartArrays:
    """Return a run's parts on a data set.

    Args:
        folder: of the run's outputs.
        data: the data set, whose masks are the foreground where the method was told it.

    Raises:
        BadInput: a file is missing or damaged, or does not fit the data set's images.
    """
    k, foreground_of, is_told = _read_about(folder / FILE)
    test = data.split("test")
    shape = (len(test), data.canvas, data.canvas)
    foreground = None
    labels = fitting(open_array(folder / "test.labels.npy"), shape, str(folder / "test.labels.npy"))
    if foreground_of == "own":
        path = folder / "test.foreground.npy"
        foreground = fitting(open_array(path), shape, str(path))
    elif foreground_of == "mask":
        foreground = fitting(test.annotation("mask"), shape, f"{test.folder}: mask")
    centres, mass = {}, {}
    for name in SPLITS:
        n = len(data.split(name))
        centres[name] = read_points(folder / f"{name}.centres.npy", n)
        mass[name] = read_numbers(folder / f"{name}.mass.npy")
        if centres[name].shape != (n, k, 2) or mass[name].shape != (n, k):
            raise BadInput(
                f"{folder}: {name} has centres of shape {list(centres[name].shape)} and mass of "
                f"shape {list(mass[name].shape)} for {n} images and {k} parts; {AGAIN}"
            )
    agreement = _read_agreement(folder / "test.agreement.npy", len(test))
    return PartArrays(k, foreground_of, labels, foreground, centres, mass, agreement, is_told)


def fitting(array: NDArray[Any], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """Return an array of integers of a shape; raises BadInput if it is anything else."""
    if array.dtype.kind not in "iub" or array.shape != shape:
        raise BadInput(
            f"{where}: {array.dtype} of shape {list(array.shape)}; expected integers of shape "
            f"{list(shape)}, as the test images have; give model and data set the same `size`, and "
            "one image a sample"
        )
    return array


def _read_about(path: Path) -> tuple[int, ForegroundOf, bool]:
    """Return what parts.json says: K, whose foreground it was, whether centres were told."""
    values = read_record(path, path.parent)
    try:
        k, foreground_of = values["k"], values["foreground"]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: no key {error}; {AGAIN}") from None
    whole = type(k) is int and 1 <= k <= UNSURE
    if foreground_of not in get_args(ForegroundOf) or not whole:
        raise BadInput(
            f"{path}: {k!r} parts, foreground {foreground_of!r}; there must be 1 to {UNSURE} "
            "parts, and the foreground is own, mask or none"
        )
    return k, foreground_of, values.get("told") is True


def _read_agreement(path: Path, n: int) -> NDArray[np.float64]:
    """Return test.agreement.npy, [n]; raises BadInput if it is NaN everywhere, or damaged."""
    shares = read_numbers(path)
    if shares.shape != (n,):
        raise BadInput(f"{path}: shape {list(shares.shape)} for {n} test images; {AGAIN}")
    if not np.isfinite(shares).any():
        raise BadInput(f"{path}: the method finds no foreground in any image")
    return shares
