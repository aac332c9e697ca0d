"""A prepared data set of clips with pictures of optical flow in place of the frames.

The motion at a frame is that to the frame after it in the video, whatever frames are prepared, so
the videos are read again. It is estimated on whole frames as they are, drawn as a picture (see
`partbench.nn.flow`), and the picture is cropped and resized as the frame was. The new data set is a
folder of links to the other arrays of the old one.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partbench import plugins
from partbench.data.prepare import convert
from partbench.data.prepared import Prepared
from partbench.data.reader import Reader, Sample
from partbench.derivations import FlowSettings
from partbench.derived import put_derived
from partbench.errors import BadInput
from partbench.files import aside_of, create_array, data_root, explained, locked, make_empty
from partbench.nn.flow import load, pictures
from partbench.progress import Progress

AHEAD = 8
"""Clips that are read while others are estimated."""


def find_flow(
    name: str,
    data: Path,
    out: Path,
    settings: FlowSettings,
    device: str,
    threads: int,
    code: str = "",
) -> None:
    """Write the data set `data` again, with pictures of flow in place of its frames.

    Args:
        name: of the new data set.
        data: folder of the prepared data set.
        out: folder to make; whole or absent.
        settings: how flow is estimated and drawn.
        device: "cpu" or "cuda".
        threads: CPU threads.
        code: fingerprint of the code that finds it.

    Raises:
        BadInput: the data hold single images, a video cannot be read or has a single frame, or
            the network's weights are missing or others.
    """
    torch.set_num_threads(threads)
    prepared = Prepared(data)
    meta = prepared.meta
    cls = plugins.load("data", meta["reader"], Reader)  # type: ignore[type-abstract]
    reader = cls(data_root(), cls.Settings.parse(meta["settings"], str(data)))
    estimate = load(settings.network, torch.device(device))
    aside = aside_of(out)
    with locked(out.parent / f".{out.name}"), explained(aside):
        make_empty(aside)
        for split in meta["splits"]:
            frames = prepared.split(split).images
            if frames.ndim != 5:
                raise BadInput(f"{data}: holds single images; optical flow is of clips")
            array = create_array(aside / f"{split}.images.npy", np.uint8, frames.shape)
            names = (prepared.folder / f"{split}.names.txt").read_text().splitlines()
            with Progress(f"optical flow of {split}", len(names), "clips") as progress:
                for row, pairs in enumerate(_read(reader, split, names, threads)):
                    flow = estimate(torch.from_numpy(pairs))
                    drawn = pictures(flow, settings.bound).cpu().numpy()
                    array[row] = convert(reader, Sample(names[row], drawn), split)["images"]
                    progress.advance(1)
            array.flush()
        about = {"of": meta["data_set"], **settings.model_dump(mode="json")}
        put_derived(prepared, aside, out, name, code, {"flow": about})


def _read(
    reader: Reader, split: str, names: list[str], threads: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pairs of frames of each clip; the next ones are read meanwhile."""
    places = {name: i for i, name in enumerate(reader.splits()[split])}
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for name in names:
                waiting.append(pool.submit(reader.pairs, split, places[name]))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
