"""SCOPS: every term against the authors' numbers and slow versions, inference, training."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_vectors import Vectors

from partbench import method as methods
from partbench import step_cost
from partbench import train as training
from partbench.data.batch import Batch
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods import scops
from partbench.methods.scops import SCOPS
from partbench.model import load_model
from partbench.nn.tps import warp
from partbench.progress import Progress
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
NAMES = {
    "L_con": "concentration",
    "L_eqv": "equivariance",
    "L_lmeqv": "landmark_equivariance",
    "L_sc": "semantic",
    "L_orth": "orthonormality",
}
"""Of the vectors, in the order of their weights."""


def settings_of(variant: str = "demo", **changes: Any) -> Any:
    return methods.resolve(SCOPS, variant, changes, "test")


def build(size: int = 32, **changes: Any) -> SCOPS:
    torch.manual_seed(0)
    return SCOPS(settings_of(**{"width": 4, **changes}), DataInfo(size, 0))


def batch_of(n: int = 4, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(n, size, size)
    masks[:, 4:24, 8:20] = 1
    return Batch(torch.rand(n, 3, size, size, generator=generator), None, masks=masks)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The terms.

ENDING = "_align_corners_false"


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Any:
    return Vectors(oracles / "scops.npz")


class Case:
    """The terms of the vectors' tensors, which hold gradients."""

    def __init__(self, vectors: Any, dtype: torch.dtype = torch.float64, **changes: Any) -> None:
        names = ("logits1", "logits2", "basis", "grid", "feat", "saliency")
        self.leaves = {name: tensor(vectors[name]).to(dtype) for name in names}
        for name in names[:3]:
            self.leaves[name].requires_grad_()
        method = build(k=4, **changes)
        del method.basis
        method.basis = self.leaves["basis"]
        logits1, logits2, _, grid, feat, saliency = self.leaves.values()
        self.method = method
        self.terms = method.terms(logits1, logits2, grid, [feat], saliency.unsqueeze(1))
        weighted = [getattr(method.settings, name) * x for name, x in self.terms.items()]
        self.loss = torch.stack(weighted).sum()

    def gradient(self, of: Any, name: str) -> Any:
        return torch.autograd.grad(of, self.leaves[name])[0]


def test_the_authors_terms(vectors: Any) -> None:
    case = Case(vectors)
    weights = [getattr(case.method.settings, name) for name in NAMES.values()]
    assert weights == list(vectors["lambdas_con_eqv_lmeqv_sc_orth"])
    for theirs, ours in NAMES.items():
        tolerance = 1e-6 if theirs in ("L_con", "L_lmeqv") else 1e-9
        assert case.terms[ours].item() == pytest.approx(vectors[theirs].item(), rel=tolerance)
    assert case.loss.item() == pytest.approx(vectors["total"].item(), rel=1e-8)


def test_the_authors_terms_in_float32(vectors: Any) -> None:
    case = Case(vectors, torch.float32)
    for theirs, ours in NAMES.items():
        expected = vectors[f"{theirs}_float32"].item()
        assert case.terms[ours].item() == pytest.approx(expected, rel=1e-5)


def test_the_authors_terms_as_a_present_torch_has_them(vectors: Any) -> None:
    """Their code leaves `align_corners` of warps to torch, whose default changed."""
    case, present = Case(vectors), Case(vectors, align_corners=False)
    changed = {key.removesuffix(ENDING): key for key in vectors if key.endswith(ENDING)}
    assert set(changed) == {"L_eqv", "L_lmeqv"}
    for theirs, ours in NAMES.items():
        expected = vectors[changed.get(theirs, theirs)].item()
        tolerance = 1e-9 if theirs == "L_eqv" else 1e-6
        assert present.terms[ours].item() == pytest.approx(expected, rel=tolerance)
        assert (present.terms[ours] == case.terms[ours]) == (theirs not in changed)


def test_views_are_warped_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    for corners in (True, False):
        seen = []

        def spy(images: torch.Tensor, grid: torch.Tensor, corners: bool, to: Any = seen) -> Any:
            to.append(corners)
            return warp(images, grid, corners)

        monkeypatch.setattr(scops, "warp", spy)
        build(align_corners=corners)(batch_of(2), "all")
        assert seen == [corners, corners]


@pytest.mark.parametrize(
    ("theirs", "leaf"),
    [
        ("L_con", "logits1"),
        ("L_eqv", "logits2"),
        ("L_lmeqv", "logits1"),
        ("L_lmeqv", "logits2"),
        ("L_sc", "logits1"),
        ("L_sc", "basis"),
        ("L_orth", "basis"),
    ],
)
def test_the_authors_gradients(vectors: Any, theirs: str, leaf: str) -> None:
    case = Case(vectors)
    found = case.gradient(case.terms[NAMES[theirs]], leaf)
    np.testing.assert_allclose(found, vectors[f"grad_{theirs}_{leaf}"], rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("leaf", ["logits1", "logits2", "basis"])
def test_the_authors_gradients_of_the_loss(vectors: Any, leaf: str) -> None:
    case = Case(vectors)
    found = case.gradient(case.loss, leaf)
    np.testing.assert_allclose(found, vectors[f"grad_total_{leaf}"], rtol=1e-5, atol=1e-9)


def test_the_equivariance_sends_no_gradient_to_its_target(vectors: Any) -> None:
    case = Case(vectors)
    with pytest.raises(RuntimeError, match="not have been used"):
        case.gradient(case.terms["equivariance"], "logits1")


def test_the_authors_centres_warps_and_inference(vectors: Any) -> None:
    logits, grid = tensor(vectors["logits1"]), tensor(vectors["grid"])
    maps = logits.softmax(1)[:, 1:]
    np.testing.assert_allclose(scops.centres(maps), vectors["centres_l1_xy"], atol=1e-6)
    np.testing.assert_allclose(warp(logits, grid), vectors["warped_l1"], atol=1e-6)
    found = scops.infer(logits)
    labels = vectors["infer_labels"]
    np.testing.assert_array_equal(found.foreground, labels > 0)
    np.testing.assert_array_equal(found.parts[found.foreground] + 1, labels[labels > 0])
    relative = vectors["infer_normalised"][:, 1:]
    np.testing.assert_array_equal(found.parts, relative.argmax(1))


def test_birds_are_inferred_by_the_strongest_logit() -> None:
    """The strongest of K + 1 tells the foreground, that of K the part, on the background too."""
    logits = random(3, 5, 6, 7)
    found = scops.strongest_of_all(logits)
    best = logits.argmax(1)
    assert 0 < found.foreground.double().mean() < 1
    np.testing.assert_array_equal(found.foreground, best > 0)
    np.testing.assert_array_equal(found.parts[found.foreground] + 1, best[found.foreground])
    np.testing.assert_array_equal(found.parts, logits[:, 1:].argmax(1))
    settings = {v: methods.resolve(scops.SCOPS, v, {}, "test") for v in ("cub", "k4", "paper")}
    rules = {variant: s.inference for variant, s in settings.items()}
    assert rules == {"cub": "argmax", "k4": "relative", "paper": "relative"}
    for rule, infer in (("argmax", scops.strongest_of_all), ("relative", scops.infer)):
        method = build(inference=rule).eval()
        images = batch_of(2).images
        with torch.inference_mode():
            maps = method.part_maps(images)
            expected = infer(method.segment(method.normalize(images)))
        np.testing.assert_array_equal(maps.labels, expected.parts)
        np.testing.assert_array_equal(maps.foreground, expected.foreground)


def test_the_quirk_is_another_division_by_the_batch() -> None:
    maps = random(5, 3, 6, 6).softmax(1)
    once, twice = (scops.concentration(maps, quirk) for quirk in (False, True))
    assert once.item() == pytest.approx(5 * twice.item())
    apart = [scops.concentration(maps[i : i + 1]).item() for i in range(5)]
    assert once.item() == pytest.approx(sum(apart) / 5)


def test_concentration_against_loops() -> None:
    maps = random(2, 2, 3, 5).softmax(1)
    total = 0.0
    for b in range(2):
        for k in range(2):
            p = maps[b, k] + 1e-3
            p = p / p.sum()
            places = [(2 * j / 5 - 1, 2 * i / 3 - 1) for i in range(3) for j in range(5)]
            for axis in (0, 1):
                at = torch.tensor([place[axis] for place in places], dtype=torch.float64)
                mean = (p.flatten() * at).sum()
                total += (p.flatten() * (at - mean).square()).sum().item()
    assert scops.concentration(maps).item() == pytest.approx(total / 4)


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(4, 12))
def test_semantic_consistency_is_that_of_upsampled_features(
    batch: int, k: int, low: int, size: int
) -> None:
    """Values and gradients of the closed form and of the direct one, with taps of two sizes."""
    taps = [random(batch, 3, low, low), random(batch, 2, 2, 2, seed=1)]
    logits, basis = random(batch, k + 1, size, size, seed=2), random(k, 5, seed=3)
    mask = (random(batch, 1, size, size, seed=4) > 0).double()

    def direct(maps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        up = [F.interpolate(t, (size, size), mode="bilinear", align_corners=True) for t in taps]
        made = torch.einsum("bkhw,kc->bchw", maps, rows)
        return F.mse_loss(made, torch.cat(up, 1) * mask)

    def closed(maps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return scops.semantic_consistency(maps, mask, taps, rows)

    found = []
    for form in (closed, direct):
        leaves = [logits.clone().requires_grad_(), basis.clone().requires_grad_()]
        value = form(leaves[0].softmax(1)[:, 1:], leaves[1].relu())
        found.append([value, *torch.autograd.grad(value, leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_an_orthonormal_basis_costs_nothing() -> None:
    assert scops.orthonormality(7 * torch.eye(3, 5).double()).item() == pytest.approx(0, abs=1e-6)
    same = torch.ones(3, 5).double()
    assert scops.orthonormality(same).item() == pytest.approx(6, rel=1e-5)  # off the diagonal
    assert scops.orthonormality(0 * same).item() == pytest.approx(3)


def test_the_exact_prediction_has_no_equivariance_error() -> None:
    logits = random(2, 4, 8, 8)
    assert scops.equivariance(logits, logits).item() == pytest.approx(0, abs=1e-12)
    shifted = logits + random(2, 1, 8, 8, seed=1)  # softmax does not see it
    assert scops.equivariance(logits, shifted).item() == pytest.approx(0, abs=1e-12)
    assert scops.equivariance(logits, logits.flip(1)).item() > 0.01


# The whole.


def test_the_loss_is_the_weighted_sum_and_reaches_everything() -> None:
    method = build()
    terms = method(batch_of(), "all")
    assert set(terms) - {"loss"} == set(NAMES.values())
    expected = sum(getattr(method.settings, n) * terms[n].item() for n in NAMES.values())
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)
    terms["loss"].backward()
    lacking = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    assert method.basis.grad is not None
    assert method.basis.grad.any()


def test_the_warped_view_s_outside_is_the_mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = build(scale=(0.5, 0.5), rotation=0.0, translation=0.0, tps=0.0), []
    segment = SCOPS.segment
    monkeypatch.setattr(SCOPS, "segment", lambda s, x: (seen.append(x), segment(s, x))[1])
    method(batch_of(), "all")
    view = [x for x in seen if not x[:, :, 0].any()]
    assert len(view) == 1
    assert view[0][:, :, 12:20, 12:20].std() > 0.1


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("empty", [False, True])
def test_one_part_one_image_and_no_foreground_are_defined(k: int, n: int, empty: bool) -> None:
    method, batch = build(k=k), batch_of(n)
    if empty:
        batch = batch._replace(masks=torch.zeros_like(batch.masks))  # type: ignore[arg-type]
    terms = method(batch, "all")
    assert all(value.isfinite() for value in terms.values())
    terms["loss"].backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    with torch.inference_mode():
        found = method.eval().part_maps(batch.images)
    assert found.labels.max() < k


def test_part_maps() -> None:
    method, images = build().eval(), batch_of().images
    with torch.inference_mode():
        found = method.part_maps(images)
    assert found.weights.shape == (4, 4, 32, 32)
    assert found.weights.dtype == torch.float32
    assert found.weights.min() >= 0
    assert found.weights.sum(1).max() < 1  # the background has the rest
    assert found.labels.dtype == torch.int64
    assert found.foreground is not None
    assert found.foreground.dtype == torch.bool
    relative = found.weights / found.weights.amax((2, 3), keepdim=True)
    assert torch.equal(found.labels, relative.argmax(1))
    assert torch.equal(found.foreground, relative.amax(1) > 0.1)


def test_gradients_are_clipped_apart_and_rates_fall_but_the_basis_s() -> None:
    method = build(learning_rate=1e-2, decay_steps=4, clip=0.5)
    optimizer = method.optimizers()["all"]
    groups = optimizer.param_groups
    assert [g["lr"] for g in groups] == [0.01, 0.1, 0.01]
    held = {id(p) for g in groups for p in g["params"]}
    assert held == {id(p) for p in method.parameters() if p.requires_grad}
    (1e6 * method(batch_of(), "all")["loss"]).backward()
    optimizer.step()
    of_basis = method.basis.grad.norm()  # type: ignore[union-attr]
    gradients = [p.grad for p in method.network.parameters() if p.grad is not None]
    assert of_basis.item() == pytest.approx(0.5, rel=1e-4)
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(0.5, rel=1e-4)
    for step in range(1, 6):
        method.after_step(step)
        rate = 0.01 * max(1 - step / 4, 0) ** 0.9
        assert [g["lr"] for g in groups] == pytest.approx([rate, 10 * rate, 0.01])


def test_mixed_precision_keeps_the_terms_in_float32() -> None:
    method, batch = build(), batch_of()
    torch.manual_seed(0)
    exact = method(batch, "all")
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method(batch, "all")
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    for name, value in mixed.items():
        assert value.item() == pytest.approx(exact[name].item(), rel=0.1, abs=1e-4)


def test_the_paper_takes_100_000_steps_of_six_images() -> None:
    for variant, k, steps in (("paper", 8, 100_000), ("k4", 4, 100_000), ("cub", 4, 60_000)):
        s = settings_of(variant)
        assert (s.k, s.batch_size) == (k, 6)
        assert s.epochs * (s.images_per_epoch // s.batch_size) == steps


def test_the_paper_s_network_and_basis_have_the_paper_s_shape() -> None:
    with torch.device("meta"):
        method = SCOPS(settings_of("paper"), DataInfo(256, 0))
        assert method.basis.shape == (8, 1024)
        assert method.segment(torch.zeros(2, 3, 256, 256)).shape == (2, 9, 256, 256)
    cost = step_cost.of_training("scops", settings_of("paper"), DataInfo(64, 0))
    assert cost.flops > 1e9


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (16, {}, "images of 16 px are too small .* `size` of 32 or more"),
        (32, {"weights": "imagenet"}, "weights of resnet18 can be fetched; set `weights`"),
        (32, {"k": 0}, "'k' is 0"),
    ],
)
def test_bad_settings(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(size, **changes)


# Training.


def train_small(data: Path, out: Path, **changes: Any) -> SCOPS:
    settings_ = settings_of(**{"width": 8, "batch_size": 16, **changes})
    train(Run("scops", "demo", "toy", 0), settings_, CPU, data, out)
    method = load_model(out / "model.pt", "cpu")[1]
    assert isinstance(method, SCOPS)
    return method


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    """Parts explain the features of salient pixels, and come to follow warps."""
    train_small(tiny, tmp_path, epochs=12, decay_steps=10**6)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for term, factor in (("loss", 0.7), ("semantic", 0.7), ("landmark_equivariance", 0.9)):
        values = [line[f"all/{term}"] for line in log]
        assert np.mean(values[-4:]) < factor * np.mean(values[:4]), term


def test_features_that_are_not_finite_stop_the_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, images: torch.Tensor) -> list[torch.Tensor]:
        n = len(images)
        return [torch.full((n, 32, 8, 8), math.inf), torch.zeros(n, 64, 4, 4)]

    monkeypatch.setattr(scops.Perceptual, "__call__", broken)
    with pytest.raises(BadInput, match=r"all/(loss|semantic) is (nan|inf)"):
        train_small(tiny, tmp_path, epochs=1)


def test_a_stopped_run_ends_as_if_it_had_not_been(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 2, "width": 4, "decay_steps": 10}
    train_small(tiny, tmp_path / "whole", **changes)
    whole = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)["state"]
    for stop in (2, 4, 7):

        class Interrupting(Progress):
            def advance(self, amount: int = 1, note: str = "", at: int = stop) -> None:
                super().advance(amount, note)
                if self.done == at:
                    signal.raise_signal(signal.SIGTERM)

        out = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(training, "Progress", Interrupting)
            with pytest.raises(Stopped):
                train_small(tiny, out, **changes)
        train_small(tiny, out, **changes)
        state = torch.load(out / "model.pt", weights_only=True)["state"]
        assert [name for name in whole if not torch.equal(whole[name], state[name])] == []


# Who told the salient pixels.


@pytest.mark.parametrize(
    ("variant", "found_by", "message"),
    [
        ("saliency", "", "the masks of this data set are its own; train on one with `of`"),
        ("saliency", "foreground/paper/cub/0", "foreground/paper/cub/0 learnt from masks"),
        ("cub", "principal_foreground/paper/cub/0", "add the variant `saliency`"),
        ("paper", "foreground/paper/cub/0", "add the variant `saliency`"),
    ],
)
def test_a_foreground_of_another_origin_is_refused(
    variant: str, found_by: str, message: str
) -> None:
    cls = methods.load("scops")
    chosen = methods.resolve(cls, f"{variant}+demo", {}, "test")
    with pytest.raises(BadInput, match=message):
        cls(chosen, DataInfo(32, 0, crop="center", foreground_by=found_by))


@pytest.mark.parametrize(
    ("variant", "found_by"),
    [
        ("saliency", "principal_foreground/paper/cub/0"),
        ("saliency", None),
        ("cub+saliency", "principal_foreground/paper/cub/0"),
        ("cub", ""),
        ("paper", None),
    ],
)
def test_a_foreground_of_the_origin_that_the_variant_names(
    variant: str, found_by: str | None
) -> None:
    cls = methods.load("scops")
    chosen = methods.resolve(cls, f"{variant}+demo", {}, "test")
    cls(chosen, DataInfo(32, 0, crop="center", foreground_by=found_by))
    known = [deviation.what for deviation in methods.deviations(cls, variant)]
    unsupervised = any("saliency network" in what for what in known)
    assert unsupervised == ("saliency" in variant)
    assert any("masks that people drew" in what for what in known) != unsupervised
