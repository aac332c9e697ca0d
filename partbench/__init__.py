"""A reproducible benchmark of unsupervised parts, keypoints and object representations."""

__version__ = "0.1.0"
