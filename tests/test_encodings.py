"""Encodings of local activations against slow versions, other libraries and known limits."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy
from hypothesis import given, settings, strategies
from skimage.feature import fisher_vector
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.encoding import Encoding
from partbench.errors import BadInput
from partbench.extract import extract
from partbench.method import DataInfo
from partbench.model import load_model
from partbench.nn import gmm
from partbench.nn.activations import (
    ActivationSettings,
    Backbone,
    build,
    channels_of,
    cut_window,
    describe,
    load,
)
from partbench.nn.pca import principal_components
from partbench.nn.sample import sample_rows
from partbench.outputs import descriptors, features
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
ENCODINGS = ("compact_bilinear", "fisher_vectors", "fv_vae", "pooling", "vlad")


def encoding(name: str, size: int = 32, variant: str = "demo", **changes: Any) -> Any:
    """Return an encoding before it is fitted, in eval mode."""
    torch.manual_seed(0)
    cls = methods.load(name)
    return cls(methods.resolve(cls, variant, changes, "test"), DataInfo(size, 3)).eval()


def passes_over(images: Tensor, labels: Tensor | None = None, size: int = 8) -> Callable[..., Any]:
    def passes(split: str = "train") -> Iterator[Batch]:
        return (Batch(part, labels) for part in images.split(size))

    return passes


def pictures(n: int, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    fine = torch.rand(n, 3, size, size, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (size, size)) + fine) / 2


def cloud(n: int, c: int, seed: int = 0) -> Tensor:
    """Return n correlated points of c numbers, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(c, c, generator=generator, dtype=torch.float64)
    centres = 3 * torch.randn(4, c, generator=generator, dtype=torch.float64)
    points = torch.randn(n, c, generator=generator, dtype=torch.float64) @ mix
    return points + centres[torch.randint(4, (n,), generator=generator)]


# Local activations.


def test_the_pyramid_of_7_x_7_cells_is_the_paper_s() -> None:
    maps = torch.rand(2, 5, 7, 7)
    windows = [(2, 1), (3, 2), (4, 3), (7, 1)]
    pooled = [nn.functional.max_pool2d(maps, k, s).flatten(2) for k, s in windows]
    expected = torch.cat(pooled, 2).transpose(1, 2)
    assert expected.shape == (2, 50, 5)
    assert torch.equal(describe(maps, None, pyramid=True), expected)


@given(
    shape=strategies.tuples(*3 * [strategies.integers(1, 12)]),
    norm=strategies.floats(0.1, 200),
    pyramid=strategies.booleans(),
)
@settings(max_examples=30)
def test_descriptors_do_not_depend_on_the_scale_of_the_activations(
    shape: tuple[int, int, int], norm: float, pyramid: bool
) -> None:
    maps = torch.rand(2, *shape, dtype=torch.float64) + 0.1
    found = describe(maps, norm, pyramid)
    assert found.shape == (2, 50 if pyramid else shape[1] * shape[2], shape[0])
    torch.testing.assert_close(describe(7 * maps, norm, pyramid), found)
    if not pyramid:
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.full((2,), norm).double())


def test_activations_that_are_all_zero_stay_zero() -> None:
    assert not describe(torch.zeros(1, 4, 7, 7), 158.0, pyramid=True).any()


def test_birds_have_784_descriptors_of_512_numbers() -> None:
    method = encoding("fv_vae", 448, "birds").to("meta")
    assert method.descriptors(torch.zeros(1, 3, 448, 448, device="meta")).shape == (1, 784, 512)


def test_the_layers_of_networks_known_by_name() -> None:
    shapes = {("vgg19", "pool5"): (512, 7), ("vgg19", "conv5_4"): (512, 14),
              ("resnet152", "res5c"): (2048, 7), ("mobilenet", "stride32"): (256, 7)}  # fmt: skip
    for (backbone, layer), (channels, side) in shapes.items():
        s = ActivationSettings(backbone=backbone, layer=layer)
        with torch.device("meta"):
            maps = build(s)(torch.zeros(1, 3, 224, 224))
        assert maps.shape == (1, channels, side, side)
        assert channels_of(s) == channels


@pytest.mark.parametrize(
    ("name", "channels"), [("vit_tiny_patch16_224", 192), ("convnext_atto", 320)]
)
def test_networks_of_timm(name: str, channels: int, tmp_path: Path, monkeypatch: Any) -> None:
    """A transformer resizes images to its own side; random weights are the same every time."""
    s = ActivationSettings(backbone=f"timm:{name}", layer="last")
    image = torch.rand(1, 3, 64, 64)
    before = torch.random.get_rng_state()
    one = Backbone(s)(image)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.shape[1] == channels_of(s) == channels
    assert torch.equal(one, Backbone(s)(image))

    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    import timm

    torch.manual_seed(5)
    network = timm.create_model(name, pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    read = ActivationSettings(
        backbone=f"timm:{name}", layer="last", weights_file="weights.pth", pretrained_on="a test"
    )
    about = network.pretrained_cfg
    side = about["input_size"][-1] if about.get("fixed_input_size") else 64
    small = nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network.forward_features((small - mean) / std)
    if expected.ndim == 3:
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    torch.testing.assert_close(Backbone(read)(image), expected)

    torch.save({"blocks.0.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(BadInput, match=r"weights\.pth does not hold the weights of timm:.*alone"):
        load(read)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg91"}, "no backbone 'vgg91'; did you mean 'vgg19'"),
        ({"layer": "pool6"}, "vgg19 has no layer 'pool6'; did you mean 'pool5'"),
        ({"backbone": "timm:resnet19", "layer": "last"}, "no network 'resnet19'; did you mean"),
        ({"backbone": "timm:resnet18"}, "has no layer 'pool5'"),
        (
            {"backbone": "timm:resnet18", "layer": "last", "weights_file": "a.pth"},
            "`weights_file` and `pretrained_on` belong together",
        ),
        ({"pretrained_on": "no labels"}, "those of vgg19 are known"),
    ],
)
def test_a_network_that_there_is_not(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ActivationSettings.parse(changes, "test")


def test_what_a_network_was_trained_on_is_said() -> None:
    cls = methods.load("pooling")
    on = {v: cls.pretrained_on(methods.resolve(cls, v, {}, "test")) for v in ("paper", "demo")}
    assert on == {"paper": "ImageNet labels", "demo": "nothing"}
    own = {"backbone": "timm:resnet18", "layer": "last", "weights_file": "a", "pretrained_on": "us"}
    assert cls.pretrained_on(methods.resolve(cls, "paper", own, "test")) == "us"
    assert methods.needed_weights(cls, methods.resolve(cls, "res5c", {}, "test")) == ("resnet152",)


def test_a_missing_file_of_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    for backbone, layer in (("vgg19", "pool5"), ("resnet152", "res5c")):
        with pytest.raises(BadInput, match=rf"weights/{backbone}.*missing"):
            load(ActivationSettings(backbone=backbone, layer=layer))


def test_windows_are_cut_from_everywhere_in_training_and_else_from_the_middle() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert cut_window(image, 4, at_random=False)[0, 0, 0, 0] == image[0, 0, 2, 2]
    torch.manual_seed(0)
    corners = cut_window(image.expand(400, -1, -1, -1), 4, at_random=True)[:, 0, 0, 0]
    assert set(corners.tolist()) == {8.0 * y + x for y in range(5) for x in range(5)}
    assert cut_window(image, None, at_random=True) is image
    wide = torch.arange(32.0).view(1, 1, 4, 8)
    assert cut_window(wide, 4, at_random=False)[0, 0, 0].tolist() == [2, 3, 4, 5]
    corners = cut_window(wide.expand(400, -1, -1, -1), 4, at_random=True)[:, 0, 0, 0]
    assert set(corners.tolist()) == {0, 1, 2, 3, 4}
    with pytest.raises(BadInput, match="32 px, and `window` cuts out 224"):
        encoding("pooling", window=224)


# Parts of the encodings.


@pytest.mark.parametrize("n", [40, 8])
def test_principal_components_are_scikit_learn_s(n: int) -> None:
    rows = cloud(n, 12, seed=3).numpy()
    found = principal_components(rows, 5, "rows")
    reference = PCA(5, svd_solver="full").fit(rows)
    np.testing.assert_allclose(found.mean, reference.mean_)
    np.testing.assert_allclose(found.variances, reference.explained_variance_ * (n - 1) / n)
    signs = np.sign((found.directions * reference.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(found.directions, signs * reference.components_, atol=1e-9)


def test_more_components_than_directions_are_refused() -> None:
    flat = cloud(50, 3).numpy() @ np.ones((3, 6))
    with pytest.raises(BadInput, match="50 rows vary in 1 directions only"):
        principal_components(flat, 2, "rows")


def sample_of_all(rows: Tensor, size: int, n: int) -> Tensor:
    """Return what `sample_rows` draws, from all rows at once."""
    kept, numbers, limit = rows[:0], torch.empty(0), math.inf
    for block in rows.split(size):
        drawn = torch.rand(len(block))
        low = drawn <= limit
        kept, numbers = torch.cat([kept, block[low]]), torch.cat([numbers, drawn[low]])
        if len(kept) > 2 * n:
            numbers, places = numbers.topk(n, largest=False)
            kept, limit = kept[places], numbers[-1].item()
    if len(kept) > n:
        kept = kept[numbers.topk(n, largest=False).indices]
    return kept


@pytest.mark.parametrize("levels", [2**24, 30])
@pytest.mark.parametrize(("size", "n"), [(1, 7), (70, 50), (70, 300), (999, 50), (70, 1000)])
def test_a_sample_is_of_the_rows_with_the_lowest_numbers(
    size: int, n: int, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rows are given up meanwhile, and however many have the same number."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda m: (rand(m) * levels).floor() / levels)
    rows = torch.arange(3000.0).view(-1, 3)
    torch.manual_seed(3)
    expected = sample_of_all(rows, size, n)
    torch.manual_seed(3)
    assert torch.equal(sample_rows(iter(rows.split(size)), n), expected)


def test_a_sample_has_room_for_its_rows_alone() -> None:
    drawn = sample_rows(torch.rand(50_000, 4).split(100), 1000)
    assert drawn.shape == (1000, 4)
    assert drawn.untyped_storage().nbytes() < 1.1 * drawn.nbytes


def test_a_sample_is_uniform_and_whole_where_it_can_be() -> None:
    rows = torch.arange(1000.0).view(-1, 1)
    assert torch.equal(sample_rows(rows.split(70), 2000), rows)
    torch.manual_seed(0)
    drawn = torch.cat([sample_rows(rows.split(70), 50) for _ in range(60)])
    assert all(len(sample_rows(rows.split(size), 50).unique()) == 50 for size in (3, 70, 999))
    counts = torch.histc(drawn, 10, 0, 1000)  # 300 each, SD 16
    assert (counts - 300).abs().max() < 65


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_mixture_is_scikit_learn_s() -> None:
    x = cloud(600, 5)
    start = x[[0, 100, 200, 300]]
    hard = nn.functional.one_hot(torch.cdist(x, start).argmin(1)).double()
    begun = gmm._maximise(iter([(x, hard)]), len(x))
    for updates in (1, 7):
        ours = gmm.fit(x, start, updates, tolerance=0)
        theirs = GaussianMixture(
            4,
            covariance_type="diag",
            max_iter=updates,
            tol=0,
            reg_covar=gmm.FLOOR,
            weights_init=begun.weights.numpy(),
            means_init=begun.means.numpy(),
            precisions_init=1 / begun.variances.numpy(),
        ).fit(x.numpy())
        np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=1e-9)
        np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-8)
        np.testing.assert_allclose(ours.variances, theirs.covariances_, rtol=1e-8)
        log_likelihood = gmm.log_densities(x, ours).logsumexp(1)
        np.testing.assert_allclose(log_likelihood, theirs.score_samples(x.numpy()), rtol=1e-8)


def test_fisher_vectors_of_a_mixture_are_scikit_image_s() -> None:
    x = cloud(400, 5)
    mixture = gmm.fit(x, x[[0, 100, 200, 300]], 20)
    reference = GaussianMixture(4, covariance_type="diag")
    reference.weights_, reference.means_, reference.covariances_ = (v.numpy() for v in mixture)
    reference.precisions_cholesky_ = 1 / np.sqrt(reference.covariances_)
    images = [x[:50], x[50:100]]
    ours = gmm.fisher_vectors(torch.stack(images), mixture)
    for image, own in zip(images, ours, strict=True):
        # Its vectors begin with the gradient by the weights; that by the SDs has the other sign.
        theirs = fisher_vector(image.numpy(), reference, improved=False)[4:]
        theirs[20:] *= -1
        np.testing.assert_allclose(own, theirs, rtol=1e-7, atol=1e-10)


def test_fisher_vectors_of_a_mixture_are_the_gradient() -> None:
    x = cloud(60, 3)
    mixture = gmm.fit(x, x[[0, 20]], 20)
    means, sds = mixture.means.requires_grad_(), mixture.variances.sqrt().requires_grad_()
    of_sds = mixture._replace(means=means, variances=sds.square())
    likelihood = gmm.log_densities(x, of_sds).logsumexp(1).mean()
    by_mean, by_sd = torch.autograd.grad(likelihood, [means, sds])
    weights = mixture.weights[:, None]
    expected = [by_mean * sds / weights.sqrt(), by_sd * sds / (2 * weights).sqrt()]
    with torch.no_grad():
        found = gmm.fisher_vectors(x[None], mixture)[0]
        torch.testing.assert_close(found, torch.cat([e.flatten() for e in expected]))


def test_fisher_vectors_of_what_the_mixture_describes_are_zero() -> None:
    x = cloud(5000, 3)
    mixture = gmm.fit(x, x[[0, 1000]], 200, tolerance=0)
    assert gmm.fisher_vectors(x[None], mixture).abs().max() < 1e-4


def test_constant_numbers_leave_no_variance_below_the_floor() -> None:
    x = torch.cat([cloud(100, 3), torch.ones(100, 1, dtype=torch.float64)], 1)
    fitted = gmm.fit(x, x[:3], 10)
    assert fitted.variances.min() >= gmm.FLOOR
    assert all(v.isfinite().all() for v in fitted)


# Each encoding against its definition.


def test_vlad_is_the_sum_of_differences() -> None:
    method = encoding("vlad", centres=4).double()
    method.centres.copy_(cloud(4, 64, seed=1))
    x = cloud(30, 64, seed=2).view(2, 3, 5, 64)
    expected = torch.zeros(2, 4, 64, dtype=torch.float64)
    for b, row in itertools.product(range(2), range(15)):
        descriptor = x[b].flatten(0, 1)[row]
        nearest = int((descriptor - method.centres).square().sum(1).argmin())
        expected[b, nearest] += descriptor - method.centres[nearest]
    torch.testing.assert_close(method.encode(x), expected.flatten(1))


def test_a_tensor_sketch_is_the_count_sketch_of_the_outer_product() -> None:
    method = encoding("compact_bilinear", dimensions=37).double()
    x = cloud(6, 64).view(1, 2, 3, 64)
    places = (method.places[0][:, None] + method.places[1]) % 37
    signs = method.signs[0][:, None] * method.signs[1]
    outer = torch.einsum("btmi,btmj->ij", x, x)
    expected = torch.zeros(37, dtype=torch.float64)
    expected.index_add_(0, places.flatten(), (signs * outer).flatten())
    torch.testing.assert_close(method.encode(x)[0], expected)


@pytest.mark.parametrize("form", ["tensor_sketch", "maclaurin"])
def test_dot_products_of_compact_forms_are_those_of_the_full_one_on_average(form: str) -> None:
    pair = torch.randn(2, 1, 1, 64, generator=torch.Generator().manual_seed(1))
    pair[1] += pair[0]
    whole = encoding("compact_bilinear", form="full").encode(pair)
    expected = (pair[0].flatten() @ pair[1].flatten()).square()
    torch.testing.assert_close(whole[0] @ whole[1], expected)
    cls = methods.load("compact_bilinear")
    drawn = methods.resolve(cls, "demo", {"form": form, "dimensions": 4096}, "test")
    products = []
    for seed in range(40):
        torch.manual_seed(seed)
        one, two = cls(drawn, DataInfo(32, 3)).encode(pair)  # type: ignore[operator]
        products.append((one @ two).item())
    mean, error = np.mean(products), np.std(products, ddof=1) / len(products) ** 0.5
    assert abs(mean - expected.item()) < 4 * error
    assert error < 0.05 * expected


def test_pooling() -> None:
    x = torch.rand(2, 3, 4, 64)
    assert torch.equal(encoding("pooling").encode(x), x.flatten(1, 2).mean(1))
    maximal = encoding("pooling", pool="max")
    assert torch.equal(maximal.encode(x), x.flatten(1, 2).amax(1))
    images = pictures(2)
    maps = maximal.backbone(images)
    expected = nn.functional.normalize(maps.amax((2, 3)))
    torch.testing.assert_close(maximal.features(images), expected)


# What all of them have in common.


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prepared clips: 20 training and 10 test clips of 3 frames."""
    folder = tmp_path_factory.mktemp("clips")
    return prepare_toy(folder, kind="clips", frames=3, train=20, val=1, test=10)


def trained(name: str, data: Path, out: Path, **changes: Any) -> Any:
    """Train an encoding and return it with its features on the test split."""
    small: dict[str, Any] = {"batch_size": 8}
    small |= {"epochs": 2} if name == "fv_vae" else {}
    cls = methods.load(name)
    setting = methods.resolve(cls, "demo", small | changes, "test")
    train(Run(name, "demo", "toy", 0), setting, CPU, data, out)
    extract(out / "model.pt", data, ["features", "descriptors"], out / "o", out / "p", "cpu", 1)
    n = len(Prepared(data).split("test"))
    return load_model(out / "model.pt", "cpu")[1], features.read(out / "o", "test", n)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_clip_has_the_descriptors_of_all_its_frames(
    name: str, clips: Path, tmp_path: Path
) -> None:
    method, found = trained(name, clips, tmp_path)
    assert isinstance(method, Encoding)
    films = to_float(torch.from_numpy(np.array(Prepared(clips).split("test").images)))
    with torch.inference_mode():
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        torch.testing.assert_close(method.features(films), torch.from_numpy(np.array(found)))
        # Frames in another order, or each twice, make the same vector; one frame another.
        same = {"rtol": 1e-3, "atol": 1e-4}  # the square root widens rounding next to 0
        torch.testing.assert_close(method.features(films.flip(1)), method.features(films), **same)
        doubled = torch.cat([films, films], 1)
        torch.testing.assert_close(method.features(doubled), method.features(films), **same)
        first = method.features(films[:, 0])
        torch.testing.assert_close(first, method.features(films[:, :1]))
        assert (first - method.features(films)).abs().max() > 1e-3

        written = descriptors.read(tmp_path / "o", "test", len(films))
        each = torch.cat([method.descriptors(films[:, t]) for t in range(3)], 1)
        torch.testing.assert_close(torch.from_numpy(np.array(written)), each)


def test_ten_views_of_a_frame_are_frames_of_their_own() -> None:
    one, ten = (encoding("pooling", window=16, views=views) for views in (1, 10))
    films = torch.rand(2, 3, 3, 24, 32)
    places = [(y, x) for y in (0, 8) for x in (0, 16)] + [(4, 8)]
    views = [
        mirrored[..., y : y + 16, x : x + 16]
        for mirrored in (films, films.flip(-1))
        for y, x in places
    ]
    with torch.inference_mode():
        each = one.by_frame(torch.stack(views, 2).flatten(1, 2))
        torch.testing.assert_close(ten.by_frame(films), each)
        assert not torch.equal(each[:, 0], one.by_frame(films)[:, 0])
        assert ten.train().by_frame(films).shape[1] == 3
    with pytest.raises(BadInput, match="no `window` says"):
        encoding("pooling", views=10)


@pytest.mark.parametrize("name", ENCODINGS)
def test_images_are_read_too(name: str, tiny: Path, tmp_path: Path) -> None:
    _, found = trained(name, tiny, tmp_path)
    assert found.std(0).max() > 1e-3


def test_a_step_sees_one_frame_of_each_clip(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from partbench.data.loader import Loader, Schedule

    split = Prepared(clips).split("train")
    about = methods.resolve(
        methods.load("fv_vae"), "demo", {"batch_size": 10, "epochs": 30, "flip": False}, "test"
    )
    schedule = Schedule(len(split), about, 0)
    cpu = torch.device("cpu")
    loader = Loader(split, schedule, cpu, "labels", one_frame=True)
    films = to_float(torch.from_numpy(np.array(split.images)))
    seen: dict[int, set[int]] = {i: set() for i in range(len(films))}
    for step, batch in enumerate(loader.batches()):
        for index, label, image in zip(
            schedule.indices(step), batch.labels, batch.images, strict=True
        ):
            same = (films[index] == image).all((1, 2, 3))
            assert same.sum() == 1
            assert label == split.annotation("labels")[index]
            seen[index].add(int(same.nonzero()))
    assert all(frames == {0, 1, 2} for frames in seen.values())
    again = list(loader.batches(7))
    assert torch.equal(again[0].images, list(loader.batches())[7].images)
    whole = torch.cat([batch.images for batch in loader.ordered()])
    assert torch.equal(whole, films)
    assert max(len(batch.images) for batch in loader.ordered()) == 3


def test_compression_keeps_the_directions_of_greatest_variance(tiny: Path, tmp_path: Path) -> None:
    whole, _ = trained("vlad", tiny, tmp_path / "whole")
    method, found = trained("vlad", tiny, tmp_path / "short", compressed=5)
    split = Prepared(tiny).split
    train_images, images = (
        to_float(torch.from_numpy(np.array(split(name).images))) for name in ("train", "test")
    )
    with torch.inference_mode():
        reference = PCA(5, svd_solver="full").fit(whole.features(train_images).numpy())
        expected = reference.transform(whole.features(images).numpy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign((method.directions.numpy() * reference.components_).sum(1))
    np.testing.assert_allclose(found, expected * signs, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vlad", {"centres": 3001}, "3001 centres"),
        ("fisher_vectors", {"gaussians": 3001}, "3001 centres"),
        ("fisher_vectors", {"components": 65}, "64 numbers, so they have no 65 principal"),
        ("pooling", {"compressed": 20}, "20 training vectors vary in .* no 20 principal"),
    ],
)
def test_too_little_data(
    name: str, changes: dict[str, Any], message: str, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        trained(name, clips, tmp_path, **changes)


@pytest.mark.parametrize("name", ENCODINGS)
def test_activations_that_are_not_finite_are_refused(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Backbone, images: Tensor) -> Tensor:
        maps = torch.rand(len(images), 64, 7, 7)
        maps[0, 0, 0, 0] = torch.nan
        return maps

    monkeypatch.setattr(Backbone, "__call__", broken)
    with pytest.raises(BadInput, match="activations of random are not finite"):
        trained(name, tiny, tmp_path)


def test_reading_descriptors_of_another_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "test.descriptors.npy", np.zeros((3, 4)))
    with pytest.raises(BadInput):
        descriptors.read(tmp_path, "test", 3)
