"""Preparing 10,000 faces at 128 px against a loop of PIL, and against decoding alone.

The reference is what a user would write: one process opens each JPEG with PIL, crops its centre,
resizes it bilinearly and puts it into an array. The decode limit is PIL's libjpeg-turbo on all
cores, without crop, resize or array: nothing that keeps whole images can be faster. The three take
turns, after one turn that is not counted (page cache). Faces are CelebA's where at least 10,000 lie
in the data root, else drawn images of 256 px.

Then, random batches of a prepared set of 10 GB, read by a process that may allocate 1 GiB: its own
memory (without the page cache, which the system takes back when it needs it) must not grow.
"""

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.loader import draw_images
from partbench.data.folder import Folder
from partbench.data.prepare import prepare
from partbench.files import create_array, data_root

SIZE, WORKERS, TARGET, LIMIT = 128, 2, 1.8, 1.2
SIDE, BYTES, BATCH, BATCHES = 224, 10 << 30, 128, 50


def decode(paths: Sequence[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.load()


def decode_side_by_side(paths: Sequence[Path]) -> None:
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(decode, [paths[i::WORKERS] for i in range(WORKERS)]))


def loop(paths: Sequence[Path], out: Path) -> None:
    array = np.lib.format.open_memmap(out, "w+", np.uint8, (len(paths), SIZE, SIZE, 3))
    for i, path in enumerate(paths):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        array[i] = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)


def ours(root: Path, out: Path) -> None:
    settings = Folder.Settings(splits={"train": "train"}, size=SIZE)
    with contextlib.redirect_stderr(io.StringIO()):
        prepare(Folder(root, settings), "faces", out, WORKERS)


def compare(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    train = folder / "train"
    train.mkdir()
    source = data_root() / "celeba" / "img_align_celeba"
    faces = sorted(source.glob("*.jpg"))[:images] if source.is_dir() else []
    if len(faces) == images:
        for path in faces:
            (train / path.name).symlink_to(path.resolve())
    else:
        draw_images(train, images)
    paths = sorted(train.rglob("*.jpg"))
    sides = {
        "ours": lambda: ours(folder, folder / "ours"),
        "loop": lambda: loop(paths, folder / "loop.npy"),
        "decode": lambda: decode_side_by_side(paths),
    }
    times: dict[str, list[common.Seconds]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, run in sides.items():
            seconds = common.timed(run)
            if turn:
                times[side].append(seconds)
    same = np.array_equal(np.load(folder / "ours/train.images.npy"), np.load(folder / "loop.npy"))
    assert same, "the two sides made different arrays"
    took = {side: common.median(values) for side, values in times.items()}
    name = "CelebA's faces" if faces else "drawn images"
    ratio = common.report_ratio(
        f"preparation, {images} {name}", took["ours"].wall, took["loop"].wall, TARGET
    )
    over = took["ours"].wall / took["decode"].wall
    print(
        f"  decoding alone on {WORKERS} cores {took['decode'].wall:.3g} s: ours takes {over:.3g} "
        f"times that (target <= {LIMIT:g}: {'met' if over <= LIMIT else 'not met'})",
        flush=True,
    )
    return {
        "images": images,
        "source": name,
        **ratio,
        "decode_s": took["decode"].wall,
        "over_decode_limit": over,
        "cpu": {side: seconds.cpu for side, seconds in took.items()},
    }


def random_access(folder: Path, size: int) -> dict[str, Any]:
    shape = (size // (3 * SIDE**2), SIDE, SIDE, 3)
    create_array(folder / "large.npy", np.uint8, shape)
    script = Path(__file__).with_name("random_access.py")
    command = [sys.executable, script, folder / "large.npy", str(BATCHES), str(BATCH)]
    said: list[str] = []
    seconds = common.timed(lambda: said.append(subprocess.check_output(command, text=True)))
    early, most = map(float, said[0].split())
    print(
        f"preparation, {BATCHES} random batches of a set of {size / 2**30:.3g} GiB: own "
        f"memory {early:.0f} MiB after 10 batches, {most:.0f} MiB at the most, "
        f"{seconds.wall:.3g} s",
        flush=True,
    )
    return {"bytes": size, "early_mib": early, "most_mib": most, "seconds": seconds.json()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "preparation")
    parser.add_argument("--images", type=int, default=10_000, help="files")
    parser.add_argument("--rounds", type=int, default=3, help="counted turns of each side")
    parser.add_argument("--bytes", type=int, default=BYTES, help="of the set read at random")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(Path(folder), args.images, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        access = random_access(Path(folder), args.bytes)
    machine = common.machine("cpu", ("pillow", "numpy"), workers=WORKERS)
    result = {"machine": machine, "size": SIZE, "faces": compared, "random_access": access}
    common.write(args.out, "preparation", result)


if __name__ == "__main__":
    main()
