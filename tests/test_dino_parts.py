"""Co-segmentation on DINO: planted parts are found again."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods.dino_parts import DinoParts
from partbench.nn.vit import Tokens


def build(size: int = 32, **changes: Any) -> DinoParts:
    torch.manual_seed(0)
    return DinoParts(methods.resolve(DinoParts, "demo", changes, "test"), DataInfo(size, 0)).eval()


def passes_over(images: torch.Tensor, size: int = 4) -> Any:
    def passes() -> Iterator[Batch]:
        return (Batch(part, None) for part in images.split(size))

    return passes


def plant(monkeypatch: pytest.MonkeyPatch, salient: float = 1.0) -> torch.Tensor:
    """Descriptors of three kinds in quadrants, one twice; two kinds are salient. Returns labels."""
    kinds = torch.nn.functional.normalize(torch.randn(3, 384), dim=1)
    labels = torch.tensor([[0, 1], [0, 2]]).repeat_interleave(4, 0).repeat_interleave(4, 1)

    def describe(self: DinoParts, images: torch.Tensor) -> Tokens:
        noise = 0.01 * torch.randn(len(images), 8, 8, 384)
        keys = torch.nn.functional.normalize(kinds[labels] + noise, dim=3).permute(0, 3, 1, 2)
        return Tokens(keys, salient * (labels > 0).float().expand(len(images), 8, 8))

    monkeypatch.setattr(DinoParts, "describe", describe)
    return labels.repeat_interleave(4, 0).repeat_interleave(4, 1)


def test_planted_parts_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(k=2, votes=0.75)
    labels = plant(monkeypatch)
    method.fit(passes_over(torch.rand(10, 3, 32, 32)))
    found = method.part_maps(torch.rand(3, 3, 32, 32))
    assert found.foreground is not None
    torch.testing.assert_close(found.foreground, (labels > 0).expand(3, -1, -1))
    for kind in (1, 2):
        (part,) = found.labels[:, labels == kind].unique()
        assert torch.equal(found.labels[0][labels > 0] == part, (labels == kind)[labels > 0])
    assert torch.equal(found.weights.sum(1), found.foreground.float())
    assert 2 <= int(method.clusters) <= 14


def test_only_some_images_are_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    method = build(k=2, images=4, every=1, votes=0.75)
    plant(monkeypatch)
    describe = DinoParts.describe
    monkeypatch.setattr(
        DinoParts, "describe", lambda self, x: (seen.append(x), describe(self, x))[1]
    )
    images = torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    method.fit(passes_over(images))
    assert torch.cat(seen)[:, 0, 0, 0].tolist() == 3 * [0, 3, 6, 9]


def test_fit_repeats_itself() -> None:
    images, made = torch.rand(6, 3, 32, 32), []
    for _ in range(2):
        method = build()
        torch.manual_seed(5)
        method.fit(passes_over(images))
        made.append(method.state_dict())
    assert [key for key in made[0] if not torch.equal(made[0][key], made[1][key])] == []
    assert sorted(made[0]) == ["centroids", "clusters", "salient", "whole"]


def test_bad_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = torch.rand(4, 3, 32, 32)
    broken = images.clone()
    broken[0, 0, 0, 0] = math.nan
    with pytest.raises(BadInput, match="descriptors are not finite"):
        build().fit(passes_over(broken))
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(
        BadInput, match=r"vit\.pth \(the weights of vit_small_patch8_224\) is missing;"
    ):
        build(weights_file="vit.pth").fit(passes_over(images))
    (tmp_path / "vit.pth").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="does not hold the weights of vit_small_patch8_224"):
        build(weights_file="vit.pth").fit(passes_over(images))
    plant(monkeypatch, salient=0.01)
    with pytest.raises(BadInput, match="no cluster is salient in enough images; lower"):
        build(votes=0.75).fit(passes_over(images))
    plant(monkeypatch)
    with pytest.raises(BadInput, match=r"90 parts of \d+ descriptors of the foreground"):
        build(k=90, votes=0.75).fit(passes_over(images))
