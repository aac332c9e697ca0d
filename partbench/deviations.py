"""What a run does otherwise than the paper although its settings are the paper's.

`changes` of `partbench.method` lists settings that differ. A deviation is what no setting can tell:
weights that are no longer available, a choice that no source states, a step that is left out. Each
method lists its own, and the page shows those of every run.
"""

from typing import NamedTuple


class Deviation(NamedTuple):
    """One difference from a paper's protocol."""

    what: str
    """What they do, and what happens here."""
    source: str
    """Where theirs is stated, or that no source at hand states it."""
    effect: str
    """How our numbers may differ for it."""
    variants: tuple[str, ...] = ()
    """It concerns variants with one of these parts; empty: all."""
    unless: tuple[str, ...] = ()
    """It does not concern variants with one of these parts."""
    of_training: bool = True
    """Whether weights that the authors released (`released`) are free of it."""

    def concerns(self, variant: str) -> bool:
        """Return whether it concerns a variant, such as `cub+no_visual`."""
        parts = set(variant.split("+"))
        if self.of_training and "released" in parts:
            return False
        named = not self.variants or bool(parts & set(self.variants))
        return named and not parts & set(self.unless)


CAFFE_TRUNK = Deviation(
    "Their trunk starts from a Caffe file of a ResNet-50, which is no longer available; ours from "
    "torchvision's. Both were trained on ImageNet with labels.",
    "the authors' code, which names the file; its host is gone",
    "Unknown in sign, probably small: torchvision's was trained on other pixel means and strides "
    "elsewhere in a block.",
    unless=("untrained", "swav", "deepcluster", "demo", "subset"),
)
CELEBA_JPEGS = Deviation(
    "They train on CelebA's aligned images in a copy of better JPEG quality; here on the official "
    "files.",
    "the authors' loaders, which read `img_align_celeba_hq`",
    "None to be seen, says the README of DVE, which made that copy.",
    unless=("traffic", "clevrer", "shapes", "untrained", "demo", "subset"),
)
BEST_LOSS = Deviation(
    "They keep the epoch of lowest loss on the test images; here the last epoch counts.",
    "the authors' training script",
    "Slightly worse numbers here, if any difference.",
    unless=("untrained",),
)
INDOOR_SETTINGS = Deviation(
    "The settings for Indoor-67 are those for CIFAR-100, normalised with 0.5 and 0.5.",
    "the authors' README, which has no command for this data set; these are the script's defaults",
    "Unknown.",
    variants=("indoor67",),
)
DLP = (
    CELEBA_JPEGS,
    Deviation(
        "They keep the epoch whose keypoints fit the 1,000 MAFL test faces best; here the last "
        "epoch counts, or with `validated` the one that validation faces choose.",
        "the authors' training script, which measures the test error every second epoch",
        "Worse errors here than theirs, by the optimism of choosing on test faces.",
        unless=("traffic", "clevrer", "shapes", "untrained"),
    ),
    Deviation(
        "Their scripts disagree: the learning rate falls to a half at each milestone with 64 "
        "images a step, or to a tenth with 4 times 32. Here: a half, 64 images.",
        "the authors' scripts for one and for four GPUs; the paper's choice is not stated",
        "Unknown.",
        unless=("untrained", "demo", "subset"),
    ),
    Deviation(
        "README and scripts disagree on numbers of this data set (appearance code, weight of the "
        "KL terms); here the README's count.",
        "the authors' README and scripts",
        "Unknown.",
        variants=("traffic", "clevrer", "shapes"),
        unless=("notebook",),
    ),
    Deviation(
        "They draw the shapes by scikit-image, anew and without a seed for each training; here "
        "partbench draws them once from a seed, by the same rules.",
        "the authors' code",
        "Small: single shapes may be a pixel larger or smaller.",
        variants=("shapes",),
    ),
)
"""Of the method `dlp`."""
