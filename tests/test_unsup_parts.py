"""Unsupervised parts: terms against slow ones, memory, colours, weights, training, bad input."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import SMALL, assert_same_result, log_of, run_small, state_of, stopped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from partbench import step_cost
from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo, resolve
from partbench.methods.unsup_parts import UnsupParts
from partbench.model import load_model
from partbench.nn import colour, consistency, deeplab, perceptual
from partbench.nn.normalization import IMAGENET_MEAN_STD

QUICK: dict[str, Any] = {
    "backbone": "resnet18",
    "stride": 4,
    "width": 4,
    "dilations": (1, 2),
    "weights": "none",
    "perceptual": "random",
    "normalize": "half",
    "learning_rate": 1e-3,
    "decay_steps": 1000,
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, "unsup_parts", QUICK)


def make(variant: str = "paper", size: int = 32, **changes: Any) -> UnsupParts:
    torch.manual_seed(0)
    settings_ = resolve(UnsupParts, variant, QUICK | changes, "test")
    return UnsupParts(settings_, DataInfo(size, 0))


def batch(n: int = 4, size: int = 32, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, size, size, generator=draw)
    masks = torch.zeros(n, size, size)
    masks[:, 4:-6, 8:-3] = 1
    return Batch(images, None, None, masks)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The terms, against loops and against the direct form.


def upsampled(taps: Sequence[Tensor], height: int, width: int) -> Tensor:
    return torch.cat(
        [F.interpolate(t, (height, width), mode="bilinear", align_corners=True) for t in taps], 1
    )


def direct_consistency(parts: Tensor, mask: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """With a tensor of K x C x H x W, as it is published."""
    features = upsampled(taps, *parts.shape[2:])
    terms = []
    for p, m, f in zip(parts, mask, features, strict=True):
        q = p * m
        means = torch.einsum("khw,chw->kc", q, f) / (q.sum((1, 2)) + 1e-5)[:, None]
        away = f[None] - means[:, :, None, None]
        terms.append(((q * m)[:, None] * away.square()).sum() / (m.sum() + 1e-5))
    return torch.stack(terms)


def slow_consistency(parts: Tensor, mask: Tensor, taps: Sequence[Tensor]) -> Tensor:
    features = upsampled(taps, *parts.shape[2:])
    out = []
    for b in range(len(parts)):
        pixels = list(itertools.product(range(parts.shape[2]), range(parts.shape[3])))
        total = torch.zeros((), dtype=parts.dtype)
        for k in range(parts.shape[1]):
            mass = sum(parts[b, k, y, x] * mask[b, 0, y, x] for y, x in pixels)
            for c in range(features.shape[1]):
                mean = sum(
                    parts[b, k, y, x] * mask[b, 0, y, x] * features[b, c, y, x] for y, x in pixels
                ) / (mass + 1e-5)
                for y, x in pixels:
                    weight = parts[b, k, y, x] * mask[b, 0, y, x] ** 2
                    total = total + weight * (features[b, c, y, x] - mean) ** 2
        out.append(total / (sum(mask[b, 0, y, x] for y, x in pixels) + 1e-5))
    return torch.stack(out)


def agree(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Hold values and gradients of two functions of float64 tensors against each other."""
    leaves = [x.double().requires_grad_() for x in inputs]
    first, second = fast(*leaves), slow(*leaves)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    weight = torch.linspace(1, 2, first.numel(), dtype=torch.float64).view_as(first)
    one, two = (torch.autograd.grad((weight * out).sum(), leaves) for out in (first, second))
    assert any(gradient.abs().max() > 0 for gradient in one)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_consistency_against_loops() -> None:
    mask = (random(2, 1, 5, 4) > -0.5).double()
    mask[1, 0, 0, 0] = 0.5
    taps = [random(2, 3, 3, 2), random(2, 2, 1, 3, seed=1), random(2, 1, 5, 4, seed=2)]
    agree(
        lambda x: consistency.consistency(x.softmax(1), mask, taps),
        lambda x: slow_consistency(x.softmax(1), mask, taps),
        random(2, 3, 5, 4, seed=3),
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 5),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    taps=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20)),
        min_size=1,
        max_size=3,
    ),
    offset=st.sampled_from([0.0, 3.0, 30.0]),
)
def test_the_closed_form_is_the_direct_one(
    seed: int, k: int, height: int, width: int, taps: list[tuple[int, int, int]], offset: float
) -> None:
    """Of any sizes, also taps larger than the maps, and of features far from 0."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, k, height, width, generator=draw, dtype=torch.float64)
    mask = (torch.rand(2, 1, height, width, generator=draw) > 0.3).double()
    maps = [offset + torch.randn(2, *t, generator=draw, dtype=torch.float64) for t in taps]
    parts = logits.softmax(1)
    wanted = direct_consistency(parts, mask, maps)
    found = consistency.consistency(parts, mask, maps)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-9)
    single = consistency.consistency(parts.float(), mask.float(), [t.float() for t in maps])
    assert single.dtype == torch.float32
    scale = float(direct_consistency(parts, torch.ones_like(mask), maps).max())
    torch.testing.assert_close(single.double(), wanted, rtol=1e-5, atol=1e-5 * max(scale, 1))


def test_colours_of_little_variance_do_not_cancel() -> None:
    """CIE-LAB of a nearly white image at full size, in float32: to 1e-5 of the exact value."""
    parts = random(1, 4, 128, 128).softmax(1)
    mask = torch.ones(1, 1, 128, 128, dtype=torch.float64)
    lab = torch.tensor([95.0, 60.0, -80.0]).double().view(1, 3, 1, 1) + random(1, 3, 128, 128)
    wanted = direct_consistency(parts, mask, [lab])
    found = consistency.consistency(parts.float(), mask.float(), [lab.float()])
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_sums_and_squared_norms_are_those_of_upsampled_features() -> None:
    taps = [random(2, 3, 4, 7), random(2, 2, 9, 3, seed=1), random(2, 5, 1, 1, seed=2)]
    weights = random(2, 3, 11, 8, seed=3)
    features = upsampled(taps, 11, 8)
    torch.testing.assert_close(
        consistency.sums(weights, taps), torch.einsum("bkhw,bchw->bkc", weights, features)
    )
    torch.testing.assert_close(
        consistency.squared_norms(taps, weights), features.square().sum(1, keepdim=True)
    )


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            if isinstance(t, Tensor):
                size = t.untyped_storage().nbytes() // t.element_size()
                self.elements = max(self.elements, size)
        return made


def test_nothing_as_large_as_the_upsampled_features_is_ever_made() -> None:
    """Forward and backward: no tensor of C x H x W, let alone K of them."""
    k, side, widths = 4, 64, (64, 128)
    taps = [torch.randn(2, widths[0], 16, 16), torch.randn(2, widths[1], 4, 4)]
    logits = torch.randn(2, k, side, side, requires_grad=True)
    mask = torch.ones(2, 1, side, side)

    def peak(terms: Callable[[Tensor], Tensor]) -> int:
        with Largest() as largest:
            terms(logits.softmax(1)).sum().backward()
        return largest.elements

    inputs = max(logits.numel(), *(tap.numel() for tap in taps))
    assert peak(lambda p: consistency.consistency(p, mask, taps)) <= 2 * inputs
    assert peak(lambda p: consistency.descriptors(p, mask, taps)) <= 2 * inputs
    assert peak(lambda p: direct_consistency(p, mask, taps)) >= k * sum(widths) * side**2


def slow_contrastive(found: Tensor, positives: Tensor, temperature: float) -> Tensor:
    batch_, k, _ = found.shape
    unit = found / found.norm(dim=2, keepdim=True)
    terms = []
    for a in range(batch_):
        for i in range(k):
            positive = unit[a, i] @ unit[positives[a, i], i]
            negatives = [unit[a, i] @ unit[b, j] for b in range(batch_) for j in range(k) if j != i]
            powers = [torch.exp(s / temperature) for s in (positive, *negatives)]
            terms.append(-torch.log(powers[0] / sum(powers)))
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("images", "k"), [(3, 2), (4, 5), (2, 3)])
def test_the_contrastive_term_against_loops(images: int, k: int) -> None:
    positives = consistency.draw_positives(images, k, False, CPU)
    present = torch.ones(images, dtype=torch.bool)
    agree(
        lambda z: consistency.contrastive(z, positives, present, 0.19),
        lambda z: slow_contrastive(z, positives, 0.19),
        random(images, k, 6),
    )


def test_the_distance_against_loops() -> None:
    positives = consistency.draw_positives(4, 3, True, CPU)

    def slow(found: Tensor) -> Tensor:
        total = torch.zeros((), dtype=found.dtype)
        for a, i in itertools.product(range(4), range(3)):
            one, other = found[a, i], found[positives[a, i], i]
            total = total + (one / one.norm() - other / other.norm()).square().sum()
        return total / 12

    present = torch.ones(4, dtype=torch.bool)
    agree(lambda z: consistency.distance(z, positives, present), slow, random(4, 3, 6))


def slow_equivariance(target: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    out = []
    for b in range(len(logits)):
        total = torch.zeros((), dtype=logits.dtype)
        for y, x in itertools.product(range(logits.shape[2]), range(logits.shape[3])):
            p, q = target[b, :, y, x].softmax(0), logits[b, :, y, x].softmax(0)
            for k in range(len(p)):
                total = total + mask[b, 0, y, x] * p[k] * torch.log(p[k] / q[k])
        out.append(total / (mask[b].sum() + 1e-7))
    return torch.stack(out)


def test_equivariance_against_loops_and_one_way_only() -> None:
    target, mask = random(2, 3, 4, 5, seed=1), random(2, 1, 4, 5, seed=2).sigmoid()
    agree(
        lambda x: consistency.equivariance(target, x, mask),
        lambda x: slow_equivariance(target, x, mask),
        random(2, 3, 4, 5),
    )
    leaf = target.clone().requires_grad_()
    consistency.equivariance(leaf, random(2, 3, 4, 5).requires_grad_(), mask).sum().backward()
    assert leaf.grad is None
    assert consistency.equivariance(target, target + 7, mask).abs().max() < 1e-12


@pytest.mark.parametrize("skip", [True, False])
def test_positives_are_other_images(skip: bool) -> None:
    torch.manual_seed(0)
    drawn = torch.stack([consistency.draw_positives(4, 2, skip, CPU) for _ in range(400)])
    for image in range(4):
        others = [i for i in range(4) if i != image][int(skip) :]
        values, counts = drawn[:, image].unique(return_counts=True)
        assert values.tolist() == others
        assert counts.min() > 0.8 * 800 / len(others)


# Defined results at the edges.


def test_an_image_without_foreground_takes_no_part() -> None:
    """Terms of a batch with one equal those of the rest, and no gradient is lost or made up."""
    logits, taps = random(4, 3, 8, 8), [random(4, 5, 4, 4, seed=1)]
    mask = torch.ones(4, 1, 8, 8, dtype=torch.float64)
    mask[3] = 0
    positives = torch.tensor([[1, 2, 1], [0, 2, 0], [1, 0, 1], [0, 1, 2]])

    def terms(n: int) -> tuple[Tensor, Tensor, Tensor]:
        leaf = logits[:n].clone().requires_grad_()
        parts, some = leaf.softmax(1), [tap[:n] for tap in taps]
        present = mask[:n].flatten(1).any(1)
        found = consistency.descriptors(parts, mask[:n], some)
        feature = consistency.consistency(parts, mask[:n], some).sum()
        between = consistency.contrastive(found, positives[:n], present, 0.19)
        (gradient,) = torch.autograd.grad(feature + between, leaf)
        return feature, between, gradient

    for whole, rest in zip(terms(4), terms(3), strict=True):
        torch.testing.assert_close(whole[:3] if whole.ndim else whole, rest)
        assert whole.isfinite().all()
    assert not terms(4)[2][3].any()
    nothing = torch.zeros_like(mask)
    none = consistency.descriptors(logits.softmax(1), nothing, taps)
    assert not none.any()
    absent = torch.zeros(4, dtype=torch.bool)
    assert consistency.contrastive(none, positives, absent, 0.19) == 0
    assert consistency.distance(none, positives, absent) == 0
    assert not consistency.equivariance(logits, logits + 1, nothing).any()


def test_a_positive_without_foreground_is_no_anchor() -> None:
    found = random(3, 2, 4)
    present = torch.tensor([True, True, False])
    positives = torch.tensor([[2, 1], [0, 0], [0, 0]])
    unit = F.normalize(found, dim=2)
    terms = []
    for a, i in ((0, 1), (1, 0), (1, 1)):  # part 0 of image 0 has nothing to be held against
        positive = unit[a, i] @ unit[positives[a, i], i] / 0.5
        others = torch.stack([unit[a, i] @ unit[b, 1 - i] / 0.5 for b in (0, 1)])
        terms.append(torch.cat([positive[None], others]).logsumexp(0) - positive)
    value = consistency.contrastive(found, positives, present, 0.5)
    torch.testing.assert_close(value, torch.stack(terms).mean())


@pytest.mark.parametrize("gap", [30.0, 90.0, 1000.0])
def test_a_part_without_mass_makes_no_nan(gap: float) -> None:
    """In float32, where its weights and its descriptor underflow or nearly so."""
    logits = random(3, 4, 8, 8).float()
    logits[:, 2] -= gap
    logits.requires_grad_()
    parts, mask = logits.softmax(1), torch.ones(3, 1, 8, 8)
    taps = [30 * random(3, 5, 4, 4, seed=1).float()]
    found = consistency.descriptors(parts, mask, taps)
    positives = consistency.draw_positives(3, 4, True, CPU)
    between = consistency.contrastive(found, positives, torch.ones(3, dtype=torch.bool), 0.19)
    value = between + consistency.consistency(parts, mask, taps).sum()
    value = value + consistency.equivariance(logits, logits, mask).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_one_part_has_no_negatives() -> None:
    positives = consistency.draw_positives(3, 1, True, CPU)
    present = torch.ones(3, dtype=torch.bool)
    value = consistency.contrastive(random(3, 1, 4), positives, present, 0.19)
    assert value.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("images", "skip"), [(2, True), (1, True), (1, False)])
def test_too_few_images_for_a_positive(images: int, skip: bool) -> None:
    with pytest.raises(BadInput, match=f"a batch of {images} is too small .* needs at least"):
        consistency.draw_positives(images, 4, skip, CPU)


# Colours.


def test_each_change_of_colours_is_torchvision_s() -> None:
    from torchvision.transforms.v2 import functional as tv

    torch.manual_seed(0)
    images = torch.rand(5, 3, 9, 7)
    images[0, :, :4] = images[0, :1, :4]  # grey pixels have no hue
    images[1] = (8 * images[1]).round() / 8  # ties of the largest channel
    for name, factors in (
        ("brightness", (0.0, 0.7, 1.0, 1.2, 3.0)),
        ("contrast", (0.0, 0.7, 1.0, 1.2, 3.0)),
        ("saturation", (0.0, 0.8, 1.0, 1.2, 3.0)),
        ("hue", (-0.5, -0.2, 0.0, 0.13, 0.5)),
    ):
        found = getattr(colour, name)(images, torch.tensor(factors))
        for image, factor, own in zip(images, factors, found, strict=True):
            expected = getattr(tv, f"adjust_{name}")(image, factor)
            torch.testing.assert_close(own, expected, rtol=0, atol=2e-6)
    expected = tv.rgb_to_grayscale(images, num_output_channels=1)
    torch.testing.assert_close(colour.grey(images), expected, rtol=0, atol=1e-6)


def test_jitter_draws_for_each_image() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    made = colour.jitter(image.expand(400, -1, -1, -1), (0.3, 0.3, 0.2, 0.2), 0.8, 0.2)
    assert made.min() >= 0
    assert made.max() <= 1
    same = (made == image).all((1, 2, 3)).float().mean()
    lost = (made[:, 0] == made[:, 2]).all((1, 2)).float().mean()
    assert same == pytest.approx(0.2 * 0.8, abs=0.06)
    assert lost == pytest.approx(0.2, abs=0.06)
    assert len({tuple(m.flatten().tolist()) for m in made}) > 300
    torch.testing.assert_close(colour.jitter(image, (0, 0, 0, 0), 1, 0), image, rtol=0, atol=1e-6)
    black = colour.jitter(image.expand(400, -1, -1, -1), (2.0, 0, 0, 0), 1, 0).amax((1, 2, 3))
    assert (black == 0).float().mean() == pytest.approx(0.25, abs=0.08)  # a factor is at least 0


def test_lab_of_known_colours() -> None:
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    lab = colour.rgb_to_lab(colours.view(5, 3, 1, 1)).view(5, 3)
    expected = [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.2], [87.73, -86.18, 83.18]]
    expected.append([32.3, 79.19, -107.86])
    torch.testing.assert_close(lab, torch.tensor(expected), rtol=0, atol=0.02)


# Networks and their first weights.


@pytest.mark.parametrize(
    ("backbone", "cells"), [("resnet50", 9), ("resnet18", 16), ("mobilenet", 8)]
)
def test_part_maps_of_every_backbone(backbone: str, cells: int) -> None:
    method = make(size=64, backbone=backbone, k=3).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert method.network(method.normalize(images)).shape == (2, 3, cells, cells)
        found = method.part_maps(images)
    assert found.weights.shape == (2, 3, 64, 64)
    assert found.weights.dtype == torch.float32
    torch.testing.assert_close(found.weights.sum(1), torch.ones(2, 64, 64))
    assert torch.equal(found.labels, found.weights.argmax(1))
    assert found.foreground is None


def test_a_dilated_mobilenet_is_the_trained_one_on_every_fourth_cell() -> None:
    """Its strides taken out, it computes the same at the places that the strides kept."""
    torch.manual_seed(0)
    network = deeplab.dilated_mobilenet(4, (1,)).eval()
    plain = perceptual.mobilenet().eval()
    plain.load_state_dict(network.trunk.state_dict())
    x = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        fine, coarse = network.trunk(x), plain(x)
    assert fine.shape == (1, 256, 32, 32)
    middle = (..., slice(2, 6), slice(2, 6))  # away from the padding
    torch.testing.assert_close(fine[..., ::4, ::4][middle], coarse[middle], rtol=1e-4, atol=1e-5)


def content(kind: str, state: dict[str, Tensor]) -> Any:
    if kind == "dino":
        return state
    prefix = {"swav": "module.", "moco": "module.encoder_q."}[kind]
    named = {prefix + k: v for k, v in state.items()}
    return {"state_dict": named, "epoch": 3} if kind == "moco" else named


@pytest.mark.parametrize("kind", ["dino", "swav", "moco"])
def test_weights_of_self_supervised_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    torch.manual_seed(5)
    trained = deeplab.DeepLab50(7, (1,)).state_dict()
    state = {k: v + 1 for k, v in trained.items() if not k.startswith("layer5")}
    state["fc.weight"] = torch.zeros(1000, 2048)
    torch.save(content(kind, state), tmp_path / "some.pth")
    method = make(backbone="resnet50", weights="some.pth")
    head = {k: v.clone() for k, v in method.network.layer5.state_dict().items()}
    method.fit(lambda: iter(()))
    own = method.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in state.items() if k != "fc.weight")
    after = method.network.layer5.state_dict()
    assert all(torch.equal(after[k], v) for k, v in head.items())


def test_torchvision_s_names_and_shapes_fit() -> None:
    from torchvision.models import resnet50

    theirs = resnet50().state_dict()
    own = deeplab.DeepLab50(4, (6, 12, 18, 24)).state_dict()
    trunk = {k: v.shape for k, v in own.items() if not k.startswith("layer5")}
    assert trunk == {k: v.shape for k, v in theirs.items() if not k.startswith("fc")}


def test_supervised_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))

    def needed(variant: str, **changes: Any) -> tuple[str, ...]:
        return UnsupParts.weights(resolve(UnsupParts, variant, changes, "test"))

    assert needed("cub") == ("vgg19", "resnet50")
    assert needed("vgg16") == ("vgg16", "resnet50")
    assert needed("swav") == ("vgg16",)
    assert needed("deepcluster") == ()
    assert needed("demo") == ()
    assert needed("subset") == ()
    method = make(backbone="resnet50", weights="imagenet")
    with pytest.raises(BadInput, match=r"resnet50-0676ba61.pth \(the first weights .* is missing"):
        method.fit(lambda: iter(()))


def test_mobilenet_s_trained_weights_become_the_trunk(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(shared_data))
    method = UnsupParts(resolve(UnsupParts, "subset", {}, "test"), DataInfo(64, 0))
    method.fit(lambda: iter(()))
    trained = perceptual.load("mobilenet").state_dict()
    own = method.network.trunk.state_dict()
    assert all(torch.equal(own[k], v) for k, v in trained.items())
    terms = method(batch(size=64), "all")
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"no weights", "does not hold the first weights of the trunk"),
        ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, r"only 1 of the \d+ parameters"),
        ({"state_dict": {"a": 1}}, r"only 0 of the \d+ parameters"),
        ([1, 2], r"only 0 of the \d+ parameters"),
    ],
)
def test_a_file_of_something_else(
    broken: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    if isinstance(broken, bytes):
        (tmp_path / "some.pth").write_bytes(broken)
    else:
        torch.save(broken, tmp_path / "some.pth")
    with pytest.raises(BadInput, match=message):
        make(backbone="resnet50", weights="some.pth").fit(lambda: iter(()))


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv1.weight": Bomb()}, tmp_path / "some.pth")
    with pytest.raises(BadInput, match="does not hold the first weights of the trunk"):
        deeplab.read_trunk(torch.nn.Linear(1, 1), tmp_path / "some.pth")
    assert not (tmp_path / "ran").exists()


def test_the_random_network_is_the_same_every_time() -> None:
    torch.manual_seed(1)
    one = perceptual.load("random")
    torch.manual_seed(2)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    two = perceptual.load("random")
    assert torch.equal(torch.rand(1), drawn)  # it leaves the global generator alone
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    found = make().taps(torch.rand(2, 3, 32, 32))
    assert [tuple(t.shape) for t in found] == [(2, 32, 16, 16), (2, 64, 8, 8)]
    assert all(t.std() > 0.05 for t in found)


# A perceptual VGG16 from a file, four channels wide.


NARROW = tuple(
    4 if isinstance(width, int) else width for width in perceptual.CONFIGURATION["vgg16"]
)


def trained_vgg16(normed: bool, sobel: bool) -> nn.Sequential:
    """torchvision's layout with drawn weights and statistics, behind Sobel filters or nothing."""
    from torchvision.models.vgg import make_layers

    torch.manual_seed(3)
    features = make_layers(list(NARROW), batch_norm=normed)  # type: ignore[arg-type]
    front = nn.Sequential()
    if sobel:
        front = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1))
        features[0] = nn.Conv2d(2, 4, 3, padding=1)
    for name, value in features.state_dict().items():
        if value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape) if "running_var" in name else value + 0.1)
    return nn.Sequential(front, features).eval()


def named(network: nn.Sequential, module: str = "") -> dict[str, Tensor]:
    """The state_dict of its front and its features as files name them."""
    front, features = (part.state_dict() for part in network)
    return {f"sobel.{k}": v for k, v in front.items()} | {
        f"features.{module}{k}": v for k, v in features.items()
    }


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file is looked for."""
    monkeypatch.setitem(perceptual.CONFIGURATION, "vgg16", NARROW)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    return tmp_path / "vgg16.pth"


OTHER = {"perceptual": "vgg16", "perceptual_weights": "vgg16.pth", "layer_weights": (1, 1)}


@pytest.mark.parametrize("sobel", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_a_vgg16_of_a_file_is_tapped_at_the_same_relus(
    normed: bool, sobel: bool, placed: Path
) -> None:
    """relu3_2 and the last, whatever lies between the convolutions and in front of them."""
    network = trained_vgg16(normed, sobel)
    if sobel:  # as DeepCluster's training saves it, long ago
        state = named(network, module="module.") | {"top_layer.weight": torch.zeros(9, 4)}
        state = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
        torch.save({"epoch": 1, "arch": "vgg16", "state_dict": state}, placed)
    else:
        torch.save(named(network) | {"classifier.0.bias": torch.zeros(4)}, placed)
    images = torch.rand(2, 3, 48, 48)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET_MEAN_STD)
    x, relus = network[0]((images - mean) / std), []
    for layer in network[1]:  # type: ignore[union-attr]
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            relus.append(x.clone())
    torch.manual_seed(2)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    method = make(**OTHER)
    torch.manual_seed(2)
    found = method.taps(images)
    assert torch.equal(torch.rand(1), drawn)  # its first use draws nothing
    assert len(relus) == 13
    for tap, expected in zip(found, (relus[5], relus[12]), strict=True):
        assert expected.std() > 1e-3
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-5)
    assert not any("perceptual" in name for name in method.state_dict())
    terms = method(batch(), "all")
    assert all(value.isfinite() for value in terms.values())


def test_a_perceptual_file_that_is_missing_or_holds_something_else(placed: Path) -> None:
    def refused(state: Any, message: str) -> None:
        torch.save(state, placed)
        with pytest.raises(BadInput, match=message):
            make(**OTHER).taps(torch.rand(1, 3, 32, 32))

    with pytest.raises(BadInput, match=r"vgg16.pth \(the weights of the perceptual .* is missing"):
        make(**OTHER).taps(torch.rand(1, 3, 32, 32))
    whole = named(trained_vgg16(True, True))
    another = "vgg16.pth is not a VGG16 with torchvision's names and shapes"
    refused({k: v for k, v in whole.items() if k != "features.40.weight"}, another)
    refused({k: v for k, v in whole.items() if not k.startswith("sobel")}, another)  # 2 channels
    refused(whole | {"features.44.weight": torch.zeros(4, 4, 3, 3)}, another)
    refused(whole | {"features.3.weight": torch.zeros(4, 5, 3, 3)}, another)
    refused(deeplab.resnet18(4, (1,), 4, 4).state_dict(), another)
    refused([1, 2], another)
    bad = torch.full((4,), -1.0)
    refused(whole | {"features.1.running_var": bad}, "has weights that are not finite")
    refused(whole | {"sobel.0.bias": torch.tensor([math.nan])}, "has weights that are not finite")
    placed.write_bytes(b"no weights")
    with pytest.raises(BadInput, match="does not hold the weights of the perceptual VGG16"):
        make(**OTHER).taps(torch.rand(1, 3, 32, 32))


def test_the_plan_needs_no_file(placed: Path) -> None:
    settings_ = resolve(UnsupParts, "deepcluster", {}, "test")
    assert step_cost.of_training("unsup_parts", settings_, DataInfo(64, 0)).flops > 1e9


# The method.


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    method = make()
    terms = method(batch(), "all")
    names = ("feature", "visual", "contrastive", "equivariance")
    assert set(terms) == {"loss", *names}
    expected = sum(getattr(method.settings, name) * terms[name].item() for name in names)
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)
    terms["loss"].backward()
    lacking = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []


@pytest.mark.parametrize("name", ["feature", "contrastive", "visual", "equivariance"])
def test_each_ablation_leaves_one_term_out(name: str) -> None:
    terms = make(f"no_{name}")(batch(), "all")
    assert {"feature", "visual", "contrastive", "equivariance"} - set(terms) == {name}


def test_the_distance_stands_in_the_contrastive_term_s_place() -> None:
    torch.manual_seed(0)
    terms = make("l2")(batch(), "all")
    assert 0 < terms["contrastive"] < 4  # of unit vectors


def test_the_feature_term_is_summed_and_the_visual_one_averaged() -> None:
    changes = {"jitter_probability": 0, "grey_probability": 0}
    method = make(**changes).eval()
    once = batch()
    twice = Batch(once.images.repeat(2, 1, 1, 1), None, None, once.masks.repeat(2, 1, 1))  # type: ignore[union-attr]
    one, two = method(once, "all"), method(twice, "all")
    assert two["feature"].item() == pytest.approx(2 * one["feature"].item(), rel=1e-4)
    assert two["visual"].item() == pytest.approx(one["visual"].item(), rel=1e-4)


def test_without_a_warp_or_jitter_equivariance_is_free() -> None:
    still = {"tps": 0, "rotation": 0, "scale": (1, 1), "translation": 0}
    method = make(jitter_probability=0, grey_probability=0, **still).eval()
    assert method(batch(), "all")["equivariance"].abs() < 1e-5
    moved = make(jitter_probability=0, grey_probability=0).eval()
    assert moved(batch(), "all")["equivariance"] > 1e-5


def test_draws_of_warps_keep_their_limits() -> None:
    method = make(tps=0)
    torch.manual_seed(0)
    linear = method.draw_warps(500)[:, 26:]
    scale = linear.det().sqrt()
    assert scale.min() == pytest.approx(1 / 2, abs=0.02)
    assert scale.max() == pytest.approx(1 / 0.7, abs=0.02)
    assert scale.mean() == pytest.approx((1 / 2 + 1 / 0.7) / 2, abs=0.05)
    angle = torch.atan2(linear[:, 0, 1], linear[:, 0, 0]).rad2deg()
    assert angle.abs().max() == pytest.approx(60, abs=1)
    assert angle.mean().abs() < 5
    shift = method.draw_warps(500)[:, 25]
    assert shift.abs().max() == pytest.approx(0.1, abs=0.005)


def test_mixed_precision_keeps_the_terms_in_float32() -> None:
    method = make()
    torch.manual_seed(0)
    full = method(batch(), "all")
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method(batch(), "all")
        assert method.part_maps(batch().images).weights.dtype == torch.float32
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    for name in ("feature", "visual", "contrastive"):
        assert mixed[name].item() == pytest.approx(full[name].item(), rel=0.05)


@pytest.mark.parametrize(
    ("variant", "steps"), [("cub", 60_000), ("deepfashion", 100_000), ("pascal", 100_000)]
)
def test_the_paper_s_steps(variant: str, steps: int) -> None:
    s = resolve(UnsupParts, variant, {}, "test")
    assert s.images_per_epoch is not None
    assert s.epochs * (s.images_per_epoch // s.batch_size) == steps
    assert (s.k, s.batch_size, s.decay_steps) == (4, 6, 100_000)


def test_gradients_are_clipped_together() -> None:
    method = make(clip=0.5)
    optimizer = method.optimizers()["all"]
    method(batch(), "all")["loss"].backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    before = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    optimizer.step()
    after = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert before > 0.5
    assert after == pytest.approx(0.5, rel=1e-3)


def test_past_the_schedule_nothing_moves() -> None:
    method = make(decay_steps=3)
    optimizer = method.optimizers()["all"]
    rates = []
    for step in range(1, 6):
        method.after_step(step)
        rates.append(optimizer.param_groups[1]["lr"])
    assert rates == pytest.approx([1e-2 * (2 / 3) ** 0.9, 1e-2 * (1 / 3) ** 0.9, 0, 0, 0])


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (32, {"k": 1}, "one part is the whole foreground"),
        (32, {"batch_size": 2}, "a `batch_size` of 2 is too small .* it needs 3, or 2 without"),
        (32, {"batch_size": 1, "skip_first_positive": False}, "it needs 2; raise it, or set"),
        (16, {}, "images of 16 px are too small .* at a `size` of 32 or more"),
        (32, {"weights": "imagenet"}, "no trained weights of resnet18 can be fetched"),
        (32, {"perceptual_weights": "v.pth"}, "are for vgg16, not for random; set `perceptual`"),
    ],
)
def test_settings_that_cannot_work(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(size=size, **changes)


def test_small_batches_are_fine_without_the_contrastive_term() -> None:
    terms = make("no_contrastive", batch_size=1)(batch(1), "all")
    assert all(value.isfinite() for value in terms.values())


# Training.


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    """Parts become alike in their features and colours, and more than one is used."""
    changes = {
        "flip": False,
        "batch_size": 8,
        "learning_rate": 4e-3,
        "feature": 20.0,
        "visual": 3.0,
        "equivariance": 300.0,
        "contrastive": 500.0,
        "rotation": 15.0,
        "scale": (0.9, 1.1),
    }
    out = run_small("unsup_parts", tiny, tmp_path, epochs=20, **changes)
    log = log_of(out)
    for name, falls in (("loss", 0.95), ("feature", 0.95), ("visual", 0.97)):
        values = [line[f"all/{name}"] for line in log]
        assert np.mean(values[-16:]) < falls * np.mean(values[:16])  # two passes each
    _, method = load_model(out / "model.pt", "cpu")
    split = Prepared(tiny).split("test")
    images = to_float(torch.from_numpy(np.array(split.images)))
    with torch.inference_mode():
        labels = method.part_maps(images).labels  # type: ignore[operator]
    seen = labels[torch.from_numpy(np.array(split.annotation("mask")))]
    assert (torch.bincount(seen, minlength=4) > 0.05 * len(seen)).sum() >= 2


def test_a_stopped_run_ends_as_if_it_had_not_been(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_small("unsup_parts", tiny, tmp_path / "whole")
    again = run_small("unsup_parts", tiny, tmp_path / "again")
    assert_same_result(whole, again)
    for step in (1, 6, 11):
        out = stopped("unsup_parts", tiny, tmp_path / str(step), monkeypatch, step)
        assert_same_result(whole, run_small("unsup_parts", tiny, out))


def test_first_weights_are_read_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start; neither a stopped run that goes on nor the model's use needs the file."""
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    source = make(k=4)
    torch.save(source.network.state_dict(), tmp_path / "trunk.pth")
    changes = {"weights": "trunk.pth"}
    begun = run_small("unsup_parts", tiny, tmp_path / "begun", epochs=0, **changes)
    state = state_of(begun)
    for name, value in source.network.state_dict().items():
        assert torch.equal(state[f"network.{name}"], value)
    whole = run_small("unsup_parts", tiny, tmp_path / "whole", **changes)
    out = stopped("unsup_parts", tiny, tmp_path / "cut", monkeypatch, 5, **changes)
    (tmp_path / "trunk.pth").unlink()
    assert_same_result(whole, run_small("unsup_parts", tiny, out, **changes))
    load_model(out / "model.pt", "cpu")
