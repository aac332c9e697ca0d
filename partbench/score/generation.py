"""The generation probe's ruler: two sets of images, their features, or statistics of these."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partbench.data.image import SUFFIXES, read_image
from partbench.errors import BadInput
from partbench.metrics import frechet
from partbench.metrics.feature_blocks import check_features, check_finite
from partbench.metrics.frechet import Extrapolation, Moments, Statistics
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.probes.generation import (
    BATCH,
    VERSION,
    Described,
    GenerationSetting,
    GenerationSettings,
    Measure,
    check_number,
    compare,
    describe,
    load_network,
    metric_name,
)
from partbench.score import arrays

Images = NDArray[np.uint8]
ROUNDING = 1e-6
"""Asymmetry and negative variance that a covariance may have, of its greatest variance."""
OTHERS = {
    "kid": "kernel_distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "is": "inception_score",
}
"""Measures beside the Frechet distance -> their keys in the output."""


def score(
    generated_path: Path, real_path: Path, settings: GenerationSettings | None = None, seed: int = 0
) -> dict[str, Any]:
    """Compare generated images with real ones.

    Args:
        generated_path: a folder of images, or npz with `features` [N, D], or with `mu` [D], `sigma`
            [D, D] and, where it is known, `n`, the number of images behind them.
        real_path: likewise.
        settings: the probe's; `images` are those read of each folder, the first by name.
        seed: of all draws.

    Returns:
        What a result file holds, ready for `json.dumps`. `value` is the Frechet distance. What
        statistics alone do not tell is null.

    Raises:
        BadInput: a folder with too few images, or images of several sizes; a file without these
            arrays, or with arrays of wrong shapes; sets of different features.
    """
    settings = settings or GenerationSettings()
    if settings.stretched:
        raise BadInput("`stretched` is for images that a method generates; stretch the files here")
    paths = (generated_path, real_path)
    both = " and ".join(map(str, paths))
    folders = {path: list_images(path, settings.images) for path in paths if path.is_dir()}
    # The mean and covariance in a file tell the distance alone.
    alone = settings.model_copy(update={"only_distance": True})
    for path, files in folders.items():
        wanted = settings if len(folders) == len(set(paths)) else alone
        check_number(len(files), len(files), wanted, str(path))
    network = None
    if folders:
        network = load_network(settings, "cuda" if torch.cuda.is_available() else "cpu")

    def read(path: Path) -> Described | Statistics:
        if network is None or path not in folders:
            return read_file(path)
        files = folders[path]
        return describe(network, read_images(files), len(files), f"features of {path}")

    generated, real = (read(path) for path in paths)
    numbers = [_number(one) for one in (generated, real)]
    sets = isinstance(generated, Described) and isinstance(real, Described)
    if known := [n for n in numbers if n]:
        wanted = settings if sets else alone
        check_number(known[0], known[-1], wanted, both, generated_path in folders)
    dimensions = [_dimensions(one) for one in (generated, real)]
    if dimensions[0] != dimensions[1]:
        raise BadInput(
            f"{both}: sets of {dimensions[0]} and {dimensions[1]} features cannot be compared; "
            "take those of one network"
        )
    measures: dict[str, Measure] = {}
    endless, interval = None, None
    if isinstance(generated, Described) and isinstance(real, Described):
        compared = compare(generated, real, settings, seed)
        measures, endless = dict(compared.measures), compared.endless
        distance = measures["fid"].value
        if (outcomes := measures["fid"].outcomes) is not None:
            interval = over_seeds_and_samples(outcomes[None])
    else:
        distance = frechet.distance(_statistics(generated), _statistics(real))
    setting = GenerationSetting(n=numbers[0] or None, resize=network.resize if network else "")
    return {
        "probe": "generation",
        "version": VERSION,
        "metric": metric_name("fid", network.name) if network else "frechet_distance",
        "setting": str(setting),
        "direction": "lower is better",
        "value": distance,
        "interval95": interval and [interval.low, interval.high],
        "infinity": endless and _json(endless),
        **{key: measures[name].value if name in measures else None for name, key in OTHERS.items()},
        "notes": {key: measures[name].note for name, key in OTHERS.items() if name in measures},
        "n_generated": numbers[0] or None,
        "n_real": numbers[1] or None,
        "n_features": dimensions[0],
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
    }


def _json(endless: Extrapolation) -> dict[str, Any]:
    return {
        "value": endless.value,
        "interval95": [endless.low, endless.high],
        "sizes": endless.sizes,
        "distances": endless.distances,
    }


def _number(given: Described | Statistics) -> int:
    """Return the number of images behind what is given; 0 where it is not known."""
    return len(given.features) if isinstance(given, Described) else given.n


def _dimensions(given: Described | Statistics) -> int:
    return given.features.shape[1] if isinstance(given, Described) else len(given.mean)


def _statistics(given: Described | Statistics) -> Statistics:
    if isinstance(given, Statistics):
        return given
    return Moments.of(given.features).statistics()


def list_images(folder: Path, asked: int | None) -> list[Path]:
    """Return the images in a folder and in the folders inside it, by name.

    Args:
        folder: the folder; hidden files and those without the suffix of an image are left out.
        asked: how many, the first; none: all.

    Raises:
        BadInput: there are fewer, or none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    least = asked or 1
    if len(files) < least:
        raise BadInput(
            f"{folder}: {len(files)} images, and {least} are asked for; add images, or lower "
            "`images` (--images)"
        )
    return files[:asked]


def read_images(files: Sequence[Path]) -> Iterator[Images]:
    """Yield images in batches; a batch is decoded while the one before it is described.

    Raises:
        BadInput: an image cannot be decoded, or is of another size than the first one.
    """
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        ahead = [pool.submit(read_image, file) for file in files[:BATCH]]
        shape = ahead[0].result().shape
        for start in range(0, len(files), BATCH):
            images = [future.result() for future in ahead]
            following = files[start + BATCH : start + 2 * BATCH]
            ahead = [pool.submit(read_image, file) for file in following]
            for file, image in zip(files[start : start + BATCH], images, strict=True):
                if image.shape != shape:
                    raise BadInput(
                        f"{file}: {image.shape[1]} x {image.shape[0]} pixels, and {files[0]} has "
                        f"{shape[1]} x {shape[0]}; how images are resized changes the distance, "
                        "so bring all of a folder to one size first"
                    )
            yield np.stack(images)


def read_file(path: Path) -> Described | Statistics:
    """Read features, or their mean and covariance, from an npz file.

    Args:
        path: npz with `features`, or with `mu` and `sigma`; other arrays are ignored.

    Raises:
        BadInput: see `arrays.read`; the file has none of both; wrong shapes or types; values that
            are not finite; a `sigma` that is no covariance.
    """
    read = arrays.read(path, (), ("features", "mu", "sigma", "n"))
    if "features" in read:
        features = read["features"]
        check_features(features, f"{path}: features")
        check_finite(features, f"{path}: features")
        return Described(features)
    if not {"mu", "sigma"} <= set(read):
        raise BadInput(
            f"{path}: no array named features, nor mu and sigma; give `features` [N, D], or `mu` "
            "[D] and `sigma` [D, D]"
        )
    mean, covariance = read["mu"], read["sigma"]
    wanted = (mean.size, mean.size)
    if mean.ndim != 1 or covariance.shape != wanted or not mean.size:
        raise BadInput(
            f"{path}: mu has the shape {list(mean.shape)}, sigma {list(covariance.shape)}; "
            "expected [D] and [D, D]"
        )
    for name, array in (("mu", mean), ("sigma", covariance)):
        if array.dtype.kind not in "fiu":
            raise BadInput(f"{path}: {name} is {array.dtype}; give plain numbers")
        check_finite(np.atleast_2d(array), f"{path}: {name}")
    covariance = covariance.astype(np.float64)
    slack = ROUNDING * max(covariance.diagonal().max(), 0.0)
    asymmetry = np.abs(covariance - covariance.T).max()
    if asymmetry > slack or np.linalg.eigvalsh(covariance)[0] < -slack:
        raise BadInput(
            f"{path}: sigma is not symmetric with variances of at least 0, so it is no covariance; "
            "write that of the features, over n - 1"
        )
    n = read.get("n", np.zeros((), int))
    if n.shape != () or n.dtype.kind not in "iu" or n < 0:
        raise BadInput(f"{path}: n is {n.dtype} of shape {list(n.shape)}; give one whole number")
    return Statistics(int(n), mean.astype(np.float64), covariance)
