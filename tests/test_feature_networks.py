"""Networks in whose features images are compared: the library's numbers, files, resizing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from partbench.errors import BadInput
from partbench.nn import feature_networks
from partbench.nn.activations import ActivationSettings, Backbone
from partbench.nn.feature_networks import INCEPTION_FILE, FeatureNetwork, resized

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)


def write_inception(root: Path) -> Path:
    """Write an Inception network with random weights; torchvision's has the same names."""
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, init_weights=False
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = root / INCEPTION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("root")
    write_inception(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTBENCH_DATA", str(folder))
        yield folder


def test_inception_is_torch_fidelity_s(root: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "theirs",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(root / INCEPTION_FILE),
    )
    with torch.inference_mode():
        features, logits = theirs(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    found = FeatureNetwork("inception", None, "cpu")(IMAGES)
    assert found.logits is not None
    scale = features.abs().max()
    torch.testing.assert_close(found.features, features, rtol=0, atol=1e-5 * float(scale))
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=1e-5 * float(logits.abs().max()))
    # Another way of resizing gives other features, and 0 to 255 becomes -1 to 1.
    other = FeatureNetwork("inception", "pytorch", "cpu")
    assert (other(IMAGES).features - features).abs().max() > 1e-3 * scale
    inputs = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    small = resized(inputs, (299, 299), "pytorch") / 255 * 2 - 1
    with torch.inference_mode():
        layers = [layer for name, layer in theirs.named_children() if name != "fc"]
        expected = nn.Sequential(*layers, nn.Flatten())(small)
    torch.testing.assert_close(
        other(IMAGES).features, expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )


def test_resizing_upwards_is_the_library_s() -> None:
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    torch.testing.assert_close(resized(images, (299, 299), "ttur"), expected, rtol=0, atol=1e-3)
    flat = torch.full((1, 3, 9, 7), 200.0)
    for mode in ("ttur", "pytorch", "clean"):
        found = resized(flat, (31, 29), mode)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.full((1, 3, 31, 29), 200.0))


def flags_of_cudnn() -> tuple[bool, bool, bool, bool]:
    c = torch.backends.cudnn
    return c.enabled, c.benchmark, c.deterministic, c.allow_tf32


def test_frozen_networks_compute_in_whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cuDNN was told before, and that holds again afterwards."""
    seen = []
    conv2d = torch.nn.functional.conv2d

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(flags_of_cudnn())
        return conv2d(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    network = FeatureNetwork("random", None, "cpu")
    activations = Backbone(
        ActivationSettings(backbone="random", layer="stride4", window=None, pyramid=False)
    )
    with torch.backends.cudnn.flags(True, benchmark=True, deterministic=False, allow_tf32=True):
        before = flags_of_cudnn()
        network(np.zeros((2, 32, 32, 3), np.uint8))
        of_features = len(seen)
        activations(torch.zeros(2, 3, 32, 32))
        assert flags_of_cudnn() == before == (True, True, False, True)
    assert 0 < of_features < len(seen)
    assert set(seen) == {(True, False, True, False)}


def test_the_random_network_is_always_the_same() -> None:
    torch.manual_seed(1)
    first = FeatureNetwork("random", None, "cpu")
    torch.manual_seed(2)
    second = FeatureNetwork("random", "clean", "cpu")
    assert first.resize == second.resize == ""  # it takes images as they are
    assert torch.equal(first(IMAGES).features, second(IMAGES).features)
    assert first(IMAGES).features.shape == (2, 64)
    assert first(IMAGES).logits is None


def test_the_real_mobilenet(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(shared_data))
    network = FeatureNetwork("mobilenet", None, "cpu")
    assert network.resize == "clean"
    found = network(np.concatenate([IMAGES, IMAGES[:1]])).features
    assert found.shape == (3, 256)
    torch.testing.assert_close(found[0], found[2])
    assert (found[0] - found[1]).abs().max() > 0.01


def test_dinov2_is_timm_s_class_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one, without position embeddings: how these are resized is tested with `vit`."""
    import timm

    name = "vit_small_patch14_dinov2"
    monkeypatch.setattr(feature_networks, "DINOV2", name)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=0, img_size=224).eval()
    nn.init.zeros_(theirs.pos_embed)
    state = theirs.state_dict() | {"pos_embed": torch.zeros(1, 37**2, theirs.embed_dim)}
    if theirs.pos_embed.shape[1] % 2:  # the class token has one, too
        state["pos_embed"] = torch.zeros(1, 37**2 + 1, theirs.embed_dim)
    path = tmp_path / feature_networks.DINOV2_FILE
    path.parent.mkdir()
    torch.save(state, path)
    found = FeatureNetwork("dinov2", None, "cpu")(IMAGES)
    pixels = resized(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float(), (224, 224), "clean")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        inputs = (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        expected = theirs.forward_head(theirs.forward_features(inputs), pre_logits=True)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["inception", "dinov2", "mobilenet"])
def test_missing_weights(
    name: feature_networks.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=f"{tmp_path}/weights/.* is missing"):
        FeatureNetwork(name, None, "cpu")


def test_a_file_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    path = tmp_path / INCEPTION_FILE
    path.parent.mkdir()
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(BadInput, match="does not hold the weights of the Inception network"):
        FeatureNetwork("inception", None, "cpu")
    path.write_bytes(b"<html>")
    with pytest.raises(BadInput, match="does not hold the weights of the Inception network"):
        FeatureNetwork("inception", None, "cpu")
