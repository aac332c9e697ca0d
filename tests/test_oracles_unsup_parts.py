"""Unsupervised parts: every term, transform and network against the authors' code."""

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tensor
from oracle_vectors import Vectors
from torch import Tensor

from partbench.method import DataInfo, resolve
from partbench.methods.unsup_parts import UnsupParts
from partbench.nn import consistency
from partbench.nn.colour import rgb_to_lab
from partbench.nn.deeplab import DeepLab50
from partbench.nn.tps import ThinPlateSpline, warp
from partbench.nn.warps import bent_similarity
from partbench.outputs.part_maps import centres_of_mass

TERMS = {"L_f": "L_f_sum", "L_v": "L_v", "L_c": "L_c", "L_e": "L_e"}


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "unsup_parts.npz")


def parts_of(v: Vectors) -> int:
    """Return K."""
    return v["logits1"].shape[1]


def taps_of(v: Vectors, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [
        float(weight) * torch.from_numpy(v[key]).to(dtype)
        for weight, key in zip(v["feat_weights"], ("feat_low_a", "feat_low_b"), strict=True)
    ]


def terms(
    v: Vectors, logits1: Tensor, logits2: Tensor, target: Tensor, warped_mask: Tensor
) -> dict[str, Tensor]:
    """The four terms at full resolution."""
    dtype = logits1.dtype
    mask = torch.from_numpy(v["mask"]).to(dtype)
    lab = torch.from_numpy(v["lab"]).to(dtype)
    parts = logits1.softmax(1)
    taps = taps_of(v, dtype)
    positives = torch.from_numpy(v["contrastive_pos_image"]).view(-1, parts_of(v))
    present = mask.flatten(1).any(1)
    found = consistency.descriptors(parts, mask, taps)
    return {
        "L_f": consistency.consistency(parts, mask, taps).sum(),
        "L_v": consistency.consistency(parts, mask, [lab]).mean(),
        "L_c": consistency.contrastive(found, positives, present, float(v["temperature"])),
        "L_e": consistency.equivariance(target, logits2, warped_mask).mean(),
    }


def total(v: Vectors, found: dict[str, Tensor]) -> Tensor:
    return sum(float(w) * found[name] for w, name in zip(v["lambdas"], TERMS, strict=True))  # type: ignore[return-value]


def case(v: Vectors, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Both logits as leaves, and what the reference's warp makes of the first and of the mask."""
    logits = [torch.from_numpy(v[k]).to(dtype).requires_grad_() for k in ("logits1", "logits2")]
    grid = torch.from_numpy(v["tps_grid"]).to(dtype)
    mask = torch.from_numpy(v["mask"]).to(dtype)
    return (*logits, warp(logits[0], grid), warp(mask, grid))


def test_the_terms_and_their_gradients(vectors: Vectors) -> None:
    v = vectors
    logits1, logits2, target, warped_mask = case(v)
    found = terms(v, logits1, logits2, target, warped_mask)
    for name, key in TERMS.items():
        assert found[name].item() == pytest.approx(v[key].item(), rel=1e-9)
    assert total(v, found).item() == pytest.approx(v["total"].item(), rel=1e-9)
    for name in ("L_f", "L_v", "L_c"):
        (gradient,) = torch.autograd.grad(found[name], logits1, retain_graph=True)
        expected = tensor(v[f"grad_{name}_logits1"])
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(found["L_e"], logits2, retain_graph=True)
    torch.testing.assert_close(gradient, tensor(v["grad_L_e_logits2"]), rtol=1e-6, atol=1e-8)
    both = torch.autograd.grad(total(v, found), (logits1, logits2))
    for i, gradient in enumerate(both, start=1):
        expected = tensor(v[f"grad_total_logits{i}"])
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_float32_is_enough(vectors: Vectors) -> None:
    v = vectors
    found = terms(v, *case(v, torch.float32))
    for name, key in TERMS.items():
        assert found[name].item() == pytest.approx(v[key].item(), rel=1e-5)
    assert total(v, found).item() == pytest.approx(v["total_float32"].item(), rel=1e-5)


def test_feature_consistency_per_image(vectors: Vectors) -> None:
    v = vectors
    parts = tensor(v["logits1"]).softmax(1)
    found = consistency.consistency(parts, tensor(v["mask"]), taps_of(v))
    torch.testing.assert_close(found, tensor(v["L_f_per_image"]), rtol=1e-9, atol=0)


def test_descriptors(vectors: Vectors) -> None:
    v = vectors
    parts = tensor(v["logits1"]).softmax(1)
    found = consistency.descriptors(parts, tensor(v["mask"]), taps_of(v))
    torch.testing.assert_close(found, tensor(v["z_descriptors"]), rtol=1e-9, atol=1e-12)


def test_logits_on_a_coarse_grid_are_upsampled_first(vectors: Vectors) -> None:
    v = vectors
    low = [tensor(v[key]).requires_grad_() for key in ("logits_low1", "logits_low2")]
    grid = tensor(v["tps_grid"])
    size = grid.shape[1:3]
    high = [F.interpolate(x, size, mode="bilinear", align_corners=True) for x in low]
    found = terms(v, *high, warp(high[0], grid), warp(tensor(v["mask"]), grid))
    for name, key in TERMS.items():
        assert found[name].item() == pytest.approx(v[f"low_{key}"].item(), rel=1e-9)
    assert total(v, found).item() == pytest.approx(v["low_total"].item(), rel=1e-9)
    for i, gradient in enumerate(torch.autograd.grad(total(v, found), low), start=1):
        expected = tensor(v[f"low_grad_total_logits{i}"])
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)
    parts = high[0].softmax(1)
    z = consistency.descriptors(parts, tensor(v["mask"]), taps_of(v))
    torch.testing.assert_close(z, tensor(v["low_z_descriptors"]), rtol=1e-9, atol=1e-12)


def test_sums_and_norms_are_those_of_the_features_at_full_resolution(
    vectors: Vectors,
) -> None:
    """Against the upsampled features that the reference makes; outside the mask they are 0."""
    v = vectors
    features, mask = tensor(v["feat_masked"]), tensor(v["mask"])
    norms = consistency.squared_norms(taps_of(v), mask) * mask
    torch.testing.assert_close(norms, features.square().sum(1, keepdim=True), rtol=1e-5, atol=1e-5)
    weights = tensor(v["logits1"]).softmax(1) * mask
    expected = torch.einsum("bkhw,bchw->bkc", weights, features)
    torch.testing.assert_close(
        consistency.sums(weights, taps_of(v)), expected, rtol=1e-5, atol=1e-5
    )


def test_an_empty_mask_and_one_of_halves(vectors: Vectors) -> None:
    v = vectors
    parts = tensor(v["logits1"]).softmax(1)
    found = consistency.consistency(parts, tensor(v["edge_mask"]), [tensor(v["lab"])])
    assert found[0] == 0
    assert found.mean().item() == pytest.approx(v["edge_L_v"].item(), rel=1e-9)


def test_positives_are_drawn_as_the_authors_do(vectors: Vectors) -> None:
    """The stored draws leave out the first of the others; ours come from the same set."""
    v = vectors
    k, n = parts_of(v), len(v["logits1"])
    stored = v["contrastive_rand_idx"].reshape(-1, k)
    positives = v["contrastive_pos_image"].reshape(-1, k)
    images = np.arange(n)[:, None]
    assert np.array_equal(stored + (stored >= images), positives)
    torch.manual_seed(0)
    device = torch.device("cpu")
    drawn = torch.stack([consistency.draw_positives(n, k, True, device) for _ in range(40 * n)])
    for image in range(n):
        others = [i for i in range(n) if i != image]
        assert set(drawn[:, image].flatten().tolist()) == set(others[1:])
        assert set(positives[image]) <= set(others[1:])


# Transforms.


def test_lab(vectors: Vectors) -> None:
    images = torch.from_numpy(vectors["rgb"]).permute(0, 3, 1, 2).float() / 255
    expected = torch.from_numpy(vectors["lab"])
    torch.testing.assert_close(rgb_to_lab(images), expected, rtol=1e-4, atol=2e-3)


def test_inputs_of_both_networks(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(vectors["rgb"][:1]).permute(0, 3, 1, 2).float() / 255
    changes = {"backbone": "resnet18", "width": 2, "weights": "none"}
    method = UnsupParts(resolve(UnsupParts, "cub", changes, "test"), DataInfo(32, 0))
    expected = torch.from_numpy(vectors["img_deeplab"])
    torch.testing.assert_close(method.normalize(images), expected, rtol=0, atol=1e-4)
    seen: list[Tensor] = []
    layer = torch.nn.Identity()
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.perceptual.network = torch.nn.Sequential(layer)
    method.perceptual(images)
    torch.testing.assert_close(seen[0], torch.from_numpy(vectors["img_vgg"]), rtol=0, atol=1e-6)


def row_by_row(points: np.ndarray) -> Tensor:
    """Control points of the reference, whose x varies slowest, in our order."""
    side = math.isqrt(points.shape[-2])
    return torch.from_numpy(points).unflatten(-2, (side, side)).transpose(-3, -2).flatten(-3, -2)


def spline(v: Vectors) -> ThinPlateSpline:
    return ThinPlateSpline(v["tps_grid"].shape[1], math.isqrt(len(v["tps_target_points"])))


def drawn_warps(v: Vectors, warps: ThinPlateSpline, bend: Tensor) -> Tensor:
    shift = np.stack([v["tps_shift_x"], v["tps_shift_y"]], 1)
    angle, scale = v["tps_angle_deg"], v["tps_scale"]
    dtype = warps.basis.dtype
    return bent_similarity(
        warps, *(x.to(dtype) for x in (bend, *map(tensor, (angle, scale, shift))))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warps(vectors: Vectors, dtype: torch.dtype) -> None:
    v = vectors
    warps = spline(v).to(dtype)
    control = row_by_row(v["tps_target_points"]).to(dtype)
    torch.testing.assert_close(warps.control, control, rtol=0, atol=1e-6)
    bend = row_by_row(v["tps_jitter"])
    weights = drawn_warps(v, warps, bend)
    sources = row_by_row(v["tps_source_points"]).to(dtype)
    found = warps.carry_back(warps.control.expand(len(weights), -1, -1), weights)
    torch.testing.assert_close(found, sources, rtol=0, atol=1e-5)
    expected = torch.from_numpy(v["tps_grid"]).to(dtype)
    torch.testing.assert_close(warps.grid(weights), expected, rtol=0, atol=2e-5)
    plain = warps.grid(drawn_warps(v, warps, torch.zeros_like(bend)))
    expected = torch.from_numpy(v["tps_grid_nojitter"]).to(dtype)
    torch.testing.assert_close(plain, expected, rtol=0, atol=2e-5)
    for key, source in (("warped_logits1", "logits1"), ("warped_mask", "mask")):
        warped = warp(
            torch.from_numpy(v[source]).to(dtype), torch.from_numpy(v["tps_grid"]).to(dtype)
        )
        torch.testing.assert_close(warped, torch.from_numpy(v[key]).to(dtype), rtol=0, atol=1e-5)


def test_a_strong_warp(vectors: Vectors) -> None:
    """Fifteen times the paper's bending; our kernel is r^2 log(r^2 + 1e-5)."""
    v = vectors
    warps = spline(v).double()
    weights = warps.interpolate(row_by_row(v["tps_big_source_points"]).double())
    torch.testing.assert_close(warps.grid(weights), tensor(v["tps_big_grid"]), rtol=0, atol=2e-5)


def test_the_inverse_of_the_spline_s_system(vectors: Vectors) -> None:
    """The weights of splines that are 1 at one control point and 0 at all others.

    Our kernel is twice theirs, so the weights of our kernel are half of theirs. The first C columns
    are all that an interpolation uses; the inverse is symmetric.
    """
    count, side = len(vectors["tps_target_points"]), math.isqrt(len(vectors["tps_target_points"]))
    in_our_order = [*np.arange(count).reshape(side, side).T.flat, *range(count, count + 3)]
    theirs = vectors["tps_inverse_kernel"][np.ix_(in_our_order, in_our_order)]
    units = torch.eye(count, dtype=torch.float64).unsqueeze(-1).expand(-1, -1, 2)
    ours = spline(vectors).double().interpolate(units)[..., 0].T
    np.testing.assert_allclose(2 * ours[:count], theirs[:count, :count], rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[count:], theirs[count:, :count], rtol=0, atol=1e-4)
    np.testing.assert_allclose(theirs, theirs.T, rtol=0, atol=1e-4)


def test_centres(vectors: Vectors) -> None:
    """The authors add 0.001 to the mass, which draws centres to the image's middle."""
    v = vectors
    maps = (tensor(v["logits1"]).softmax(1) * tensor(v["mask"])).float()
    pixels, mass = centres_of_mass(maps)
    size = torch.tensor(maps.shape[:1:-1])
    pull = (mass / (mass + 1e-3)).unsqueeze(-1)
    expected = torch.from_numpy(v["centres_utils_xy"])
    torch.testing.assert_close(pull * (2 * pixels / size - 1), expected, rtol=0, atol=1e-5)
    assert mass.min() > 1


# The network.


def set_weights(network: torch.nn.Module, seed: int) -> None:
    """Fill a network by the rule of the test vectors."""
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        draw = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        x = draw.standard_normal(tuple(value.shape))
        if value.ndim == 4:
            x = x / np.sqrt(np.prod(value.shape[1:]))
        elif name.endswith("running_mean"):
            x = 0.1 * x
        elif name.endswith("running_var"):
            x = 1 + 0.2 * np.abs(x)
        elif name.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x = 0.1 * x
        value.copy_(torch.from_numpy(x.astype(np.float32)))


@pytest.fixture(scope="module")
def network(vectors: Vectors) -> DeepLab50:
    made = DeepLab50(vectors["net_out_eval"].shape[1], (6, 12, 18, 24)).double()
    set_weights(made, int(vectors["net_weight_seed"]))
    return made


def test_the_network_s_parameters(vectors: Vectors, network: DeepLab50) -> None:
    v = vectors
    for i, name in enumerate(v["net_stage_names"]):
        parameters = list(getattr(network, name).parameters())
        assert sum(p.numel() for p in parameters) == v["net_params_per_stage"][i]
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        assert trained == v["net_trainable_per_stage"][i]
    tensors = (len(list(network.parameters())), len(network.state_dict()))
    assert tensors == tuple(v["net_n_tensors"])
    assert sum(p.numel() for p in network.parameters()) == v["net_params_total"]
    assert sum(b.numel() for b in network.buffers()) == v["net_buffers"]


def test_the_head_learns_ten_times_faster(vectors: Vectors) -> None:
    changes = {"k": vectors["net_out_eval"].shape[1]}
    method = UnsupParts(resolve(UnsupParts, "cub", changes, "test"), DataInfo(256, 0))
    optimizer = method.optimizers()["all"]
    slow, fast = optimizer.param_groups
    counts = [sum(p.numel() for p in group["params"]) for group in (slow, fast)]
    assert counts == vectors["net_lr_group_params"].tolist()
    for step, rate in zip(vectors["lr_iters"], vectors["lr_values"], strict=True):
        if step:
            method.after_step(int(step))
        assert slow["lr"] == pytest.approx(rate, rel=1e-9)
        assert fast["lr"] == pytest.approx(10 * rate, rel=1e-9)


def test_the_network_s_output(vectors: Vectors, network: DeepLab50) -> None:
    v = vectors
    x = torch.from_numpy(
        np.random.RandomState(77 + int(v["net_weight_seed"])).standard_normal((2, 3, 64, 64))
    )
    with torch.inference_mode():
        network.eval()
        torch.testing.assert_close(network(x), tensor(v["net_out_eval"]), rtol=1e-8, atol=1e-10)
        features = network.features(x)
        halves = features.split(v["net_feature_channels"].tolist(), 1)
        unused, used = halves
        for key, seen in (("instance", unused), ("part", F.normalize(used, dim=1))):
            spread = torch.stack([seen.mean(), seen.std()])
            expected = tensor(v[f"net_feature_{key}_eval_mean_std"])
            torch.testing.assert_close(spread, expected, rtol=1e-8, atol=0)
        for side, out in v["net_output_size"]:
            assert network(torch.zeros(1, 3, side, side, dtype=torch.float64)).shape[2:] == (
                out,
                out,
            )
        before = {k: b.clone() for k, b in network.named_buffers()}
        network.train()
        torch.testing.assert_close(network(x), tensor(v["net_out_train"]), rtol=1e-7, atol=1e-10)
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
