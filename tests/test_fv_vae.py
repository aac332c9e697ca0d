"""FV-VAE: its Fisher vector is the gradient, its training learns, and a stopped run resumes."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare_toy, tensor
from oracle_vectors import Vectors
from scipy.io import savemat
from torch import Tensor
from torch.optim import Adadelta

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.loader import to_float
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.integrity import read_record
from partbench.method import DataInfo
from partbench.methods.fv_vae import FVVAE
from partbench.model import load_model
from partbench.nn.activations import describe
from partbench.nn.perceptual import load as load_network
from partbench.released import load_released
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
RELEASED = "PARTBENCH_FV_VAE_WEIGHTS"
"""Environment variable: a folder with the authors' three files of weights."""


def build(variant: str = "demo", classes: int = 7, **changes: Any) -> FVVAE:
    """Return a method in eval mode."""
    torch.manual_seed(0)
    data = DataInfo(changes.pop("size", 32), classes)
    return FVVAE(methods.resolve(FVVAE, variant, changes, "test"), data).eval()


def spread(method: FVVAE) -> FVVAE:
    """Give a method biases and standard deviations that are not those of its start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in method.parameters():
            if p.ndim == 1:
                p.copy_(0.3 * torch.randn(p.shape))
    return method.double()


def negative_log_likelihood(x: Tensor, u: Tensor, sigma: Tensor) -> Tensor:
    """Return -log p(x | z) summed over everything, by torch's own distribution."""
    normal = torch.distributions.Normal(u, sigma)
    return -normal.log_prob(x).sum()


# The Fisher vector.


@pytest.mark.parametrize("layers", [1, 2])
def test_the_fisher_vector_is_the_gradient_by_the_decoder(layers: int) -> None:
    method = spread(build(encoder_layers=layers))
    x = torch.rand(3, 50, 64, dtype=torch.float64)
    found = method.fisher_vectors(x)
    for image, own in zip(x, found, strict=True):
        z = method.encoder(image).detach()
        u = method.decode(z)
        assert 0 < (u > 0).double().mean() < 1
        nll = negative_log_likelihood(image, u, method.log_sigma_x.exp().detach())
        weight, bias = torch.autograd.grad(nll, [method.decoder.weight, method.decoder.bias])
        expected = torch.cat([weight.T.flatten(), bias])
        torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-8)


def test_the_fisher_vector_is_the_sum_of_outer_products() -> None:
    method = spread(build())
    x = torch.rand(2, 50, 64, dtype=torch.float64)
    expected = torch.zeros(2, 33, 64, dtype=torch.float64)
    with torch.no_grad():
        for b, image in enumerate(x):
            for row in image:
                z = method.encoder(row)
                u = method.decoder(z)
                delta = (u.clamp(min=0) - row) / method.log_sigma_x.exp() ** 2
                delta[u <= 0] = 0
                expected[b] += torch.outer(torch.cat([z, z.new_ones(1)]), delta)
        torch.testing.assert_close(method.fisher_vectors(x), expected.flatten(1))
        frames = method.encode(x[None])
        torch.testing.assert_close(frames[0], expected.flatten(1).mean(0))


def test_vectors_of_the_paper_s_sizes() -> None:
    assert build("paper", size=224).norms.shape == (131_584,)
    assert build("res5c", size=224).norms.shape == (2048 * 257,)


# Numbers that the authors' formulas give.


@pytest.fixture
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "fv_vae.npz")


def of_vectors(vectors: Vectors, variant: str = "demo") -> FVVAE:
    """Return the method with the weights of the test vectors."""
    method = build(
        variant,
        encoder_layers=1,
        latent=16,
        classification=1e3,
        block_norm=float(vectors["norm_scale"]),
    ).double()
    method.channels = 32
    encoder, decoder = torch.nn.Linear(32, 16), torch.nn.Linear(16, 32)
    method.encoder, method.decoder = torch.nn.Sequential(encoder), decoder
    method.classifier = torch.nn.Linear(16, 7)
    method.log_sigma_x = torch.nn.Parameter(tensor(vectors["sigma_x"]).log())
    method.log_sigma_z = torch.nn.Parameter(tensor(vectors["sigma_z"]).log())
    method.double()
    with torch.no_grad():
        encoder.weight.copy_(tensor(vectors["enc_w"]).T)
        encoder.bias.copy_(tensor(vectors["enc_b"]))
        decoder.weight.copy_(tensor(vectors["dec_w"]))
        decoder.bias.copy_(tensor(vectors["dec_b"]))
        method.classifier.weight.copy_(tensor(vectors["cls_w"]).T)
        method.classifier.bias.copy_(tensor(vectors["cls_b"]))
    return method


def test_descriptors_and_fisher_vectors_of_the_test_vectors(vectors: Vectors) -> None:
    method = of_vectors(vectors)
    act = tensor(vectors["act"]).movedim(-1, -3)
    norm = method.settings.block_norm
    plain = describe(act[0], norm, pyramid=False).unflatten(1, (7, 7))
    torch.testing.assert_close(plain, tensor(vectors["act_normalised"]))
    x = describe(act.flatten(0, 1), norm, pyramid=True).unflatten(0, (5, 2))
    torch.testing.assert_close(x, tensor(vectors["x"]))
    with torch.no_grad():
        z = method.encoder(x)
        torch.testing.assert_close(z, tensor(vectors["z"]))
        torch.testing.assert_close(method.decode(z), tensor(vectors["u"]))
        frames = method.fisher_vectors(x.flatten(0, 1)).unflatten(0, (5, 2))
        same = {"rtol": 1e-10, "atol": 1e-12}
        torch.testing.assert_close(frames, tensor(vectors["fv_frame"]), **same)
        raw = method.encode(x)
    torch.testing.assert_close(raw, tensor(vectors["fv_raw"]), **same)


@pytest.mark.parametrize("norm", ["train", "all"])
def test_the_normalisation_of_the_test_vectors(vectors: Vectors, norm: str) -> None:
    """The training samples are the first three; the legacy form counts the others too."""
    method = of_vectors(vectors, "demo" if norm == "train" else "demo+legacy_norm")
    method.norms = torch.ones(544, dtype=torch.float64)
    x, n = tensor(vectors["x"]), int(vectors["n_train"])
    splits = {"train": x[:n], "test": x[n:]}
    method.by_frame = lambda images: images  # type: ignore[method-assign]

    def passes(split: str = "train") -> Iterator[Batch]:
        return (Batch(part, None) for part in splits[split].split(2))

    method.finish(passes)
    torch.testing.assert_close(method.norms, tensor(vectors[f"col_norm_{norm}"]))
    raw = tensor(vectors["fv_raw"])
    found = method.normalised(raw)
    key = "fv_train_norm" if norm == "train" else "fv_all"
    torch.testing.assert_close(found, tensor(vectors[key]), rtol=1e-10, atol=1e-12)
    if norm == "all":
        columns = tensor(vectors["fv_after_column"])
        torch.testing.assert_close(raw / method.norms, columns)
        roots = tensor(vectors["fv_after_sqrt"])
        torch.testing.assert_close(columns.sign() * columns.abs().sqrt(), roots)
        torch.testing.assert_close(found, roots / roots.norm(dim=1, keepdim=True))


def test_the_losses_of_the_test_vectors(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    method = of_vectors(vectors)
    noise = tensor(vectors["noise"])
    monkeypatch.setattr(torch, "randn_like", lambda like: noise.view_as(like))
    x = tensor(vectors["x"])[0, :1]
    label = torch.tensor([int(vectors["cls_label"])])
    terms = method.losses(x, label)
    torch.testing.assert_close(terms["reconstruction"], tensor(vectors["nll_per_descriptor"]).sum())
    constant = 50 * 32 * 0.5 * math.log(2 * math.pi)
    without = tensor(vectors["nll_per_descriptor_no_2pi"]).sum()
    torch.testing.assert_close(terms["reconstruction"] - constant, without)
    torch.testing.assert_close(terms["kl"], tensor(vectors["kl_per_descriptor"]).sum())
    torch.testing.assert_close(terms["classification"], tensor(vectors["cls_ce"]))
    torch.testing.assert_close(
        terms["loss"], terms["reconstruction"] + terms["kl"] + 1e3 * terms["classification"]
    )
    z = tensor(vectors["z_sampled"])
    torch.testing.assert_close(method.decode(z), tensor(vectors["u_sampled"]))
    assert method.classifier is not None
    torch.testing.assert_close(method.classifier(z).amax(0), tensor(vectors["cls_scores"]))

    (terms["reconstruction"] + terms["kl"]).backward()
    assert isinstance(method.encoder[0], torch.nn.Linear)
    gradients = {
        "enc_w": method.encoder[0].weight.grad.T,
        "enc_b": method.encoder[0].bias.grad,
        "dec_w": method.decoder.weight.grad,
        "dec_b": method.decoder.bias.grad,
        "log_sigma_x": method.log_sigma_x.grad,
        "log_sigma_z": method.log_sigma_z.grad,
    }
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, tensor(vectors[f"grad_{name}"]), rtol=1e-9, atol=1e-9)


# The authors' weights.


@pytest.mark.parametrize(
    ("split", "fisher", "total"),
    [(1, 6085.156086, -20113.93755), (2, 6312.717400, None), (3, 4958.143534, None)],
)
def test_the_released_weights(
    split: int, fisher: float, total: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if RELEASED not in os.environ:
        pytest.skip(f"the authors' weights are not at hand: {RELEASED} names no folder of them")
    file = tmp_path / FVVAE.RELEASED[f"split{split}"].file
    file.parent.mkdir(parents=True)
    file.symlink_to(Path(os.environ[RELEASED]).resolve() / file.name)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    method = build(f"split{split}+released", size=224)
    load_released(method)
    method.double()
    act = np.maximum(np.random.RandomState(7).randn(7, 7, 512), 0)
    x = describe(tensor(act).permute(2, 0, 1)[None], method.settings.block_norm, pyramid=True)
    assert x.norm().item() == pytest.approx(315.08820703)
    with torch.no_grad():
        z = method.encoder(x)
        u, vector = method.decode(z), method.fisher_vectors(x)
    assert vector.norm().item() == pytest.approx(fisher, rel=1e-7)
    if total is not None:
        assert z.norm().item() == pytest.approx(92.60617561, rel=1e-7)
        assert u.norm().item() == pytest.approx(224.85252665, rel=1e-7)
        assert (u > 0).double().mean().item() == 0.97734375
        assert vector.sum().item() == pytest.approx(total, rel=1e-6)


def layer(w: np.ndarray, b: np.ndarray, act: str) -> dict[str, Any]:
    """Return a layer as Caffe's MATLAB interface stores it."""
    return {"w": w[None, None].astype(np.float32), "b": b[:, None].astype(np.float32), "act": act}


def released(**changes: Any) -> dict[str, Any]:
    """Return the content of a file like the authors', with random weights."""
    draw = np.random.default_rng(0)
    content = {
        "norm_scale": np.float32(158),
        "encoder": layer(0.1 * draw.normal(size=(512, 256)), draw.normal(size=256), "Linear"),
        "decoder": layer(0.1 * draw.normal(size=(512, 256)), draw.normal(size=512), "ReLU"),
        "decoder_sigma": draw.uniform(0.5, 2, (512, 1)).astype(np.float32),
    }
    return content | changes


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))

    def write(content: Any, name: str = "caffe_vae_weights") -> Path:
        path = tmp_path / FVVAE.RELEASED["split2"].file
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {name: content})
        return path

    return write


def test_a_file_of_the_released_form_is_read(place: Any) -> None:
    """The numbers are those of the formulas, written with the arrays as they lie in the file."""
    content = released()
    place(content)
    method = build("split2+released", size=224)
    record = load_released(method)
    assert record["name"] == "fv_vae_split2"
    x = np.random.default_rng(1).random((1, 50, 512))
    enc, dec, sigma = content["encoder"], content["decoder"], content["decoder_sigma"].T
    z = x @ enc["w"][0, 0] + enc["b"].T
    u = z @ dec["w"][0, 0].T + dec["b"].T
    u = u * (u > 0)
    raw = ((u - x) / sigma**2 * (u > 0))[0].T @ np.hstack([z[0], np.ones((50, 1))])
    with torch.no_grad():
        found = method.double().fisher_vectors(tensor(x))[0]
    np.testing.assert_allclose(found, raw.T.flatten(), rtol=1e-4, atol=1e-3)


WRONG = {
    "shape": ({"decoder_sigma": np.ones((511, 1), np.float32)}, "decoder_sigma.* is 511, but"),
    "transposed": ({"encoder": layer(np.ones((256, 512)), np.ones(256), "Linear")}, "encoder.w"),
    "activation": ({"decoder": layer(np.ones((512, 256)), np.ones(512), "Tanh")}, "'Tanh'"),
    "scale": ({"norm_scale": np.float32(1)}, "norm_scale is 1.0, not 158"),
    "integers": ({"decoder_sigma": np.ones((512, 1), int)}, "decoder_sigma is int64"),
    "negative": ({"decoder_sigma": -np.ones((512, 1), np.float32)}, "not positive"),
    "infinite": ({"decoder_sigma": np.full((512, 1), np.inf, np.float32)}, "finite numbers"),
    "missing": ({"encoder": {"w": 1}}, "no field act"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_of_another_form_is_refused(case: str, place: Any) -> None:
    changes, message = WRONG[case]
    path = place(released(**changes))
    with pytest.raises(BadInput, match=message) as error:
        load_released(build("split2+released", size=224))
    assert str(path) in str(error.value)
    assert "partbench data check fv_vae_split2" in str(error.value)


def test_two_layers_a_damaged_file_and_no_file_are_refused(place: Any) -> None:
    two = np.zeros((1, 2), [("w", object), ("b", object), ("act", object)])
    method = build("split2+released", size=224)
    with pytest.raises(BadInput, match="missing"):
        load_released(method)
    path = place(released(encoder=two))
    with pytest.raises(BadInput, match="2 layers"):
        load_released(method)
    place(released(), "other")
    with pytest.raises(BadInput, match="not a MATLAB file with the released weights"):
        load_released(method)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadInput, match="not a MATLAB file"):
        load_released(method)


def test_a_released_run_needs_the_network_too() -> None:
    settings = methods.resolve(FVVAE, "split3+released", {}, "test")
    assert methods.needed_weights(FVVAE, settings) == ("fv_vae_split3", "vgg19")
    untrained = methods.resolve(FVVAE, "untrained", {}, "test")
    assert methods.needed_weights(FVVAE, untrained) == ("vgg19",)


# The training.


def test_the_training_is_the_paper_s() -> None:
    settings = methods.resolve(FVVAE, "paper", {}, "test")
    assert settings.batch_size == 128
    assert settings.epochs * settings.images_per_epoch // 128 == 5000
    birds = methods.resolve(FVVAE, "birds", {}, "test")
    assert birds.epochs * (5994 // 128) == pytest.approx(5000, abs=23)


def test_rates_of_adadelta() -> None:
    method = build("end_to_end", size=224, backbone="random", layer="stride4", window=None)
    rates = {}
    (optimizer,) = method.optimizers().values()
    assert isinstance(optimizer, Adadelta)
    names = {id(p): name for name, p in method.named_parameters()}
    for group in optimizer.param_groups:
        rates |= {names.pop(id(p)): group["lr"] for p in group["params"]}
    assert names == {}
    assert rates["decoder.weight"] == rates["network.layers.0.weight"] == 1
    assert rates["decoder.bias"] == rates["network.layers.0.bias"] == 2
    assert rates["log_sigma_x"] == rates["log_sigma_z"] == 10


def run(folder: Path, data: Path, variant: str = "demo", seed: int = 0, **changes: Any) -> FVVAE:
    """Train, and return the trained method."""
    settings = methods.resolve(FVVAE, variant, {"batch_size": 16} | changes, "test")
    train(Run("fv_vae", variant, "toy", seed), settings, CPU, data, folder)
    method: Any = load_model(folder / "model.pt", "cpu")[1]
    return method


def images_of(data: Path, split: str) -> Tensor:
    return to_float(torch.from_numpy(np.array(Prepared(data).split(split).images)))


def test_it_learns(tiny: Path, tmp_path: Path) -> None:
    """The likelihood of unseen images rises, and so does the accuracy on the training images."""
    before, after = (
        run(tmp_path / str(epochs), tiny, epochs=epochs, images_per_epoch=64, flip=False)
        for epochs in (0, 30)
    )
    labels = torch.from_numpy(np.array(Prepared(tiny).split("train").annotation("labels")))
    terms = []
    for method in (before, after):
        with torch.no_grad():
            torch.manual_seed(0)
            unseen = method.losses(method.descriptors(images_of(tiny, "test")), labels[:32])
            known = method.losses(method.descriptors(images_of(tiny, "train")), labels)
        terms.append((unseen["reconstruction"] + unseen["kl"], known["classification"]))
    assert terms[1][0] < 0.9 * terms[0][0]
    assert terms[1][1] < terms[0][1] - 0.1


def test_the_norms_are_those_of_the_training_data_alone(tiny: Path, tmp_path: Path) -> None:
    method = run(tmp_path / "run", tiny, epochs=1)
    legacy = run(tmp_path / "legacy", tiny, "demo+legacy_norm", epochs=1)
    assert torch.equal(method.decoder.weight, legacy.decoder.weight)
    with torch.no_grad():
        raw = {n: method.encode(method.by_frame(images_of(tiny, n))) for n in ("train", "test")}
    torch.testing.assert_close(method.norms, raw["train"].norm(dim=0), rtol=1e-4, atol=1e-5)
    everything = torch.cat(list(raw.values()))
    torch.testing.assert_close(legacy.norms, everything.norm(dim=0), rtol=1e-4, atol=1e-5)


def test_a_number_that_no_training_sample_has_tells_nothing() -> None:
    """Divided by next to nothing, it would drown the rest of a test sample's vector."""
    method = build()
    method.norms = torch.ones_like(method.norms)
    method.norms[3] = 0
    seen = torch.zeros(1, len(method.norms))
    seen[0, :3] = torch.tensor([1.0, -4.0, 9.0])
    unseen = seen.clone()
    unseen[0, 3] = 0.5
    torch.testing.assert_close(method.normalised(unseen), method.normalised(seen))


def test_the_network_of_released_weights_is_not_trained_on() -> None:
    with pytest.raises(BadInput, match="hold no network of local activations"):
        methods.resolve(FVVAE, "split1+released", {"end_to_end": True}, "here")


def test_stopped_after_the_last_step_and_resumed_is_uninterrupted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", tiny, epochs=2)
    finish = FVVAE.finish

    def interrupted(self: FVVAE, passes: Any) -> None:
        def stopping(*split: str) -> Iterator[Batch]:
            for i, batch in enumerate(passes(*split)):
                yield batch
                if i == 1:
                    os.kill(os.getpid(), 15)

        finish(self, stopping)

    monkeypatch.setattr(FVVAE, "finish", interrupted)
    with pytest.raises(Stopped, match="after the last step"):
        run(tmp_path / "stopped", tiny, epochs=2)
    assert not (tmp_path / "stopped" / "model.pt").exists()
    monkeypatch.setattr(FVVAE, "finish", finish)
    steps: list[int] = []
    monkeypatch.setattr(FVVAE, "after_step", lambda self, step: steps.append(step))
    resumed = run(tmp_path / "stopped", tiny, epochs=2)
    assert steps == []
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert read_record(tmp_path / "stopped" / "train.json")["steps"] == 8


def test_end_to_end_trains_the_network_from_its_weights(tiny: Path, tmp_path: Path) -> None:
    frozen = load_network("random").state_dict()
    begun = run(tmp_path / "0", tiny, "demo+end_to_end", epochs=0)
    ended = run(tmp_path / "1", tiny, "demo+end_to_end", epochs=1)
    assert begun.network is not None
    assert ended.network is not None
    states = (network.layers.state_dict() for network in (begun.network, ended.network))
    for (name, value), start, new in zip(
        frozen.items(), *(state.values() for state in states), strict=True
    ):
        assert torch.equal(value, start)
        if name.endswith("weight"):
            assert (value - new).abs().max() > 1e-4
    x = ended.by_frame(images_of(tiny, "test")[:2])
    with torch.no_grad():
        maps = ended.network(images_of(tiny, "test")[:2])
    torch.testing.assert_close(x.flatten(0, 1), describe(maps, 64.0, pyramid=True))


def test_without_classification_no_label_counts(tiny: Path, tmp_path: Path) -> None:
    method = run(tmp_path / "run", tiny, "demo+no_classification", epochs=1)
    assert method.classifier is None
    assert "all/classification" not in read_record(tmp_path / "run" / "train.json")["final"]


def test_a_variance_that_underflows_is_refused(tiny: Path, tmp_path: Path) -> None:
    method = build()
    with torch.no_grad():
        method.log_sigma_x[5] = -8
    with pytest.raises(BadInput, match=r"variance of activation 5 of random fell to 1\.13e-07"):
        method.begin_epoch(3)
    with torch.no_grad():
        method.log_sigma_x[:6] = torch.nan
    with pytest.raises(BadInput, match=r"activation 0 and 5 more"):
        method.finish(lambda: iter(()))


def test_a_class_without_training_samples_is_refused(tmp_path: Path) -> None:
    data = prepare_toy(tmp_path / "data", kind="clips", frames=2, train=3, val=1, test=10)
    with pytest.raises(BadInput, match="'spin' and 1 more classes of the split 'test'"):
        run(tmp_path / "run", data, batch_size=2)
