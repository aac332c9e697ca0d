"""Batches from prepared arrays against torchvision's ImageFolder on the JPEG files themselves.

Both give shuffled batches of 128 float32 images [128, 3, 64, 64] in [0, 1] with labels: shorter
side to 64, centre crop, half of them mirrored. The reference decodes with PIL in two worker
processes that outlive the epochs, so their start is not counted; ours reads with two threads and
its threads' start is counted. Epochs alternate, the first of each is not counted (page cache), and
the medians are compared. On a machine with a GPU both also bring the batches there, the reference
through pinned memory as its manual advises.

What ours costs once, preparing the arrays, is measured too and given in epochs of the reference:
training for fewer epochs than that gains nothing.

Two sets of images: drawn ones (1/f noise, 256 x 256, about as many bytes as photographs) on every
machine, and CelebA's 178 x 218 faces, cheaper to decode, where they lie in the data root.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import common
from partbench.data.folder import Folder
from partbench.data.loader import Loader, Schedule
from partbench.data.prepare import prepare
from partbench.data.prepared import Prepared
from partbench.files import data_root
from partbench.method import MethodSettings

SIZE, BATCH, WORKERS, CLASSES, TARGET = 64, 128, 2, 10, 10
SAME = 1.0  # mean difference of the two sides' images, grey levels of 255
DRAWN_SIDE = 256


def draw_images(folder: Path, n: int) -> None:
    """Write `n` JPEG files: random windows of one large texture whose spectrum falls as 1/f."""
    rng, side = np.random.default_rng(0), 8 * DRAWN_SIDE
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    fall = 1 / np.maximum(np.hypot(x, y), 1 / side)[..., None]
    noise = np.fft.rfft2(rng.standard_normal((side, side, 3)), axes=(0, 1))
    texture = np.fft.irfft2(noise * fall, axes=(0, 1))
    texture = np.uint8((128 + 40 * texture / texture.std()).clip(0, 255))
    for i in range(n):
        top, left = rng.integers(side - DRAWN_SIDE, size=2)
        window = texture[top : top + DRAWN_SIDE, left : left + DRAWN_SIDE]
        path = folder / f"class{i % CLASSES}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(window).save(path, quality=90)


def link_images(files: Sequence[Path], folder: Path) -> None:
    for i, path in enumerate(files):
        link = folder / f"class{i % CLASSES}" / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def reference_set(folder: Path, flip: bool) -> ImageFolder:
    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    return ImageFolder(
        str(folder / "train"), transforms.Compose([*steps, *mirror, transforms.ToTensor()])
    )


def reference_epochs(folder: Path, device: torch.device) -> Callable[[], Iterator[Any]]:
    loader = DataLoader(
        reference_set(folder, flip=True),
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        drop_last=True,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def epoch() -> Iterator[Any]:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return epoch


def our_epochs(prepared: Path, device: torch.device) -> Callable[[], Iterator[Any]]:
    split = Prepared(prepared).training_split("labels")
    settings = MethodSettings(epochs=1, batch_size=BATCH, flip=True)
    loader = Loader(split, Schedule(len(split), settings, 0), device, "labels", threads=WORKERS)
    return loader.batches


def pixel_difference(folder: Path, prepared: Path) -> float:
    """Return the mean difference between the two sides' images, in grey levels of 255."""
    theirs = reference_set(folder, flip=False)
    ours = Prepared(prepared).split("train").images
    chosen = np.linspace(0, len(ours) - 1, 100).astype(int)
    pairs = ((theirs[i][0].permute(1, 2, 0).numpy() * 255, ours[i]) for i in chosen)
    return float(np.mean([np.abs(a - b).mean() for a, b in pairs]))


def compare(name: str, folder: Path, epochs: int, device: torch.device) -> dict[str, Any]:
    reader = Folder(folder, Folder.Settings(splits={"train": "train"}, size=SIZE))
    prepared = folder / "prepared"
    with contextlib.redirect_stderr(io.StringIO()):
        preparing = common.timed(lambda: prepare(reader, name, prepared, WORKERS))
    sides = {"ours": our_epochs(prepared, device), "reference": reference_epochs(folder, device)}
    synchronize = torch.cuda.synchronize if device.type == "cuda" else None
    files = list((folder / "train").glob("*/*"))
    images = len(files) // BATCH * BATCH

    def run(side: str) -> common.Seconds:
        seen = 0

        def consume() -> None:
            nonlocal seen
            for batch in sides[side]():
                seen += len(batch[0])

        seconds = common.timed(consume, synchronize)
        assert seen == images, f"{side} gave {seen} images, not {images}"
        return seconds

    for side in sides:
        run(side)
    times: dict[str, list[common.Seconds]] = {side: [] for side in sides}
    for _ in range(epochs):
        for side in sides:
            times[side].append(run(side))
    difference = pixel_difference(folder, prepared)
    assert difference <= SAME, f"the two sides' images differ by {difference} grey levels"
    took = {side: common.median(values) for side, values in times.items()}
    rates = {side: images / seconds.wall for side, seconds in took.items()}
    ratio = common.report_ratio(
        f"loader, {name}", took["ours"].wall, took["reference"].wall, TARGET
    )
    print(
        f"  an epoch of {images} images: ours {rates['ours']:,.0f} images/s "
        f"(CPU {took['ours'].cpu:.3g} s), reference {rates['reference']:,.0f} images/s "
        f"(CPU {took['reference'].cpu:.3g} s); prepared once in {preparing.wall:.3g} s",
        flush=True,
    )
    return {
        "images": images,
        "bytes_per_file": round(sum(path.stat().st_size for path in files) / len(files)),
        **ratio,
        "images_per_second": {side: round(rate) for side, rate in rates.items()},
        "cpu_ratio": took["reference"].cpu / took["ours"].cpu,
        "epoch": {side: [s.json() for s in values] for side, values in times.items()},
        "prepare_once": preparing.json(),
        "prepare_in_reference_epochs": preparing.wall / took["reference"].wall,
        "mean_pixel_difference_of_255": difference,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "loader")
    parser.add_argument("--images", type=int, default=4000, help="files")
    parser.add_argument("--epochs", type=int, default=5, help="counted epochs of each side")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    faces = data_root() / "celeba" / "img_align_celeba"
    compared = {}
    with tempfile.TemporaryDirectory() as folder:
        draw_images(Path(folder) / "drawn" / "train", args.images)
        if faces.is_dir():
            link_images(sorted(faces.iterdir())[: args.images], Path(folder) / "celeba" / "train")
        for path in sorted(Path(folder).iterdir(), reverse=True):
            compared[path.name] = compare(path.name, path, args.epochs, device)
    packages = ("torch", "torchvision", "pillow", "numpy")
    machine = common.machine(
        device.type, packages, workers=WORKERS, torch_threads=torch.get_num_threads()
    )
    common.write(args.out, "loader", {"machine": machine, "size": SIZE, "batch": BATCH, **compared})


if __name__ == "__main__":
    main()
