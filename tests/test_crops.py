"""Ten crops of a frame: torchvision's, and where each lies."""

import pytest
import torch
from torchvision.transforms.functional import center_crop as their_center_crop
from torchvision.transforms.functional import ten_crop

from partbench.nn.crops import center_crop, ten_crops


@pytest.mark.parametrize(("height", "width", "side"), [(240, 320, 224), (9, 9, 9), (8, 6, 4)])
def test_ten_crops_are_torchvisions(height: int, width: int, side: int) -> None:
    frames = torch.rand(2, 3, 3, height, width, generator=torch.Generator().manual_seed(0))
    found = ten_crops(frames, side)
    assert found.shape == (2, 3, 10, 3, side, side)
    expected = torch.stack(ten_crop(frames.flatten(0, 1), side), 1)
    assert torch.equal(found.flatten(0, 1), expected)
    assert torch.equal(center_crop(frames, side), their_center_crop(frames, [side, side]))


def test_mirrored_frames_give_the_same_crops_in_another_order() -> None:
    frame = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    order = [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert torch.equal(ten_crops(frame.flip(-1), 8)[order], ten_crops(frame, 8))
    assert torch.equal(ten_crops(frame, 8)[[1, 3]].flip(-1), ten_crops(frame, 8)[[5, 7]])


@pytest.mark.parametrize("side", [0, 9, 100])
def test_crops_that_do_not_fit(side: int) -> None:
    for crop in (center_crop, ten_crops):
        with pytest.raises(ValueError, match=rf"{side} x {side} do not fit images of 8 x 12"):
            crop(torch.zeros(3, 8, 12), side)
