"""The pretrained control: its weights are torchvision's, at torchvision's places."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from partbench import method as methods
from partbench.errors import BadInput
from partbench.method import DataInfo, is_random, role_of
from partbench.methods.imagenet_pretrained import ImageNetPretrained

NAME = "weights/resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Torchvision's network with random weights and statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet18(weights=None)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network.eval()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path


def made(variant: str = "paper", **changes: Any) -> ImageNetPretrained:
    settings = methods.resolve(ImageNetPretrained, variant, changes, "test")
    method = ImageNetPretrained(settings, DataInfo(64, 0)).eval()
    method.fit(lambda: iter(()))
    return method


@pytest.mark.parametrize(("stride", "last"), [(8, "layer2"), (16, "layer3"), (32, "layer4")])
def test_the_encoder_computes_what_torchvision_s_does(
    stride: int, last: str, reference: nn.Module, root: Path
) -> None:
    torch.save(reference.state_dict(), root / NAME)
    method = made(stride=stride)
    images = torch.rand(2, 3, 64, 64)
    x = method.normalize(images)
    for name, layer in reference.named_children():
        x = layer(x)
        if name == last:
            break
    with torch.inference_mode():
        found = method.features(images)
    torch.testing.assert_close(found, x.detach().flatten(1), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(child, nn.Linear) for child in method.trunks()["encoder"].modules())


def test_files_that_do_not_fit(reference: nn.Module, root: Path) -> None:
    with pytest.raises(BadInput, match=r"resnet18-f37072fd.pth .* is missing; place it there"):
        made()
    state = OrderedDict(reference.state_dict())
    del state["layer2.1.bn2.running_var"]
    torch.save(state, root / NAME)
    with pytest.raises(BadInput, match=r"holds no 5.1.bn2.running_var of shape \[128\]"):
        made()
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, root / NAME)
    with pytest.raises(BadInput, match=r"holds no 0.weight of shape \[64, 3, 7, 7\]"):
        made()


def test_only_drawn_weights_follow_the_seed(reference: nn.Module, root: Path) -> None:
    torch.save(reference.state_dict(), root / NAME)
    for variant, drawn in (("paper", False), ("cifar100", False), ("demo", True)):
        settings = methods.resolve(ImageNetPretrained, variant, {}, "test")
        assert is_random(ImageNetPretrained, settings) == drawn
        features = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            method = made(variant)
            features.append(method.features(torch.full((1, 3, 64, 64), 0.7)).detach())
        assert torch.equal(*features) != drawn


def test_it_is_a_ceiling_that_needs_a_file_and_sees_imagenet_s_mean() -> None:
    for variant in ("paper", "cifar100", "indoor67", "places205"):
        settings = methods.resolve(ImageNetPretrained, variant, {}, "test")
        assert role_of(ImageNetPretrained, settings) == "ceiling"
        assert ImageNetPretrained.weights(settings) == ("resnet18",)
        assert settings.normalize == "imagenet"
        assert settings.stride == 8
    assert methods.resolve(ImageNetPretrained, "indoor67", {}, "test").flip
    assert ImageNetPretrained.weights(methods.resolve(ImageNetPretrained, "demo", {}, "t")) == ()
