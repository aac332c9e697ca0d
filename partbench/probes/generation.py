"""Generation: how near generated images are to the real test images, as sets.

The measures compare features of a frozen network. On the Inception network of 2015 the Frechet
distance is FID (Heusel et al., NeurIPS 2017), the kernel distance KID (Binkowski et al., ICLR
2018). On any other network the metric's name says which one, and no published FID is comparable.

The distance of few images is too large: its name says of how many it is, and 2048 are the least
that are measured without being asked for. Beside it stands its value for infinitely many images.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from partbench.data import fetch
from partbench.data.archives import archives
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import data_root, explained
from partbench.method import Method
from partbench.metrics import frechet
from partbench.metrics.feature_blocks import check_finite
from partbench.metrics.generation import (
    density_coverage,
    inception_score,
    kernel_distance,
    precision_recall,
)
from partbench.model import load_model, load_model_for, snapshots
from partbench.nn.feature_networks import SIDES, FeatureNetwork, Network, Resize
from partbench.outputs import generated_images
from partbench.outputs.arrays import PICTURES
from partbench.outputs.capability import offered_by
from partbench.probe import Direction, Metric, Numbers, Probe, Result, Setting
from partbench.progress import Progress
from partbench.settings import Settings

VERSION = 1
"""Version of the definition; numbers of different versions are not comparable."""
BATCH = 32
"""Images described at once."""
ENOUGH = 2048
"""Images of each set below which a distance must be asked for: FID has as many features."""
PICTURED = 24
"""Generated and real images that the report shows, the first."""
DISTANCES = {"fid": "fd", "kid": "kd"}
"""Name on Inception's features -> on those of other networks."""

Images = NDArray[np.uint8]
Features = NDArray[np.floating]


class GenerationSettings(Settings):
    """The defaults are FID's and KID's."""

    network: Network = Field("inception", description="whose features are compared")
    resize: Resize | None = Field(
        None,
        description="how images are brought to the network's size: `ttur` (FID's own code, "
        "torch-fidelity), `pytorch` (pytorch-fid) or `clean` (clean-fid); none: `ttur` for "
        "Inception, `clean` for the others",
    )
    images: int | None = Field(
        None, ge=1, description="images to generate; none: as many as there are test images"
    )
    few: bool = Field(False, description=f"measure fewer than {ENOUGH} images, too")
    stretched: bool = Field(
        False,
        description="beside the images as they are, measure them with the contrast of each "
        "stretched to the whole range, as the LORBMS thesis did unawares",
    )
    only_distance: bool = Field(
        False, description="the Frechet distance alone; everything else takes longer"
    )
    draws: int = Field(
        20, ge=2, description="random halves behind the interval of the value without bias"
    )
    subsets: int = Field(100, ge=1, description="pairs of subsets of KID")
    subset_size: int = Field(
        1000, ge=2, description="images of such a subset, but at most half of the smaller set"
    )
    neighbours: int = Field(3, ge=1, description="k of precision and recall")
    density_neighbours: int = Field(5, ge=1, description="k of density and coverage")
    splits: int = Field(10, ge=1, description="parts of the Inception Score")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.resize is not None and SIDES[self.network] is None:
            raise ValueError(
                f"the network `{self.network}` sees images at their own size, so there is no "
                f"`resize: {self.resize}`; leave `resize` out, or choose another network"
            )
        if self.images is not None and (fault := too_few(self, self.images)):
            raise ValueError(f"`images: {self.images}`: {fault}")
        return self


def too_few(settings: GenerationSettings, images: int, classes: bool = True) -> str:
    """Return why the measures that settings ask for cannot be had of so many images, or nothing.

    Args:
        settings: the probe's.
        images: of the smaller set.
        classes: whether a network that has classes tells those of the images, too; features that
            are given come without.
    """
    if images < ENOUGH and not settings.few:
        return (
            f"of fewer than {ENOUGH:,} images the Frechet distance says more of their number than "
            "of their quality. Give more, or set `few: true` (--few) to measure all the same"
        )
    if images < 2:
        return "give two or more"
    if settings.only_distance:
        return ""
    neighbours = max(settings.neighbours, settings.density_neighbours)
    if images <= neighbours:
        why = f"{images} images have no {neighbours} neighbours"
    elif images < frechet.FEWEST:
        why = f"the extrapolation to infinitely many images needs {frechet.FEWEST} or more"
    elif classes and settings.network == "inception" and images < settings.splits:
        why = f"{images} images make no {settings.splits} parts (`splits`) of the Inception Score"
    else:
        return ""
    return f"{why}; give more, or set `only_distance`"


class GenerationSetting(Setting):
    """What tells numbers of a metric apart."""

    n: int | None = Field(
        None, ge=1, description="generated images that were measured; none: it is not known"
    )
    resize: Literal["", Resize] = ""
    stretched: bool = False

    def __str__(self) -> str:
        parts = (
            f"n={self.n}" if self.n else "",
            f"{self.resize} resize" if self.resize else "",
            "contrast-stretched" if self.stretched else "",
        )
        return ", ".join(filter(None, parts))


class Described(NamedTuple):
    """A set of images as a network describes them."""

    features: Features
    """[N, D]."""
    logits: Features | None = None
    """[N, 1008] of Inception."""


class Measure(NamedTuple):
    """One number that compares two sets of images."""

    value: float
    better: Direction
    note: str = ""
    outcomes: NDArray[np.float64] | None = None
    """[M], by real image; their mean is the value."""


class Comparison(NamedTuple):
    """How two sets of images compare."""

    measures: Mapping[str, Measure]
    """By name, as on Inception's features."""
    endless: frechet.Extrapolation | None
    """The Frechet distance of infinitely many generated images; None where it was left out."""


def metric_name(measure: str, network: str) -> str:
    """Return the name of a measure on a network's features: `fid`, `fd_random`."""
    if network == "inception":
        return measure
    words = [DISTANCES.get(word, word) for word in measure.split("_")]
    return "_".join([*words, network])


def check_number(
    generated: int, real: int, settings: GenerationSettings, where: str, classes: bool = True
) -> None:
    """Raise BadInput unless there are enough images for what settings ask for; see `too_few`."""
    if fault := too_few(settings, min(generated, real), classes):
        raise BadInput(f"{where}: {generated} generated and {real} real images; {fault}")


def load_network(settings: GenerationSettings, device: str) -> FeatureNetwork:
    """Return the network that settings name.

    Raises:
        BadInput: its file of weights is missing, damaged, or not the official one.
    """
    for name in Generation.weights(settings):
        for file in archives(name):
            if file.ready(data_root()):
                fetch.verify(file, data_root())
    return FeatureNetwork(settings.network, settings.resize, device)


def describe(network: FeatureNetwork, batches: Iterable[Images], n: int, label: str) -> Described:
    """Return the features of n images.

    Args:
        network: the network.
        batches: the images, uint8 [B, H, W, 3] each.
        n: their number.
        label: of the progress shown.
    """
    features: list[Features] = []
    logits: list[Features] = []
    with Progress(label, n, "images") as progress:
        for images in batches:
            found = network(images)
            features.append(found.features.cpu().numpy())
            if found.logits is not None:
                logits.append(found.logits.cpu().numpy())
            progress.advance(len(features[-1]))
    described = Described(np.concatenate(features), np.concatenate(logits) if logits else None)
    check_finite(described.features, label)
    return described


def batches(images: Images, rows: NDArray[np.intp] | None = None) -> Iterator[Images]:
    """Yield the rows of an array of images in batches, by default all; few are in memory."""
    n = len(images) if rows is None else len(rows)
    for start in range(0, n, BATCH):
        stop = start + BATCH
        yield images[start:stop] if rows is None else images[rows[start:stop]]


def compare(
    made: Described, real: Described, settings: GenerationSettings, seed: int
) -> Comparison:
    """Return the measures of generated images.

    Args:
        made: the generated images.
        real: the real ones.
        settings: the probe's.
        seed: of all draws.

    Raises:
        BadInput: there are too few images for one of the measures.
    """
    if settings.only_distance:
        distance = frechet.distance_of_features(made.features, real.features)
        return Comparison({"fid": Measure(distance, "lower", "Frechet distance")}, None)
    pair = made.features, real.features
    outcomes = frechet.outcomes(*pair)
    endless = frechet.infinity(*pair, settings.draws, seed)
    size = max(2, min(settings.subset_size, min(map(len, pair)) // 2))
    kernel = kernel_distance(*pair, settings.subsets, size, seed)
    near = precision_recall(*pair, settings.neighbours)
    cover = density_coverage(*pair, settings.density_neighbours)
    measures = {
        "fid": Measure(float(outcomes.mean()), "lower", "Frechet distance", outcomes),
        "fid_infinity": Measure(
            endless.value,
            "lower",
            f"Frechet distance extrapolated from {endless.sizes[0]} to {endless.sizes[-1]} images "
            f"to infinitely many; 95 % interval {endless.low:.4g} to {endless.high:.4g}",
        ),
        "kid": Measure(
            kernel.mean,
            "lower",
            f"{settings.subsets} subsets of {size} images, SD over them {kernel.sd:.2g}",
        ),
        **{
            name: Measure(value, "higher", f"{k} neighbours")
            for name, value, k in (
                ("precision", near.precision, settings.neighbours),
                ("recall", near.recall, settings.neighbours),
                ("density", cover.density, settings.density_neighbours),
                ("coverage", cover.coverage, settings.density_neighbours),
            )
        },
    }
    if made.logits is not None:
        score = inception_score(made.logits, settings.splits, shuffle=seed)
        note = f"{settings.splits} parts of shuffled images, SD over them {score.sd:.2g}"
        measures["is"] = Measure(score.mean, "higher", note)
    return Comparison(measures, endless)


class Generation(Probe):
    """Distances between generated and real test images in the features of a network."""

    Settings = GenerationSettings
    Setting = GenerationSetting
    references = (
        "heusel2017fid",
        "binkowski2018kid",
        "salimans2016is",
        "kynkaanniemi2019precision",
        "naeem2020density",
        "chong2020unbiased",
    )
    version = VERSION
    needs = ("generated_images",)
    reads = "model"
    # The thesis of LORBMS stretched the contrast of its generated images unawares.
    PAPER: ClassVar = {"coco": {"stretched": True}}

    @classmethod
    def weights(cls, settings: Any) -> tuple[str, ...]:
        """Return the trained network that is fetched; see `Probe.weights`."""
        return ("inception",) if settings.network == "inception" else ()

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Generate images and compare them with the test split; see `Probe.run`."""
        prepared = Prepared(data)
        run, method = load_model_for(prepared, source, device)
        method.to(memory_format=torch.channels_last)
        test = prepared.split("test")
        if prepared.whole or test.frames:
            raise BadInput(
                f"{data}: holds clips or images at their own aspect; generated images are compared "
                "with single squares"
            )
        n = settings.images or len(test)
        check_number(n, len(test), settings, f"probes.generation on {data}")
        network = load_network(settings, device)
        real = describe(network, batches(test.images), len(test), f"{run} real images")
        numbers = Numbers("", "lower")
        pictures = {"real": np.array(test.images[:PICTURED])}
        endless: dict[str, Any] = {}
        folder = Path(tempfile.gettempdir())
        with explained(folder), tempfile.TemporaryDirectory(dir=folder) as scratch:
            for stretched in (False, True) if settings.stretched else (False,):
                images = generated_images.write(
                    method,  # type: ignore[arg-type]
                    test,
                    n,
                    Path(scratch) / f"{stretched}.npy",
                    seed,
                    torch.device(device),
                    f"{run} generated images",
                    stretched,
                )
                made = describe(network, batches(images), n, f"{run} features")
                compared = compare(made, real, settings, seed)
                setting = GenerationSetting(n=n, resize=network.resize, stretched=stretched)
                _add(numbers, compared.measures, network.name, setting)
                pictures["stretched" if stretched else "generated"] = np.array(images[:PICTURED])
                if compared.endless is not None:
                    endless[str(setting)] = compared.endless._asdict()
                if not stretched:
                    last = compared.measures["fid"].value
            training = _over_training(source, test, n, network, real, seed, Path(scratch))
            if training:
                training[str(method.settings.epochs)] = last
        if "train" in prepared.meta["splits"] and len(prepared.split("train")) >= n:
            train = prepared.split("train").images
            rows = np.random.default_rng(seed).choice(len(train), n, replace=False)
            made = describe(network, batches(train, rows), n, f"{run} training images")
            distance = frechet.distance_of_features(made.features, real.features)
            measure = Measure(distance, "lower", "training images in place of generated ones")
            setting = GenerationSetting(n=n, resize=network.resize)
            _add(numbers, {"real_fid": measure}, network.name, setting, reference=True)
        pictures |= _made_of(method, test, seed, torch.device(device))
        details = {
            "network": network.name,
            "real images": len(test),
            "infinity": endless,
            "training": training,
        }
        return numbers.result(details, pictures=pictures)


def _over_training(
    model: Path,
    split: Split,
    n: int,
    network: FeatureNetwork,
    real: Described,
    seed: int,
    scratch: Path,
) -> dict[str, float]:
    """Return the Frechet distance after each epoch whose model was kept: epoch -> distance."""
    distances = {}
    device = torch.device(network.device)
    for epoch, path in snapshots(model).items():
        run, method = load_model(path, network.device)
        method.to(memory_format=torch.channels_last)
        label = f"{run} after epoch {epoch}"
        where = scratch / f"{path.stem}.npy"
        images = generated_images.write(
            method,  # type: ignore[arg-type]
            split,
            n,
            where,
            seed,
            device,
            label,
        )
        made = describe(network, batches(images), n, label)
        where.unlink()
        distances[str(epoch)] = frechet.distance_of_features(made.features, real.features)
    return distances


def _made_of(
    method: Method, split: Split, seed: int, device: torch.device
) -> dict[str, NDArray[Any]]:
    """Return what the first generated images are mixed of, if they are mixed scenes."""
    offered = offered_by(type(method))
    if "mixed_scenes" not in offered:
        return {}
    drawn: dict[str, NDArray[Any]] = {"originals": np.array(split.images[:PICTURES])}
    with torch.inference_mode():
        for name in ("mixed_scenes", "reconstructions"):
            torch.manual_seed(generated_images.seed_of(seed, 0))  # that of the first batch
            drawn |= offered[name].draw(method, split, device) if name in offered else {}
    return drawn


def _add(
    numbers: Numbers,
    measures: Mapping[str, Measure],
    network: Network,
    setting: GenerationSetting,
    reference: bool = False,
) -> None:
    """Add measures to a cell's numbers."""
    for measure, (value, better, note, outcomes) in measures.items():
        name = metric_name(measure, network)
        if outcomes is not None:
            numbers.add(name, setting, outcomes, better=better, note=note, reference=reference)
            continue
        numbers.metrics.append(
            Metric(name, setting, value, "", better, setting.n or 0, note=note, reference=reference)
        )
