"""Deep Latent Particles against numbers that the authors' code computed (float64, same noise).

The vectors lie in ../shared/oracles; their README says what each is. They count (row, column),
partbench (x, y).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tensor
from oracle_vectors import Vectors
from torch import Tensor, nn

from partbench.coordinates import of_cells, of_pixels
from partbench.method import DataInfo
from partbench.methods.dlp import DLP, WEAK
from partbench.nn import keypoints, particles, perceptual, tps
from partbench.nn.elbo import kl_from_logvar
from partbench.nn.keypoints import gaussian_maps, marginal_softmax
from partbench.nn.particle_types import Noise

Arrays = Mapping[str, np.ndarray]
LOGVAR = 2 * np.log(0.1)


def same(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    actual = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def leaf(array: Any) -> Tensor:
    return tensor(array).requires_grad_()


def xy(array: Any) -> Tensor:
    """Return points (row, column) as (x, y), a leaf."""
    return tensor(array).flip(-1).requires_grad_()


def gradient(value: Tensor, cotangent: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((value * tensor(cotangent)).sum(), leaves)


@pytest.fixture(scope="module")
def v(oracles: Path) -> Arrays:
    return Vectors(oracles / "dlp.npz")


# Heat maps and masks.


def test_marginal_softmax(v: Arrays) -> None:
    maps = leaf(v["ssm/heatmap"])
    points = marginal_softmax(maps)
    same(points.flip(-1), v["ssm/kp_yx"])
    (grad,) = gradient(points.flip(-1), v["ssm/cotangent"], maps)
    same(grad, v["ssm/grad_heatmap"])


def test_the_probabilities_of_the_marginal_softmax(
    v: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expectation of a coordinate that is 1 in one cell is that cell's probability."""
    maps = tensor(v["ssm/heatmap"])
    for axis, name in enumerate(("prob_cols", "prob_rows")):
        expected = v[f"ssm/{name}"]
        for cell in range(expected.shape[-1]):
            monkeypatch.setattr(
                keypoints,
                "cell_centres",
                lambda cells, like, cell=cell: (torch.arange(cells) == cell).to(like.dtype),
            )
            same(marginal_softmax(maps)[..., axis], expected[..., cell])


def test_gaussian_maps(v: Arrays) -> None:
    points = xy(v["gauss/kp_yx"])
    maps = gaussian_maps(points, *v["gauss/maps"].shape[2:], 0.1)
    same(maps, v["gauss/maps"])
    (grad,) = gradient(maps, v["gauss/cotangent"], points)
    same(grad.flip(-1), v["gauss/grad_kp"])


def test_masks(v: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model takes for foreground where its Gaussian maps are the given ones."""
    method = DLP(settings(k=4, proposals=4), DataInfo(64, 0))
    monkeypatch.setattr(DLP, "gaussians", lambda _, maps: maps)
    maps = tensor(v["gauss/maps"])
    each = [method.foreground(own.unsqueeze(1)) for own in maps.unbind(1)]
    same(torch.cat(each, 1), v["masks/fg_each"])
    same(method.foreground(maps), v["masks/fg_union"])
    same(1 - method.foreground(maps), v["masks/bg"])


# The KL terms.


@pytest.mark.parametrize("case", ["head", "celeba_with_background"])
def test_chamfer_kl(v: Arrays, case: str) -> None:
    mu, logvar = xy(v["chamfer/mu"]), xy(v["chamfer/logvar"])
    prior = xy(v["chamfer/prior_mu"])
    (of_prior,) = set(v["chamfer/prior_logvar"].flat)
    means, logvars = mu, logvar
    if case != "head":
        constant = torch.full((len(mu), 1, 2), LOGVAR, dtype=torch.float64)
        means = torch.cat([mu, torch.zeros_like(constant)], 1)
        logvars = torch.cat([logvar, constant], 1)
    pairs = particles.pairwise_kl(means, logvars, prior, of_prior)
    same(pairs, v[f"chamfer/pairwise_kl_{case}"])
    value = particles.chamfer_kl(means, logvars, prior, of_prior)
    same(value, v[f"chamfer/value_{case}"])
    same(value.mean(), v[f"chamfer/mean_{case}"])
    grads = gradient(value, v["chamfer/cotangent"], means, logvars, prior)
    for grad, name in zip(grads, ("mu", "logvar", "prior_mu"), strict=True):
        same(grad.flip(-1), v[f"chamfer/grad_{name}_{case}"])


def test_appearance_kl(v: Arrays) -> None:
    mu, logvar = leaf(v["kl_feat/mu"]), leaf(v["kl_feat/logvar"])
    value = kl_from_logvar(mu, logvar)
    same(value, v["kl_feat/value"])
    grads = torch.autograd.grad(value, (mu, logvar))
    same(grads[0], v["kl_feat/grad_mu"])
    same(grads[1], v["kl_feat/grad_logvar"])
    for place in np.ndindex(*mu.shape[:2]):
        own = (leaf[place][None, None] for leaf in (mu, logvar))
        same(kl_from_logvar(*own), v["kl_feat/per_particle"][place])


# Proposals.


def test_patches(v: Arrays) -> None:
    patches = particles.to_patches(tensor(v["image"]), int(v["proposals/image_patch_keep"][1]))
    same(patches.mean((2, 3, 4)), v["proposals/patches_checksum_per_patch"])


def test_proposals(v: Arrays) -> None:
    """The kept ones, from heat maps of two cells that give the vectors' local keypoints."""
    local = tensor(v["proposals/local_kp_yx"])[:, :, 0].flip(-1)
    # Of two cells, softmax of the marginals (m, 0) expects -1 p + 1 (1 - p), p = sigmoid(m).
    x, y = (torch.logit((1 - local[..., axis]) / 2) for axis in (0, 1))
    maps = torch.zeros(*local.shape[:2], 2, 2, dtype=torch.float64)
    maps[..., 0, 0] = x + y
    maps[..., 0, 1] = y - x
    maps[..., 1, 0] = x - y
    maps[..., 1, 1] = -x - y
    maps /= 2
    same(marginal_softmax(maps), local)
    side, patch, keep = v["proposals/image_patch_keep"].tolist()
    kept = particles.proposals(maps, side, patch, keep)
    same(kept.flip(-1), v["proposals/kept_kp_yx"])
    theirs = v["proposals/global_kp_yx"]
    same(kept.flip(-1), np.take_along_axis(theirs, v["proposals/kept_index"][..., None], 1))
    farthest_first = (-v["proposals/sq_distance"]).argsort(1)[..., None]
    everything = particles.proposals(maps, side, patch, maps.shape[1])
    same(everything.flip(-1), np.take_along_axis(theirs, farthest_first, 1))


# Glimpses and their way back.


@pytest.mark.parametrize(("what", "source"), [("image", "image"), ("heatmap", "glimpse/heatmap")])
def test_glimpses(v: Arrays, what: str, source: str) -> None:
    images, points = leaf(v[source]), xy(v["glimpse/kp_yx"])
    crops = v[f"glimpse/{what}_crops"]
    side = images.shape[-1]
    glimpse = round(float(v[f"glimpse/{what}_anchor"]) * (side - 1))
    x, y = particles.box_masks(points, glimpse, side)
    same(torch.einsum("bki,bkj->bkij", y, x)[:, :, None], v[f"glimpse/{what}_box_masks"])
    found = particles.glimpses(images, points, glimpse)
    same(found, crops)
    (grad,) = gradient(found, v[f"glimpse/{what}_cotangent"], images)
    same(grad, v[f"glimpse/{what}_grad_source"])


def test_exclusive_glimpses(v: Arrays) -> None:
    on = tensor(v["glimpse/obj_on"])
    expected = v["glimpse/image_crops_exclusive"]
    points = xy(v["glimpse/kp_yx"])
    found = particles.exclusive_glimpses(tensor(v["image"]), points, on, expected.shape[-1])
    same(found, expected)


@pytest.mark.parametrize("case", ["deterministic", "noisy"])
def test_composite(v: Arrays, case: str) -> None:
    patches, points = leaf(v["object/rgba_patches"]), xy(v["object/kp_yx"])
    on, background = leaf(v["object/obj_on"]), leaf(v["object/background"])
    noise = alpha_noise(v) if case == "noisy" else None
    objects, covered = particles.composite(patches, points, on, background.shape[-1], noise)
    image = objects + (1 - covered) * background
    same(objects, v[f"object/{case}_fg_c"])
    same(image, v[f"object/{case}_rec_c"])
    leaves = (patches, on, background, points)
    grads = list(gradient(image, v["object/cotangent"], *leaves))
    names = ("rgba", "obj_on", "background", "kp")
    grads[0], grads[3] = grads[0].flatten(0, 1), grads[3].flip(-1)
    for grad, name in zip(grads, names, strict=True):
        same(grad, v[f"object/{case}_grad_{name}"])


def alpha_noise(v: Arrays) -> Tensor:
    return float(v["object/alpha_noise_sigma"]) * tensor(v["object/alpha_noise"])


@pytest.mark.parametrize("case", ["", "_noisy"])
def test_patches_in_their_places(v: Arrays, case: str) -> None:
    """The coverage of one particle alone is its alpha; its image is that times its colour."""
    expected, side = v[f"object/translated_alpha{case}"], v["object/background"].shape[-1]
    patches, points = tensor(v["object/rgba_patches"]), xy(v["object/kp_yx"])
    noise = alpha_noise(v) if case else None
    for k in range(patches.shape[1]):
        own = (patches[:, k : k + 1], points[:, k : k + 1], torch.ones(len(patches), 1).double())
        of_own = None if noise is None else noise[:, k : k + 1]
        objects, covered = particles.composite(*own, side, of_own)
        same(covered, expected[:, k].clip(0, 1))
        if not k:
            same(objects, expected[:, k] * v["object/translated_rgb_particle0"])


def test_shares_against_a_loop() -> None:
    torch.manual_seed(0)
    alphas = torch.randn(3, 7, 5, dtype=torch.float64) * 0.6 + 0.3
    left, expected = torch.ones(3, 5, dtype=torch.float64), []
    for layer in alphas.unbind(1):
        expected.append(torch.minimum(left, layer))
        left = left - expected[-1]
    same(particles.shares(alphas), torch.stack(expected, 1), atol=1e-12)


# Messages between particles.


def test_point_convolution(v: Arrays) -> None:
    width, before = v["pointnet/mlp.0.weight"].shape
    neighbours = v["pointnet/neighbours_sorted_flat"].shape[1]
    layer = particles.PointConv(before - 2, width, neighbours).double()
    names = {"first": "mlp.0", "rest.0": "mlp.1", "rest.2": "mlp.3", "rest.3": "mlp.4"}
    layer.load_state_dict(
        {
            f"{ours}.{kind}": tensor(v[f"pointnet/{theirs}.{kind}"])
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        },
        strict=False,
    )
    feature, points = leaf(v["pointnet/feat"]), tensor(v["pointnet/pos"])
    out = layer(feature, points)
    same(out, v["pointnet/out"])
    (grad,) = gradient(out, v["pointnet/cotangent"], feature)
    same(grad, v["pointnet/grad_feat"])


# Reconstruction.


def test_pixel_distance(v: Arrays) -> None:
    method = DLP(settings(k=4, proposals=4), DataInfo(64, 0))
    output = leaf(v["rec/xhat"])
    value = method.distance(output, tensor(v["rec/x"]))
    same(value, v["rec/mse"])
    same(torch.autograd.grad(value, output)[0], v["rec/mse_grad_xhat"])


def test_vgg_distance(v: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = v["meta/vgg"].tolist()
    blocks = zip(widths, (2, 2, 3, 3, 3), strict=True)
    narrow = tuple(layer for width, n in blocks for layer in (*[width] * n, "M"))
    monkeypatch.setitem(perceptual.CONFIGURATION, "vgg16", narrow)
    network = perceptual.vgg("vgg16").double()
    network.load_state_dict(
        {name: tensor(v[f"vgg/features.{name}"]) for name in network.state_dict()}
    )
    method = DLP(settings(k=4, proposals=4, perceptual="vgg16"), DataInfo(64, 0))
    method.perceptual.network = network
    output = leaf(v["rec/xhat"])
    value = method.distance(output, tensor(v["rec/x"]))
    same(value, v["vgg/value_mean"])
    same(torch.autograd.grad(value, output)[0], v["vgg/grad_xhat"])
    target = tensor(v["rec/x"])
    for i, expected in enumerate(v["vgg/value_per_image"]):
        same(method.distance(output[i : i + 1], target[i : i + 1]), expected)
    ours, theirs = ([x, *method.perceptual(x)] for x in (output, target))
    terms = [(a - b).square().flatten(1).sum(1) for a, b in zip(ours, theirs, strict=True)]
    same(torch.stack(terms, 1), v["vgg/terms_pixel_then_layers"])


# Warps.


def test_warps(v: Arrays) -> None:
    image = tensor(v["tps/image"])[None]
    side, crop = image.shape[-1], int(v["tps/crop"])
    warper = tps.ThinPlateSpline(side, round(len(v["tps/control_points_xy"]) ** 0.5))
    same(warper.control, v["tps/control_points_xy"], atol=1e-7)
    warper.control = tensor(v["tps/control_points_xy"])
    kernel = warper._terms(warper.control[:1])[:, : len(warper.control)]
    same(kernel[0], v["tps/U_ctrl_row0"])
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    warper.basis = warper._terms(torch.stack([x, y], -1).view(-1, 2))
    frame, keypoints = of_pixels(side), tensor(v["tps/keypoints_xy"])
    pixels = frame.to_pixels(torch.stack([x, y], -1))
    for draw, spread in ((1, WEAK), (2, tps.STRONG)):
        key = f"tps/draw{draw}"
        again = v[f"{key}_uniform"] > 0.5
        weights = np.where(
            again, spread.half * v[f"{key}_normal_subset"], spread.every * v[f"{key}_normal_all"]
        )
        angle, scale, *shift = tensor(v[f"{key}_normal_rot_scale_tx_ty"])[:, None]
        parameters = tps.similarity(
            tensor(weights)[None],
            torch.deg2rad(spread.rotation * angle),
            1 + spread.scale * scale,
            spread.translation * torch.stack(shift, 1),
        )
        same(parameters[0], v[f"{key}_weights"])
        grid = warper.grid(parameters)
        same(grid[0], v[f"tps/grid{draw}_full"])
        places = torch.stack([x, y], -1).view(1, -1, 2)
        same(warper.carry_back(places, parameters).view(grid.shape), grid)
        image = tps.warp(image, grid)
        name = "im1_weak" if draw == 1 else "im2_strong"
        window = slice(crop, side - crop)
        same(image[0, :, window, window], v[f"tps/{name}"])
        shown = frame.to_pixels(grid[0])
        nearest = (shown.view(-1, 1, 2) - keypoints).square().sum(-1).argmin(0)
        keypoints = pixels.view(-1, 2)[nearest]
        same(keypoints - crop, v[f"tps/keypoints_im{draw}"])
        if draw == 2:
            same((shown - pixels)[None, window, window], v["tps/flow_im2"])
            inside = of_cells(side, side - 2 * crop, crop)
            same(inside.from_pixels(shown)[None, window, window], v["tps/grid_im2"])


# Whole models with the reference's weights.

MODULES = {
    "masked": {
        "enc": "encoder",
        "to_normal_stats": "place",
        "object_enc": "background",
        "object_enc_sep.fc": "appearance",
        "prior.enc": "proposer",
        "pointnet.conv": "messages",
        "pointnet.fc": "scatter",
        "pointnet.cnn": "enlarge",
        "dec": "decoder",
    },
    "object": {
        "enc": "encoder",
        "to_normal_stats": "place",
        "aux_enc": "transparency",
        "object_enc": "background",
        "object_enc_sep.cnn": "glimpse_encoder",
        "object_enc_sep.fc": "appearance",
        "prior.enc": "proposer",
        "pointnet.conv": "messages",
        "pointnet.fc": "scatter",
        "pointnet.cnn": "enlarge",
        "dec": "decoder",
        "object_dec.fc": "glimpse_decoder_in",
        "object_dec.main": "glimpse_decoder",
    },
}


def settings(**changes: Any) -> Any:
    small = {"margin": 0, "warps": False, "perceptual": "pixels", "channels": (8, 16, 32)}
    return DLP.Settings.parse({**small, **changes}, "test")


class Transplant:
    """DLP with the weights of a reference model, in float64.

    Points turn from (row, column) to (x, y), so the numbers in which layers read or write points
    change places.
    """

    def __init__(self, folder: Path, kind: str, **changes: Any) -> None:
        self.kind = kind
        self.arrays = a = Vectors(folder / f"dlp_{kind}_model.npz")
        assert bool(a["meta/object"]) == (kind == "object")
        self.settings = settings(
            objects=kind == "object",
            channels=a["meta/enc_channels"].tolist(),
            background_in_chamfer=kind == "masked",
            k=int(a["meta/K"]),
            proposals=int(a["meta/Kp"]),
            patch=int(a["meta/patch"]),
            features=int(a["meta/d"]),
            glimpse=float(a["meta/anchor"]),
            prior_channels=a["meta/prior_channels"].tolist(),
            beta_kl=float(a["meta/beta_kl"]),
            kl_balance=float(a["meta/kl_balance"]),
            **changes,
        )
        self.method = DLP(self.settings, DataInfo(int(a["meta/size"]), 0)).double()
        self.method.background_logvar = LOGVAR
        theirs = a.below("param/")
        self.names: dict[str, str] = {}
        for prefix, module in MODULES[kind].items():
            whole = prefix if prefix.endswith("conv") else f"{prefix}."
            keys = [key for key in theirs if key.startswith(whole)]
            state = getattr(self.method, module).state_dict(prefix=f"{module}.")
            ours = [key for key in state if not key.endswith("num_batches_tracked")]
            assert len(keys) == len(ours), module
            self.names |= dict(zip(keys, ours, strict=True))
        copies = a.below("param/object_dec.decode.")
        for name in copies:  # of one module under two names
            same(a[f"param/object_dec.decode.{name}"], a[f"param/object_dec.main.{name}"], 0, 0)
        assert set(theirs) - {f"object_dec.decode.{name}" for name in copies} == set(self.names)
        state = {ours: self.turn(ours, tensor(a[f"param/{t}"])) for t, ours in self.names.items()}
        missing, unexpected = self.method.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(m.endswith(("num_batches_tracked", "epoch")) for m in missing)
        self.x, self.x_prior = tensor(a["x"]), tensor(a["x_prior"])

    def turn(self, name: str, value: Tensor) -> Tensor:
        """Return a weight with x and y in each other's place."""
        value = value.clone()
        if name.startswith("place.4"):
            return value.view(-1, 2, 2, *value.shape[1:]).flip(2).reshape(value.shape)
        if name == "appearance.0.weight" and self.kind == "masked":
            value[:, -2:] = value[:, -2:].flip(1)
        if name == "messages.0.first.weight":
            value[:, :2] = value[:, :2].flip(1)
        if name.startswith("messages") and name.endswith("first.weight"):
            value[:, -2:] = value[:, -2:].flip(1)
        return value

    def noise(self, noisy: bool = False) -> Noise:
        a = self.arrays
        position = tensor(a["noise/position"]).flip(-1)
        noise = Noise(position, tensor(a["noise/features"]))
        if not noisy:
            return noise
        return noise._replace(
            seen=tensor(a["noise/obj_on_encoder"]),
            shown=tensor(a["noise/obj_on_decoder"]),
            alpha=tensor(a["noise/alpha"]),
        )

    def silence(self) -> Noise:
        position, features = (self.arrays[f"noise/{n}"] for n in ("position", "features"))
        return Noise(torch.zeros(position.shape).double(), torch.zeros(features.shape).double())


PASSES = {
    "train": ("masked", "object"),
    "train_noisy": ("object",),
    "train_warmup": ("object",),
    "train_exclusive": ("object",),
}
CASES = [(kind, name) for name, kinds in PASSES.items() for kind in kinds]


def transplant(folder: Path, kind: str, name: str) -> tuple[Transplant, Noise]:
    """Return a model as the pass of that name had it, and its noise."""
    changes = {"exclusive": name == "train_exclusive", "warmup_epochs": 5}
    model = Transplant(folder, kind, **(changes if kind == "object" else {}))
    epochs = {"train": 25, "train_noisy": 5, "train_warmup": 0, "train_exclusive": 25}
    model.method.set_epoch(epochs[name])
    return model, model.noise(name in ("train_noisy", "train_warmup"))


def check_points(ours: Tensor, theirs: np.ndarray) -> None:
    """Compare proposals as sets, as their order is arbitrary where distances tie."""
    ours = ours.flip(-1)
    distance = (ours[:, :, None] - tensor(theirs)[:, None]).abs().amax(-1)
    assert distance.amin(1).max() < 1e-9
    assert distance.amin(2).max() < 1e-9


def check_values(model: Transplant, noise: Noise, name: str) -> None:
    a, method = model.arrays, model.method
    p = method.encode(model.x, noise)
    decoded = method.decode(p, noise)
    if f"{name}/kp_p" in a:
        check_points(method.propose(model.x_prior), a[f"{name}/kp_p"])
    made = {
        "mu": p.mu.flip(-1),
        "logvar": p.logvar.flip(-1),
        "mu_features": p.appearance,
        "logvar_features": p.appearance_logvar,
        "heatmap": p.maps,
        "gauss_maps": method.gaussians(p.z[:, :-1]),
        "pointnet_maps": method._particle_maps(p),
        "obj_on": p.on,
        "cropped_objects": p.glimpses,
        "dec_objects_rgba": decoded.patches,
        "dec_objects_composed": decoded.objects,
        "rec": decoded.images,
    }
    seen = {key.split("/", 1)[1] for key in a if key.startswith(f"{name}/")}
    if name == "train_warmup":
        made["rec"] = decoded.objects  # made without a background there
    for key in seen & set(made):
        same(made[key], a[f"{name}/{key}"])
    own = method.settings
    for which in ("head", "with_background"):
        changes = {"background_in_chamfer": which == "with_background"}
        method.settings = own.model_copy(update=changes)
        terms = method.terms(p, model.x_prior, decoded.images.sum())
        same(terms["kl_place"], a[f"{name}/kl_chamfer_{which}"])
    method.settings = own


@pytest.mark.parametrize("kind", ["masked", "object"])
def test_deterministic_values(oracles: Path, kind: str) -> None:
    model = Transplant(oracles, kind)
    model.method.eval()
    name, noise = "eval_deterministic", model.silence()
    with torch.no_grad():
        check_values(model, noise, name)
        check_loss(model.method.loss(model.x, model.x_prior, noise), model, name)


def check_loss(terms: dict[str, Tensor], model: Transplant, name: str) -> None:
    a, which = model.arrays, "with_background" if model.kind == "masked" else "head"
    same(terms["reconstruction"], a[f"{name}/loss_rec_mse"])
    same(terms["kl_place"], a[f"{name}/kl_chamfer_{which}"])
    same(terms["kl_appearance"], a[f"{name}/kl_feat"])
    same(terms["loss"], a[f"{name}/loss_total"])


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_training_values_and_gradients(oracles: Path, kind: str, name: str) -> None:
    model, noise = transplant(oracles, kind, name)
    with torch.no_grad():
        check_values(model, noise, name)
    model, noise = transplant(oracles, kind, name)
    terms = model.method.loss(model.x, model.x_prior, noise)
    check_loss(terms, model, name)
    terms["loss"].backward()
    parameters = dict(model.method.named_parameters())
    expected = model.arrays[f"{name}/grad_norm_sum_abs"]
    names = [model.names[str(n)] for n in model.arrays["grad_names"]]
    assert set(names) == set(parameters)
    actual = [
        [0.0] * 3 if (g := parameters[n].grad) is None else [g.norm(), g.sum(), g.abs().sum()]
        for n in names
    ]
    same(np.array(actual, float), expected, rtol=1e-8, atol=1e-8 * expected[:, 0].max())


@pytest.mark.parametrize("kind", ["masked", "object"])
def test_five_steps(oracles: Path, kind: str) -> None:
    """The losses of five steps and where they leave the BatchNorm statistics.

    Adam has the reference's betas and eps.
    """
    model = Transplant(oracles, kind)
    method, noise = model.method, model.noise()
    adam = method.optimizers()["all"]
    losses = []
    for _ in range(5):
        terms = method.loss(model.x, model.x_prior, noise)
        adam.zero_grad()
        terms["loss"].backward()
        adam.step()
        losses.append(terms["loss"].item())
    same(np.array(losses), model.arrays["train/loss_total_of_5_adam_steps_same_noise"], rtol=1e-6)
    prefix = "train/buffer_after/"
    buffers = model.arrays.below(prefix)
    assert buffers
    for name in buffers:
        own = model.names[name.replace("object_dec.decode.", "object_dec.main.")]
        same(method.get_buffer(own), model.arrays[prefix + name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("variant", "size", "changes", "parameters"),
    [
        ("k25", 160, {}, 6_603_944),
        ("k30", 160, {}, 7_475_304),
        ("k50", 160, {}, 10_935_613),
        ("shapes", 64, {}, 4_166_009),
        ("shapes", 64, {"k": 8, "features": 5}, 3_701_552),
        ("traffic", 128, {}, 6_998_025),
        ("traffic", 128, {"features": 10}, 6_989_665),
        ("clevrer", 128, {}, 5_800_885),
    ],
)
def test_parameter_counts(variant: str, size: int, changes: Any, parameters: int) -> None:
    values = DLP.Settings.parse({**DLP.VARIANTS[variant], **changes}, "test")
    method: nn.Module = DLP(values, DataInfo(size, 0))
    assert sum(p.numel() for p in method.parameters()) == parameters
