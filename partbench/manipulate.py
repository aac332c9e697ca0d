"""Move a particle of an image and decode: what a method's `move` makes of it, as an animation."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.files import atomic
from partbench.model import load_model_for
from partbench.outputs.movement import HasMovement, count, surest, sweep


def move(model: Path, data: Path, index: int, particle: int | None, reach: float, out: Path) -> int:
    """Write an animation (webp or gif) of a particle that moves; return which it was.

    Args:
        model: model.pt of a method with particles.
        data: folder of a prepared data set.
        index: of a test image.
        particle: which; none takes the surest.
        reach: how far it goes to either side, in halves of the window's side.
        out: file to write.

    Raises:
        BadInput: the method has no particles to move, there is no such image or particle, or
            the data have another size.
    """
    prepared = Prepared(data)
    run, method = load_model_for(prepared, model, "cpu")
    if not isinstance(method, HasMovement):
        raise BadInput(f"{model}: {run.method} has no particles that can be moved; dlp has")
    images = prepared.split("test").images
    if not 0 <= index < len(images):
        raise BadInput(f"{data}: test image {index} of {len(images)}; they count from 0")
    if out.suffix not in (".webp", ".gif"):
        raise BadInput(f"--out {out}: must end in .webp or .gif")
    image = to_float(torch.from_numpy(np.array(images[index : index + 1])))
    particles = count(method, image)
    if particle is not None and not 0 <= particle < particles:
        raise BadInput(f"{model}: particle {particle} of {particles}; they count from 0")
    chosen = surest(method, image) if particle is None else particle
    frames = [Image.fromarray(frame) for frame in sweep(method, image, chosen, reach)]
    with atomic(out) as path, path.open("wb") as file:
        frames[0].save(
            file, out.suffix[1:], save_all=True, append_images=frames[1:], duration=80, loop=0
        )
    return chosen
