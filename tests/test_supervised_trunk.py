"""The networks of LORBMS's tables that learn labels, or clusters as if they were labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo, load, resolve
from partbench.methods.knowledge_transfer import KnowledgeTransfer
from partbench.methods.supervised_trunk import SupervisedTrunk
from partbench.model import load_model
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1)


def made(
    variant: str, size: int, classes: int = 10, name: str = "supervised_trunk", **to: Any
) -> Any:
    cls = load(name)
    return cls(resolve(cls, variant, to, "test"), DataInfo(size, classes, clusters=classes))


def n_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_networks_are_the_thesis_s() -> None:
    with torch.device("meta"):
        encoder, alexnet = made("paper", 96), made("alexnet", 96)
        whole = made("dense_alexnet", 256, 1000)
        clusters = made("paper", 256, 2000, "knowledge_transfer")
        assert encoder.trunk(torch.zeros(1, 3, 96, 96)).shape == (1, 192, 3, 3)
        assert alexnet.trunk(torch.zeros(1, 3, 96, 96)).shape == (1, 256, 4, 4)
    assert (n_of(encoder.trunk), n_of(encoder.head)) == (2_800_512, 17_290)
    convolutions = 23_296 + 307_392 + 663_936 + 1_327_488 + 884_992
    assert (n_of(alexnet.trunk), n_of(alexnet.head)) == (convolutions, 40_970)
    assert n_of(whole) == convolutions + (6400 + 1) * 4096 + (4096 + 1) * (4096 + 1000)
    assert n_of(clusters) - n_of(whole) == 1000 * 4097


def test_the_settings_are_the_thesis_s() -> None:
    s = resolve(SupervisedTrunk, "paper", {}, "test")
    assert (s.epochs, s.batch_size) == (150, 128)
    assert (s.optimizer, s.learning_rate, s.beta1) == ("adam", 1e-3, 0.5)
    s = resolve(KnowledgeTransfer, "paper", {}, "test")
    assert (s.epochs, s.batch_size) == (100, 128)
    assert (s.network, s.head, s.crops, s.window) == ("alexnet", "dense", "window", 224)
    assert (s.optimizer, s.learning_rate, s.drops) == ("sgd", 1e-3, (170_000, 350_000))
    imagenet = resolve(SupervisedTrunk, "dense_alexnet", {}, "test")
    same = ("network", "head", "crops", "optimizer", "weight_decay", "drops", "learning_rate")
    assert all(getattr(imagenet, key) == getattr(s, key) for key in same)
    assert imagenet.epochs == 60


def test_the_rate_falls_to_a_tenth_twice_and_biases_do_not_decay() -> None:
    method = made("dense_alexnet", 96, head="linear", window=80, drops=[3, 5])
    sgd = method.optimizers()["all"]
    assert [group["weight_decay"] for group in sgd.param_groups] == [5e-4, 0]
    assert {p.ndim for p in sgd.param_groups[1]["params"]} == {1}
    assert sum(len(group["params"]) for group in sgd.param_groups) == len(list(method.parameters()))
    rates = []
    for step in range(1, 7):
        method.after_step(step)
        rates.append([group["lr"] for group in sgd.param_groups])
    assert rates == [pytest.approx([rate] * 2) for rate in (1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5)]


def test_a_window_is_a_part_of_the_image_and_moves() -> None:
    method = made("dense_alexnet", 96, head="linear", window=80)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    images = torch.stack([x, y, torch.zeros(96, 96)]).expand(20, -1, -1, -1)
    cut = method._cropped(images)
    assert cut.shape == (20, 3, 80, 80)
    left, top = cut[:, 0, 0, 0], cut[:, 1, 0, 0]
    assert torch.equal(cut[:, 0], (x[:80, :80] + left.view(-1, 1, 1)))
    assert torch.equal(cut[:, 1], (y[:80, :80] + top.view(-1, 1, 1)))
    assert len(set(left.tolist())) > 3
    assert left.min() >= 0
    assert left.max() <= 16


def test_resized_crops_are_drawn_by_the_step_s_seed() -> None:
    method = made("demo", 32, 3)
    images = torch.rand(4, 3, 32, 32)
    batch = Batch(images, torch.tensor([0, 1, 2, 0]))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(method(batch, "all")["loss"].item())
    assert losses[0] == losses[1] != losses[2]
    torch.manual_seed(1)
    assert not torch.equal(method._cropped(images), images)


def stripes(n: int, side: int) -> Batch:
    """Return images of stripes, which lie or stand; that is their class."""
    phase = torch.rand(n, 1, 1) * 6.3
    waves = (torch.arange(side).view(1, 1, side) * 0.8 + phase).sin().expand(n, side, side)
    labels = torch.arange(n) % 2
    turned = torch.where(labels.view(-1, 1, 1) == 1, waves.mT, waves)
    return Batch(turned.unsqueeze(1).expand(-1, 3, -1, -1) / 2 + 0.5, labels)


@pytest.mark.parametrize(("name", "side"), [("supervised_trunk", 32), ("knowledge_transfer", 48)])
def test_it_learns(name: str, side: int) -> None:
    torch.manual_seed(0)
    method = made("demo", side, 2, name)
    adam = method.optimizers()["all"]
    accuracies = []
    for step in range(60):
        terms = method(stripes(16, side), "all")
        adam.zero_grad()
        terms["loss"].backward()
        adam.step()
        method.after_step(step + 1)
        accuracies.append(terms["accuracy"].item())
    assert sum(accuracies[:5]) < 4.5
    assert sum(accuracies[-10:]) > 9.5


def test_a_training_becomes_a_model_with_a_trunk(tiny: Path, tmp_path: Path) -> None:
    settings = resolve(SupervisedTrunk, "demo", {"epochs": 1}, "test")
    train(Run("supervised_trunk", "demo", "toy", 0), settings, CPU, tiny, tmp_path)
    _, method = load_model(tmp_path / "model.pt", "cpu")
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        features = method.features(images)  # type: ignore[operator]
        mapped = method.trunks()["encoder"](method.normalize(images))  # type: ignore[operator]
    assert torch.equal(features, mapped.flatten(1))


@pytest.mark.parametrize(
    ("variant", "size", "changes", "message"),
    [
        ("dense_alexnet", 128, {}, "windows of 224 px do not fit into images of 128 px"),
        ("alexnet", 64, {"head": "dense"}, "images of 64 px are too small"),
        ("paper", 16, {}, "images of 16 px are too small"),
        ("alexnet", 24, {}, "images of 24 px are too small"),
    ],
)
def test_images_that_are_too_small(
    variant: str, size: int, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        made(variant, size, **changes)


def test_knowledge_transfer_learns_from_clusters_alone(tiny: Path, tmp_path: Path) -> None:
    settings = resolve(KnowledgeTransfer, "demo", {}, "test")
    with pytest.raises(BadInput, match="split 'train' has no clusters"):
        train(Run("knowledge_transfer", "demo", "toy", 0), settings, CPU, tiny, tmp_path)
