"""What the papers' protocols do to training images, by data set.

Every method and control that learns from a data set takes this from here, in the variant of that
name. None of them then sees mirrored or moved images that another one does not.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PROTOCOLS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # PatchVAE's loader for CIFAR-100 neither mirrors nor crops; its others mirror.
        "cifar100": {"flip": False},
        "indoor67": {"flip": True, "normalize": "half"},
        "places205": {"flip": True},
        "imagenet": {"flip": True},
        # Zhang et al. switch mirroring off; the loaders of KeyNet and DLP have none.
        "mafl": {"flip": False},
        # The loaders of Choudhury et al.
        "cub": {"flip": True, "training_crop": "box"},
        "pascal": {"flip": True, "training_crop": "box"},
        "deepfashion": {"flip": True, "training_crop": "random"},
    }
)
"""Data set -> settings of `MethodSettings`."""
