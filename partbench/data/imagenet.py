"""ImageNet, ILSVRC 2012 (Russakovsky et al. 2015): 1,281,167 and 50,000 images, 1,000 classes."""

from pydantic import Field

from partbench.data.folder import Folder, FolderSettings, Splits
from partbench.data.reader import Side
from partbench.names import FolderPath


class ImageNetSettings(FolderSettings):
    """The usual layout, placed by hand: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""

    size: Side = Field(224, description="side of the prepared square images, pixels")
    path: FolderPath = "imagenet"
    splits: Splits = Field(default_factory=lambda: {"train": "train", "test": "val"})


class ImageNet(Folder):
    """ImageNet as a folder of images; the validation images are the test split."""

    Settings = ImageNetSettings
    licence = "non-commercial research, by agreement (image-net.org)"
    references = ("russakovsky2015imagenet",)
    counts = {"train": 1_281_167, "test": 50_000}
