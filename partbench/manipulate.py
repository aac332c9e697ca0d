"""Move a particle of an image and decode: what a method's `move` makes of it, as an animation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.files import atomic
from partbench.model import load_model

FRAMES = 16
REACH = 0.4
"""How far a particle goes to either side, in halves of the window's side."""


def sweep(method: Any, image: Tensor, particle: int, reach: float = REACH) -> NDArray[np.uint8]:
    """Return an image decoded with one particle going to the right, to the left, and back.

    Args:
        method: has `move`; in eval mode.
        image: [1, 3, S, S], prepared.
        particle: which.
        reach: see `REACH`.

    Returns:
        [FRAMES, S', S', 3], S' the window's side; the first is not moved.
    """
    shifts = [reach * math.sin(2 * math.pi * t / FRAMES) for t in range(FRAMES)]
    with torch.inference_mode():
        images = torch.cat([method.move(image, particle, (shift, 0.0)) for shift in shifts])
    return (images.permute(0, 2, 3, 1) * 255).round().byte().cpu().numpy()


def surest(method: Any, image: Tensor) -> int:
    """Return the particle of an image [1, 3, S, S] whose place has the least variance."""
    with torch.inference_mode():
        found = method.keypoints(image)
    logvar = found.logvar[:, :-1] if found.background else found.logvar
    return int(logvar.sum(-1).argmin())


def move(model: Path, data: Path, index: int, particle: int | None, reach: float, out: Path) -> int:
    """Write an animation (webp or gif) of a particle that moves; return which it was.

    Args:
        model: model.pt of a method with particles.
        data: folder of a prepared data set.
        index: of a test image.
        particle: which; none takes the surest.
        reach: see `REACH`.
        out: file to write.

    Raises:
        BadInput: the method has no particles to move, there is no such image or particle, or
            the data have another size.
    """
    run, loaded = load_model(model, "cpu")
    method: Any = loaded
    if not hasattr(method, "move"):
        raise BadInput(f"{model}: {run.method} has no particles that could be moved; dlp has")
    prepared = Prepared(data)
    if prepared.size != method.data.size:
        raise BadInput(
            f"{model} was trained at {method.data.size} px, {data} is prepared at "
            f"{prepared.size} px; give both data sets the same `size`"
        )
    images = prepared.split("test").images
    if not 0 <= index < len(images):
        raise BadInput(f"{data}: test image {index} of {len(images)}; they count from 0")
    if particle is not None and not 0 <= particle < method.settings.k:
        raise BadInput(f"{model}: particle {particle} of {method.settings.k}; they count from 0")
    if out.suffix not in (".webp", ".gif"):
        raise BadInput(f"--out {out}: must end in .webp or .gif")
    image = to_float(torch.from_numpy(np.array(images[index : index + 1])))
    chosen = surest(method, image) if particle is None else particle
    frames = [Image.fromarray(frame) for frame in sweep(method, image, chosen, reach)]
    with atomic(out) as path, path.open("wb") as file:
        frames[0].save(
            file, out.suffix[1:], save_all=True, append_images=frames[1:], duration=80, loop=0
        )
    return chosen
