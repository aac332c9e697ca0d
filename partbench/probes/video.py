"""Video prediction: what a method shows after the first frames of a clip, beside the true frames.

The peak signal-to-noise ratio (PSNR) of a frame is -10 log10 of the mean squared error of its
pixels, in [0, 1]: dB. It is taken frame by frame and then averaged, over steps and over clips.
Beside it stand that of the last frame given, shown again and again, which a prediction has to
beat, and that of what the method shows when it is told the true frames' particles, which the best
prediction of particles would reach.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.model import load_model_for
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.settings import Settings

BATCH = 32  # clips
ROUNDING = 1 / 255**2 / 12
"""Mean squared error of rounding to 8 bits: what is closer cannot be told from the truth."""

NOTES = {
    "psnr": "prediction, frame by frame",
    "gain": "prediction less the last frame given, of the same frames",
    "copy_psnr": "the last frame given, shown again and again",
    "told_psnr": "the same decoder, told the particles of the true frames",
}


class VideoSettings(Settings):
    """No paper states such a protocol for public data; these are partbench's own."""

    context: int = Field(2, ge=2, description="frames that are given")
    pictured: int = Field(
        4, ge=1, description="first test clips whose prediction is kept to look at"
    )


class VideoSetting(Setting):
    """What tells numbers of a metric apart."""

    step: int | None = Field(None, ge=1, description="predicted frame; none: the mean of all")


def psnr(shown: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of pictures, dB, at most 58.92.

    Args:
        shown: [..., 3, S, S] in [0, 1].
        true: the same; both may broadcast.
    """
    error = np.square(np.asarray(shown, np.float64) - np.asarray(true, np.float64))
    return -10 * np.log10(np.maximum(error.mean((-3, -2, -1)), ROUNDING))


class Video(Probe):
    """PSNR of predicted frames by step, its gain over showing the last frame again."""

    Settings = VideoSettings
    Setting = VideoSetting
    references = ("daniel2022dlp",)
    version = 1
    needs = ("predictions",)
    reads = "model"

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("frames",),)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Predict the test clips; see `Probe.run`.

        Raises:
            BadInput: the data are single images, of another size, or too short.
        """
        prepared = Prepared(data)
        _, loaded = load_model_for(prepared, source, device)
        method: Any = loaded
        split, context = prepared.split("test"), settings.context
        if not split.frames:
            raise BadInput(
                f"{data}: holds single images, and video measures clips; measure on a data set "
                "of clips, such as `{reader: toy, kind: clips}`"
            )
        if split.frames <= context:
            raise BadInput(
                f"{data}: of clips with {split.frames} frames, {context} given ones leave none to "
                "predict; lower probes.video.context, or prepare more frames"
            )
        method.to(memory_format=torch.channels_last)
        scores: dict[str, list[NDArray[np.float64]]] = {
            "psnr": [],
            "copy_psnr": [],
            "told_psnr": [],
        }
        kept: dict[str, list[NDArray[np.uint8]]] = {"true": [], "predicted": []}
        for start in range(0, len(split), BATCH):
            raw = torch.from_numpy(np.array(split.images[start : start + BATCH]))
            clips = to_float(raw.to(device))
            with torch.inference_mode():
                predicted = method.predict(clips[:, :context], split.frames - context)
                told = method.predict_told(clips, context)
            seen = _middle(clips, predicted.shape[-1]).cpu().numpy()
            shown = {
                "psnr": predicted.cpu().numpy(),
                "copy_psnr": seen[:, context - 1 : context],
                "told_psnr": told.cpu().numpy(),
            }
            if not all(np.isfinite(frames).all() for frames in shown.values()):
                raise BadInput(f"{source}: predicted frames of {data} are not finite; train again")
            for name, frames in shown.items():
                scores[name].append(psnr(frames, seen[:, context:]))
            if start < settings.pictured:
                few = settings.pictured - start
                kept["true"].append(_to_bytes(seen[:few]))
                kept["predicted"].append(_to_bytes(shown["psnr"][:few]))
        return _result(
            {name: np.concatenate(values) for name, values in scores.items()},
            context,
            {name: np.concatenate(values) for name, values in kept.items()},
        )


def _middle(clips: Tensor, side: int) -> Tensor:
    """Return the window of frames [..., S, S] that a method sees, from its side."""
    margin = (clips.shape[-1] - side) // 2
    return clips[..., margin : margin + side, margin : margin + side]


def _to_bytes(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return [..., 3, S, S] in [0, 1] as uint8 [..., S, S, 3]."""
    return np.moveaxis(np.rint(frames * 255).astype(np.uint8), -3, -1)


def _result(
    scores: dict[str, NDArray[np.float64]], context: int, kept: dict[str, NDArray[np.uint8]]
) -> Result:
    """Return the numbers, one column each.

    Args:
        scores: name -> [N, steps], dB.
        context: frames given.
        kept: the first clips [n, T, S, S, 3] and their predictions [n, steps, S, S, 3].
    """
    by_clip = {name: values.mean(1) for name, values in scores.items()}
    by_clip["gain"] = by_clip["psnr"] - by_clip["copy_psnr"]
    numbers = Numbers("dB", "higher")
    for name, note in NOTES.items():
        numbers.add(name, VideoSetting(), by_clip[name], note=note)
    for step, outcomes in enumerate(scores["psnr"].T, start=1):
        numbers.add("psnr", VideoSetting(step=step), outcomes, note=NOTES["psnr"])
    curves = {name: values.mean(0).tolist() for name, values in scores.items()}
    details = {"context": context, "by step": curves}
    pictures = kept | {name: scores[name][: len(kept["true"])] for name in ("psnr", "copy_psnr")}
    return numbers.result(details, pictures=pictures)
