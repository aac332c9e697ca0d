"""LORBMS's training step at the thesis's settings (64 px), made faster in all ways.

The ways and the comparison are those of `training_step`. A step is four updates, each of images of
its own with four candidates: two of the generator, one of the classifier and of the discriminator.
The loss compared is that of the first. On a CPU, a step has 8 images instead of 56.
"""

from collections.abc import Sequence

import torch

from benchmarks.training_step import Task, measure, options, toy_images
from partbench.data.batch import Batch
from partbench.data.neighbours import QUADRANTS
from partbench.method import DataInfo, resolve
from partbench.methods.lorbms import LORBMS

SIZE = 64


def scenes(batch: int) -> list[Batch]:
    """Return batches of drawn scenes whose candidates are others of the batch."""
    draw = torch.Generator().manual_seed(0)
    batches = []
    for images in toy_images(4 * batch, SIZE, "scenes").split(batch):
        others = torch.stack([images.roll(i + 1, 0) for i in range(QUADRANTS)], 1)
        distances = 30_000 * torch.rand(batch, QUADRANTS, generator=draw)
        batches.append(Batch(images, None, candidates=others, distances=distances))
    return batches


def main(argv: Sequence[str] | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = (56, 100) if device == "cuda" else (8, 6)
    parser = options(__doc__, "lorbms", *usual)
    parser.add_argument("--variant", default="paper", help="of its settings")
    args = parser.parse_args(argv)
    data = DataInfo(SIZE, 0)
    settings = resolve(LORBMS, args.variant, {}, "")
    measure(Task("lorbms", LORBMS, settings, data, scenes(args.batch)), device, args)


if __name__ == "__main__":
    main()
