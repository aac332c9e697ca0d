"""Video clips: some frames of each, evenly spaced, and upright as players show them."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput

VIDEOS = frozenset(
    (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
)
"""Suffixes of clips; whether one can be read is for its content to say."""


def read_clip(path: Path, count: int) -> NDArray[np.uint8]:
    """Return `count` frames of a video, RGB, uint8 [count, H, W, 3].

    They are the frames at the middles of `count` equal stretches: frame i of the result is frame
    floor((i + 1/2) n / count) of the n in the video. Frames repeat where n < count. The memory
    used does not depend on n. A video that says that it was taken sideways is turned.

    Raises:
        BadInput: the video is missing, is truncated, cannot be decoded, has no frames, or has
            frames of several sizes.
    """
    return _read(path, lambda length: _middles(length, count))


def read_pairs(path: Path, count: int) -> NDArray[np.uint8]:
    """Return the frames of `read_clip`, each with the next one, uint8 [count, 2, H, W, 3].

    Of the last frame of the video, it is the pair before.

    Raises:
        BadInput: as `read_clip` does; or the video has a single frame.
    """

    def places(length: int) -> list[int]:
        firsts = [min(first, max(length - 2, 0)) for first in _middles(length, count)]
        return [place for first in firsts for place in (first, first + 1)]

    frames = _read(path, places, least=2)
    return frames.reshape(count, 2, *frames.shape[1:])


def _middles(length: int, count: int) -> list[int]:
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _read(path: Path, places: Callable[[int], list[int]], least: int = 1) -> NDArray[np.uint8]:
    """Return the frames of a video of `least` frames or more, at places given its length."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        # The decoder does not report a missing end.
        if start[:4] == b"RIFF" and int.from_bytes(start[4:], "little") + 8 > path.stat().st_size:
            raise _broken(path, "it is truncated")
        frames, assumed_length, length = _decode(path, places, None)
        if length < least:
            raise _broken(path, "it has a single frame" if length else "it has no frames")
        if length != assumed_length:
            frames, _, _ = _decode(path, places, length)
    except (av.FFmpegError, OSError) as error:
        raise _broken(path, str(error.strerror)) from None
    return np.stack([frames[place] for place in places(length)])


def _decode(
    path: Path, places: Callable[[int], list[int]], length: int | None
) -> tuple[dict[int, NDArray[np.uint8]], int, int]:
    """Return frames of a video by place, the length assumed to select them, and the true length.

    The assumed length is `length`, or by default that of the file's header. The header may be
    wrong, so decoding continues to the end, beyond the last selected frame.
    """
    frames: dict[int, NDArray[np.uint8]] = {}
    true_length = 0
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise _broken(path, "it holds no video")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # parallel work is over clips, one process each
        assumed_length = stream.frames if length is None else length
        selected = set(places(assumed_length))
        size = None
        for number, frame in enumerate(container.decode(stream)):
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise _broken(
                    path,
                    f"frame {number} is {frame.width} x {frame.height}, "
                    f"those before it are {size[0]} x {size[1]}",
                )
            if number in selected:
                image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                image = np.rot90(image, round(frame.rotation / 90))  # counterclockwise, both
                frames[number] = image
            true_length = number + 1
    return frames, assumed_length, true_length


def _broken(path: Path, reason: str) -> BadInput:
    return BadInput(
        f"{path}: cannot be decoded ({reason}); replace the file, or set `broken: skip` for this "
        "data set to leave such clips out and list them"
    )
