"""The Frechet distance and whole FID against scipy and torch-fidelity.

Frechet distance: of two sets of statistics with 2,048 numbers, as of 10,000 images each, whose
variances fall over four orders of magnitude. scipy's side is the formula with scipy.linalg.sqrtm,
torch-fidelity's its own function. All three are asserted equal to 1e-6.

Whole FID: two folders of 5,000 PNG of 64 px, from files to the number, on the same Inception
network with random weights. torch-fidelity runs at its defaults, without a cache; the distances are
asserted equal to 1e-3, as float32 networks agree. Where our time goes is measured beside it: each
part alone, though decoding runs beside the network.

    python -m benchmarks generation_metrics
    python -m benchmarks generation_metrics --images 0    the distance alone
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from PIL import Image
from scipy import linalg
from threadpoolctl import threadpool_limits
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_fid import fid_statistics_to_metric

from benchmarks import common
from partbench.metrics import frechet
from partbench.metrics.frechet import Moments, Statistics
from partbench.nn import feature_networks
from partbench.nn.feature_networks import FeatureNetwork
from partbench.probes import generation as probe
from partbench.probes.generation import GenerationSettings
from partbench.score import generation

D, N, IMAGES, SIZE = 2048, 10_000, 5_000, 64
AGAINST_SCIPY, AGAINST_FIDELITY = 10.0, 2.5
SAME, SAME_FID = 1e-6, 1e-3
SCIPY, FIDELITY = "scipy", "torch-fidelity"


def statistics(d: int, n: int, seed: int) -> Statistics:
    """Return those of n samples whose variances fall, in directions of their own."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    moments = Moments(d)
    for start in range(0, n, D):
        rows = rng.normal(size=(min(D, n - start), d)) * np.logspace(0, -2, d)
        moments.add(rows @ basis + 0.01 * seed)
    return moments.statistics()


def by_scipy(a: Statistics, b: Statistics) -> float:
    shift = a.mean - b.mean
    root = np.real(linalg.sqrtm(a.covariance @ b.covariance))
    return float(shift @ shift + np.trace(a.covariance + b.covariance - 2 * root))


def by_fidelity(a: Statistics, b: Statistics) -> float:
    given = [{"mu": s.mean, "sigma": s.covariance} for s in (a, b)]
    return float(next(iter(fid_statistics_to_metric(*given, verbose=False).values())))


def compare_distances(d: int, n: int, repeats: int) -> dict[str, Any]:
    a, b = statistics(d, n, 1), statistics(d, n, 2)
    found: dict[str, float] = {}

    def run(name: str, function: Any) -> common.Seconds:
        return common.timed(lambda: found.update({name: function(a, b)}))

    ours = common.median(run("ours", frechet.distance) for _ in range(repeats))
    result: dict[str, Any] = {"task": {"features": d, "images": n, "repeats": repeats}}
    for name, function, target in (
        (FIDELITY, by_fidelity, AGAINST_FIDELITY),
        (SCIPY, by_scipy, AGAINST_SCIPY),
    ):
        theirs = run(name, function)
        difference = abs(found[name] / found["ours"] - 1)
        assert difference < SAME, found
        label = f"generation_metrics, Frechet distance, against {name}"
        result[name] = {
            **common.report_ratio(label, ours.wall, theirs.wall, target),
            "cpu_seconds": {"ours": ours.cpu, "reference": theirs.cpu},
            "cpu_ratio": theirs.cpu / ours.cpu,
            "relative_difference": difference,
        }
    return result


def write_images(folder: Path, n: int, seed: int) -> Path:
    """Write PNG of smooth noise, which compress as photographs do."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        coarse = rng.integers(0, 256, (9 + seed, 9 + seed, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        noise = rng.integers(-8, 9, image.shape)
        Image.fromarray((image + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.png")
    return folder


def write_weights(path: Path) -> None:
    """Write an Inception network with random weights that keep the spread of activations."""
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, init_weights=False
    )
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)


def parts(network: FeatureNetwork, folder: Path, device: str) -> dict[str, float]:
    """Return the seconds that each part of our FID takes for one folder, alone."""
    files = generation.list_images(folder, None)
    spent: dict[str, float] = {}

    def clock(name: str, run: Any) -> Any:
        began = time.perf_counter()
        result = run()
        if device == "cuda":
            torch.cuda.synchronize()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        return result

    batches = clock("reading and decoding", lambda: list(generation.read_images(files)))
    for batch in batches:
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float().to(device)
        side = network.side
        assert side
        clock("resizing", lambda p=pixels, s=side: feature_networks.resized(p, (s, s), "ttur"))
    described = clock(
        "resizing and network",
        lambda: probe.describe(network, batches, len(files), "features"),
    )
    clock("mean and covariance", lambda: Moments.of(described.features))
    spent["network"] = spent.pop("resizing and network") - spent["resizing"]
    return spent


def compare_whole(images: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folders = [write_images(root / name, images, i) for i, name in enumerate(("a", "b"))]
        weights = root / feature_networks.INCEPTION_FILE
        write_weights(weights)
        found: dict[str, float] = {}
        settings = GenerationSettings(only_distance=True, few=True)
        with (
            mock.patch.dict("os.environ", PARTBENCH_DATA=str(root)),
            mock.patch.object(probe.fetch, "verify"),  # random weights have no known checksum
        ):
            ours = common.timed(
                lambda: found.update(ours=generation.score(*folders, settings)["value"])
            )
            spent = parts(probe.load_network(settings, device), folders[0], device)
        theirs = common.timed(
            lambda: found.update(
                theirs=calculate_metrics(
                    input1=str(folders[0]),
                    input2=str(folders[1]),
                    fid=True,
                    cuda=device == "cuda",
                    cache=False,
                    verbose=False,
                    feature_extractor_weights_path=str(weights),
                )["frechet_inception_distance"]
            )
        )
    difference = abs(found["theirs"] / found["ours"] - 1)
    assert difference < SAME_FID, found
    return {
        **common.report_ratio("generation_metrics, whole FID", ours.wall, theirs.wall, 1.0),
        "cpu_seconds": {"ours": ours.cpu, "reference": theirs.cpu},
        "cpu_ratio": theirs.cpu / ours.cpu,
        "parts_of_one_folder_s": spent,
        "relative_difference": difference,
        "task": {"images_of_a_folder": images, "pixels": SIZE},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "generation_metrics")
    parser.add_argument("--features", type=int, default=D)
    parser.add_argument("--repeats", type=int, default=3, help="of our Frechet distance")
    parser.add_argument("--images", type=int, default=IMAGES, help="of a folder; 0: no whole FID")
    parser.add_argument("--threads", type=int, default=1, help="for all")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    packages = ("numpy", "scipy", "torch", "torch-fidelity", "pillow")
    machine = common.machine(device, packages, threads=args.threads)
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        samples = max(N, 4 * args.features) if args.features >= D else 4 * args.features
        result = {"frechet_distance": compare_distances(args.features, samples, args.repeats)}
        if args.images:
            result["whole_fid"] = compare_whole(args.images, device)
    common.write(args.out, "generation_metrics", {"machine": machine, **result})


if __name__ == "__main__":
    main()
