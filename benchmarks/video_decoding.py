"""Sampling 25 frames of UCF101's clips against decoding every frame into an array.

The reference is what a user would write: PyAV decodes a clip, every frame becomes an RGB array, and
25 of them are taken. Ours converts only the frames that are taken. It decodes to the end, too: a
clip has one key frame, its first, and a header that cannot be trusted. The decode limit is PyAV's
decoder without any conversion. All run on one core, in turns; then ours in two processes.

Clips are those in the data root where there are any, else drawn ones.
"""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from partbench.data.clips import read_clip
from partbench.files import data_root

FRAMES, WORKERS, TARGET = 25, 2, 1.5


def draw_clips(folder: Path, count: int, length: int = 160) -> list[Path]:
    """Write clips of a moving gradient with noise, 320 x 240, coded as UCF101's are."""
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 40, (240, 320, 3), np.uint8)
    paths = [folder / f"{i}.avi" for i in range(count)]
    for path in paths:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            stream.codec_context.gop_size = 600
            for i in range(length):
                image = noise + np.roll(np.arange(320, dtype=np.uint8) // 2, 2 * i)[None, :, None]
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return paths


def decode_all(path: Path, convert: bool = True) -> NDArray[np.uint8] | None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = [
            frame.to_ndarray(format="rgb24") if convert else None
            for frame in container.decode(stream)
        ]
    if not convert:
        return None
    return np.stack([frames[(2 * i + 1) * len(frames) // (2 * FRAMES)] for i in range(FRAMES)])


def compare(paths: Sequence[Path], source: str, rounds: int) -> dict[str, Any]:
    same = all(np.array_equal(read_clip(path, FRAMES), decode_all(path)) for path in paths)
    assert same, "the two sides took different frames"
    sides = {
        "ours": lambda: [read_clip(path, FRAMES) for path in paths],
        "reference": lambda: [decode_all(path) for path in paths],
        "decode": lambda: [decode_all(path, convert=False) for path in paths],
    }
    times: dict[str, list[common.Seconds]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            times[side].append(common.timed(run))
    took = {side: common.median(values) for side, values in times.items()}
    read = partial(read_clip, count=FRAMES)
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(read, paths[:WORKERS]))
        both = common.timed(lambda: list(pool.map(read, paths, chunksize=4)))
    ratio = common.report_ratio(
        f"video_decoding, {len(paths)} {source}", took["ours"].wall, took["reference"].wall, TARGET
    )
    rates = {side: len(paths) / seconds.wall for side, seconds in took.items()}
    rates["ours, two processes"] = len(paths) / both.wall
    print("  videos/s: " + ", ".join(f"{side} {rate:.3g}" for side, rate in rates.items()))
    cpu = {side: seconds.cpu for side, seconds in took.items()}
    return {"clips": len(paths), "source": source, **ratio, "videos_per_s": rates, "cpu": cpu}


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "video_decoding")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    args = parser.parse_args(argv)
    folder = data_root() / "UCF-101"
    paths = sorted(folder.rglob("*.avi"))[: args.clips] if folder.is_dir() else []
    with tempfile.TemporaryDirectory() as drawn:
        source = "real clips" if paths else "drawn clips"
        result = compare(paths or draw_clips(Path(drawn), args.clips), source, args.rounds)
    machine = common.machine("cpu", ("av", "numpy"), workers=WORKERS)
    common.write(args.out, "video_decoding", {"machine": machine, "frames": FRAMES, **result})


if __name__ == "__main__":
    main()
