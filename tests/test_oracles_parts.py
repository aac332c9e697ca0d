"""What the trainer of unsup-parts measures while it trains, against the authors' numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle_vectors import Vectors

from partbench.coordinates import from_corner, of_borders
from partbench.metrics import cub


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "part_metrics.npz")


def test_the_monitor_s_keypoints_and_labels(vectors: Vectors) -> None:
    """Keypoints count from the image's border, and a label is that of the pixel they are in."""
    keypoints, mask = vectors["mon_kp"], vectors["mon_mask"]
    side = mask.shape[-1]
    assert mask.shape[-2] == side
    pixels = from_corner(keypoints[..., :2], of_borders(side))
    np.testing.assert_allclose(pixels / side, vectors["mon_gt01"], rtol=0, atol=1e-6)
    logits = torch.from_numpy(vectors["mon_logits"])
    labels = F.interpolate(logits, (side, side), mode="bilinear", align_corners=True).argmax(1)
    visible = keypoints[..., 2] > 0
    found = [
        cub.labels_at(own.numpy(), places[seen])
        for own, places, seen in zip(labels, pixels, visible, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(found), vectors["mon_labels_pred"])
    np.testing.assert_array_equal(np.nonzero(visible)[1], vectors["mon_labels_gt"])
