"""PatchVAE and VAE against numbers that the authors' code computed (float64, same noise).

The whole set lies in ../shared/oracles; `reference/patchvae.npz` is a small part of it, so that
the terms of the loss are tested where that folder is absent. Their README says what each is.
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

from partbench.data.batch import Batch
from partbench.data.loader import Schedule
from partbench.method import DataInfo, resolve
from partbench.methods.patchvae import Latent, PatchVAE, anneal, sample_latent
from partbench.methods.vae import VAE, Posterior
from partbench.nn.elbo import (
    edge_weights,
    kl_bernoulli,
    kl_categorical,
    kl_from_var,
    squared_error,
)

Arrays = Mapping[str, np.ndarray]

REFERENCE = Path(__file__).parent / "reference" / "patchvae.npz"
DATA = DataInfo(size=32, classes=10)
PATCHVAE_MODULES = {
    "features": "encoder",
    "app_mu.0": "app_mu",
    "app_logvar.0": "app_logvar",
    "vis_mean_logit.0": "occ_logit",
    "decoder.input-conv": "decoder.0",
    "decoder.input-batchnorm": "decoder.1",
    "decoder.pyramid-64-32-conv": "decoder.3",
    "decoder.pyramid-32-batchnorm": "decoder.4",
    "decoder.pyramid-32-16-conv": "decoder.6",
    "decoder.pyramid-16-batchnorm": "decoder.7",
    "decoder.ouput-conv": "decoder.9",
}
VAE_MODULES = {
    "features": "encoder",
    "reduce": "reduce",
    "app_mu.0": "mu",
    "app_logvar.0": "logvar",
    "decoder.3.input-conv": "decoder.3.0",
    "decoder.3.input-batchnorm": "decoder.3.1",
    "decoder.3.pyramid-128-64-conv": "decoder.3.3",
    "decoder.3.pyramid-64-batchnorm": "decoder.3.4",
    "decoder.3.ouput-conv": "decoder.3.6",
    "decoder": "decoder",
}


def same(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    actual = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def leaf(array: Any) -> Tensor:
    return tensor(array).requires_grad_()


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Arrays:
    return Vectors(oracles / "patchvae.npz")


@pytest.fixture(scope="module")
def small() -> Arrays:
    return np.load(REFERENCE)


# The terms of the loss.


def check_kl_from_var(arrays: Arrays) -> None:
    mu, var = leaf(arrays["kl_app/mu"]), leaf(arrays["kl_app/var"])
    value = kl_from_var(mu, var)
    value.backward()
    same(value, arrays["kl_app/value"])
    same(mu.grad, arrays["kl_app/grad_mu"])
    same(var.grad, arrays["kl_app/grad_var"])


def check_kl_bernoulli(arrays: Arrays, prior: str) -> None:
    q = leaf(arrays["kl_occ/q"])
    value = kl_bernoulli(q, float(arrays[f"kl_occ/py_{prior}"]))
    value.backward()
    same(value, arrays[f"kl_occ/value_py_{prior}"])
    same(q.grad, arrays[f"kl_occ/grad_q_py_{prior}"])


def check_kl_categorical(arrays: Arrays) -> None:
    q = leaf(arrays["kl_occ_categorical/q"])
    value = kl_categorical(q, 1 / q.shape[1])
    value.backward()
    same(value, arrays["kl_occ_categorical/value"])
    same(q.grad, arrays["kl_occ_categorical/grad_q"])


def test_kl_of_the_appearance(vectors: Arrays) -> None:
    check_kl_from_var(vectors)


@pytest.mark.parametrize("prior", ["1overP", "half"])
def test_kl_of_the_occurrence(vectors: Arrays, prior: str) -> None:
    check_kl_bernoulli(vectors, prior)


def test_kl_of_exclusive_parts(vectors: Arrays) -> None:
    check_kl_categorical(vectors)


@pytest.mark.parametrize("weights", ["", "_scale", "_scale2"])
def test_squared_error_plain_and_weighted(vectors: Arrays, weights: str) -> None:
    x, output = tensor(vectors["recon/x"]), leaf(vectors["recon/xhat"])
    name = f"recon/weighted_sse{weights}" if weights else "recon/sse"
    value = squared_error(x, output, edge_weights(x, block(vectors, weights)) if weights else None)
    value.backward()
    same(value, vectors[name])
    same(output.grad, vectors[f"{name}_grad_xhat"])


def block(arrays: Arrays, scale: str) -> int:
    return int(arrays["meta/B_H_W_P_L_scale_scale2"][{"_scale": 5, "_scale2": 6}[scale]])


@pytest.mark.parametrize("scale", ["_scale", "_scale2"])
def test_edge_weights(vectors: Arrays, scale: str) -> None:
    x = leaf(vectors["recon/x"])
    weights = edge_weights(x, block(vectors, scale))
    assert not weights.requires_grad
    same(weights, vectors[f"edge/weights{scale}"])


def test_edge_weights_in_blocks_of_one_pixel_are_the_laplacian(vectors: Arrays) -> None:
    laplacian = vectors["edge/laplacian_abs"]
    height, width = laplacian.shape[2:]
    expected = laplacian / laplacian.sum((2, 3), keepdims=True) * height * width
    same(edge_weights(tensor(vectors["recon/x"]), 1), expected)


def test_edge_weights_of_a_constant_channel_are_one_and_leave_the_others_alone() -> None:
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = edge_weights(images, 8)
    images[1, 2] = 0.25
    weights = edge_weights(images, 8)
    assert torch.isfinite(weights).all()
    assert (weights[1, 2] == 1).all()
    expected[1, 2] = 1
    torch.testing.assert_close(weights, expected)


def test_edge_weights_sum_to_the_number_of_pixels() -> None:
    weights = edge_weights(torch.randn(2, 3, 32, 32, dtype=torch.float64), 4)
    torch.testing.assert_close(
        weights.sum((2, 3)), torch.full((2, 3), 32.0 * 32, dtype=torch.float64)
    )


# The latent sample.


def sample(arrays: Arrays, case: str) -> tuple[Latent, list[Tensor]]:
    maps = [leaf(arrays[f"latent/{name}"]) for name in ("app_mu", "app_logvar", "occ_logit")]
    parts, side = maps[2].shape[1], maps[2].shape[2]
    if case == "categorical":
        by_cell = tensor(arrays["latent/categorical_noise_uniform"])
        uniform = by_cell.transpose(1, 2).reshape(len(by_cell), parts, side, side)
        normal = tensor(arrays["latent/categorical_noise_normal"])
    else:
        uniform = tensor(arrays["latent/noise_uniform"])
        normal = tensor(arrays["latent/noise_normal"])
    temperature = float(arrays["latent/temperature"])
    latent = sample_latent(
        *maps, temperature, uniform, normal, hard=case == "hard", categorical=case == "categorical"
    )
    return latent, maps


def check_sample(arrays: Arrays, case: str) -> None:
    latent, _ = sample(arrays, case)
    prefix = "latent/categorical_" if case == "categorical" else "latent/"
    same(latent.z, arrays[f"latent/z_{case}"])
    same(latent.mu, arrays[f"{prefix}pooled_mu"])
    same(latent.var, arrays[f"{prefix}pooled_var"])
    same(latent.occurrence, arrays[f"{prefix}occ_prob"])


@pytest.mark.parametrize("case", ["soft", "hard", "categorical"])
def test_latent_sample(vectors: Arrays, case: str) -> None:
    check_sample(vectors, case)


@pytest.mark.parametrize("case", ["soft", "hard", "categorical"])
def test_gradients_of_the_latent_sample(vectors: Arrays, case: str) -> None:
    latent, maps = sample(vectors, case)
    outputs = {"z": latent.z, "mu": latent.mu, "var": latent.var}
    torch.stack(
        [(tensor(vectors[f"latent/cotangent_{k}"]) * v).sum() for k, v in outputs.items()]
    ).sum().backward()
    for name, leaf_ in zip(("app_mu", "app_logvar", "occ_logit"), maps, strict=True):
        same(leaf_.grad, vectors[f"latent/grad_{case}_{name}"])


def test_latent_sample_of_the_vae(vectors: Arrays) -> None:
    mu, var = tensor(vectors["kl_app/mu"]), tensor(vectors["kl_app/var"])
    noise = tensor(vectors["vae_latent/noise_normal"])
    same(mu + var.sqrt() * noise, vectors["vae_latent/z"])


# Totals, schedule.


def settings_of(arrays: Arrays, **changes: Any) -> Any:
    _, _, _, parts, dims, scale, _ = arrays["meta/B_H_W_P_L_scale_scale2"].tolist()
    values = {"parts": parts, "part_dims": dims, "stride": scale} | changes
    return PatchVAE.Settings.parse(values, "test")


@pytest.mark.parametrize("loss", ["plain", "edge"])
def test_total_of_patchvae(vectors: Arrays, loss: str) -> None:
    method = PatchVAE(settings_of(vectors, edge_weighted=loss == "edge"), DATA)
    names = ("recon/xhat", "kl_app/mu", "kl_app/var", "kl_occ/q")
    output, mu, var, q = leaves = [leaf(vectors[name]) for name in names]
    terms = method.elbo(tensor(vectors["recon/x"]), output, Latent(torch.empty(0), mu, var, q))
    terms["loss"].backward()
    same(terms["loss"], vectors[f"total/patchvae_{loss}"])
    app, occ = terms["kl_appearance"], terms["kl_occurrence"]
    parts = torch.stack([terms["reconstruction"], app + 10 * occ, app, occ])
    same(parts, vectors[f"total/patchvae_{loss}_terms_recon_kld_app_vis"])
    norms = np.array([leaf.grad.norm().item() for leaf in leaves])  # type: ignore[union-attr]
    same(norms, vectors[f"total/patchvae_{loss}_grad_norms_xhat_mu_var_q"])


@pytest.mark.parametrize("loss", ["plain", "edge"])
@pytest.mark.parametrize("beta", [1, 4])
def test_total_of_the_vae(vectors: Arrays, loss: str, beta: int) -> None:
    variant = {1: "paper", 4: "beta"}[beta] + ("+lw" if loss == "edge" else "")
    method = VAE(resolve(VAE, variant, {}, "test"), DATA)
    q = Posterior(tensor(vectors["kl_app/mu"]), tensor(vectors["kl_app/var"]))
    terms = method.elbo(tensor(vectors["recon/x"]), tensor(vectors["recon/xhat"]), q)
    same(terms["loss"], vectors[f"total/vae_{loss}_beta{beta}"])
    reference = vectors[f"total/vae_{loss}_beta{beta}_terms_recon_kld"]
    same(torch.stack([terms["reconstruction"], terms["kl"]]), reference)


@pytest.mark.parametrize("case", ["paper", "indoor67_exhausted_loader"])
def test_temperature_schedule(vectors: Arrays, case: str) -> None:
    key = f"temperature/{case}"
    start, rate, floor = vectors[f"{key}_settings_temp0_anneal_min"].tolist()
    changes, temperature = {0: start}, start
    for step in range(1, 12_500):
        new = anneal(temperature, step, rate, floor)
        if new != temperature:
            changes[step] = temperature = new
    expected = vectors[f"{key}_step"].tolist()
    assert list(changes)[: len(expected)] == expected
    same(list(changes.values())[: len(expected)], vectors[f"{key}_value"])


def test_the_model_uses_the_schedule(vectors: Arrays) -> None:
    method = PatchVAE(settings_of(vectors), DATA)
    for step in range(1, 2002):
        method.after_step(step)
    same(method.temperature, vectors["temperature/paper_value"][3])


@pytest.mark.parametrize(
    ("images", "case"), [(50_000, "paper"), (14_280, "indoor67_exhausted_loader")]
)
def test_updates_per_epoch(vectors: Arrays, images: int, case: str) -> None:
    asked, loader, done = vectors[f"temperature/{case}_steps_per_epoch"].tolist()
    settings = PatchVAE.Settings()
    assert settings.images_per_epoch is not None
    assert settings.images_per_epoch // settings.batch_size == asked
    assert loader in (images // 128, images // 128 + 1)
    assert Schedule(images, settings, seed=0).steps_per_epoch == done


# Models with the reference's weights.


class Transplant:
    """A method with the weights of a reference model, in float64."""

    def __init__(self, method: Any, arrays: Vectors, modules: dict[str, str]) -> None:
        self.method, self.arrays, self.modules = method.double(), arrays, modules
        self.x = tensor(arrays["x"])
        state = {
            self.rename(name): tensor(arrays[f"param/{name}"]) for name in arrays.below("param/")
        }
        missing, unexpected = method.load_state_dict(state, strict=False)
        assert not unexpected
        assert {key.rpartition(".")[2] for key in missing} <= {"num_batches_tracked", "temperature"}

    def rename(self, key: str) -> str:
        for old, new in self.modules.items():
            if key.startswith(f"{old}."):
                return new + key.removeprefix(old)
        raise KeyError(key)

    def run(self) -> tuple[Tensor, Any]:
        """Return output and posterior, composed of the method's parts in float64."""
        raise NotImplementedError

    def terms(self) -> dict[str, Tensor]:
        output, posterior = self.run()
        return self.method.elbo(self.x, output, posterior)

    def weigh(self, loss: str) -> None:
        changed = self.method.settings.model_copy(update={"edge_weighted": loss == "edge"})
        self.method.settings = changed


class PatchVAETransplant(Transplant):
    def run(self) -> tuple[Tensor, Latent]:
        m = self.method
        features = m.encoder(self.x)
        latent = sample_latent(
            m.app_mu(features),
            m.app_logvar(features),
            m.occ_logit(features),
            float(self.arrays["temperature"]),
            tensor(self.arrays["noise_uniform"]),
            tensor(self.arrays["noise_normal"]),
        )
        return m.decoder(latent.z), latent


class VAETransplant(Transplant):
    def run(self) -> tuple[Tensor, Posterior]:
        m = self.method
        reduced = m.reduce(m.encoder(self.x))
        q = Posterior(m.mu(reduced), m.logvar(reduced).exp())
        return m.decoder(q.mu + q.var.sqrt() * tensor(self.arrays["noise_normal"])), q


def transplant_patchvae(oracles: Path) -> Transplant:
    arrays = Vectors(oracles / "patchvae_model.npz")
    settings = PatchVAE.Settings(
        parts=int(arrays["meta/P"]),
        part_dims=int(arrays["meta/L"]),
        stride=int(arrays["meta/s"]),
        decoder_width=int(arrays["meta/ngf"]),
        temperature=float(arrays["temperature"]),
    )
    data = DataInfo(int(arrays["meta/size"]), 10)
    return PatchVAETransplant(PatchVAE(settings, data), arrays, PATCHVAE_MODULES)


def transplant_vae(oracles: Path) -> Transplant:
    arrays = Vectors(oracles / "patchvae_vae_model.npz")
    settings = VAE.Settings(
        latent=int(arrays["meta/P"] * arrays["meta/L"]),
        stride=int(arrays["meta/s"]),
        decoder_width=int(arrays["meta/ngf"]),
    )
    data = DataInfo(int(arrays["meta/size"]), 10)
    return VAETransplant(VAE(settings, data), arrays, VAE_MODULES)


TRANSPLANTS = {"patchvae": transplant_patchvae, "vae": transplant_vae}


@pytest.fixture(params=sorted(TRANSPLANTS))
def transplant(request: pytest.FixtureRequest, oracles: Path) -> Transplant:
    return TRANSPLANTS[request.param](oracles)


def check_terms(terms: dict[str, Tensor], arrays: Arrays, name: str, **tolerance: float) -> None:
    same(terms["loss"], arrays[name], **tolerance)
    same(terms["reconstruction"], arrays[f"{name}_recon"], **tolerance)
    if "kl" in terms:
        same(terms["kl"], arrays[f"{name}_kld"], **tolerance)
    else:
        app, occ = terms["kl_appearance"], terms["kl_occurrence"]
        same(app, arrays[f"{name}_kld_app"], **tolerance)
        same(occ, arrays[f"{name}_kld_vis"], **tolerance)
        same(app + 10 * occ, arrays[f"{name}_kld"], **tolerance)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_transplanted_model_gives_the_reference_s_values(transplant: Transplant, mode: str) -> None:
    arrays, method = transplant.arrays, transplant.method.train(mode == "train")
    with torch.no_grad():
        output, posterior = transplant.run()
        terms = method.elbo(transplant.x, output, posterior)
    same(output, arrays[f"{mode}/rec"])
    same(posterior.mu, arrays[f"{mode}/pooled_mu"])
    same(posterior.var, arrays[f"{mode}/pooled_var"])
    if isinstance(posterior, Latent):
        same(posterior.occurrence, arrays[f"{mode}/occ_prob"])
    check_terms(terms, arrays, f"{mode}/loss_plain")


def test_transplanted_model_gives_the_reference_s_maps(transplant: Transplant) -> None:
    arrays, method = transplant.arrays, transplant.method.eval()
    features = method.encoder(transplant.x)
    same(features, arrays["eval/features"])
    if isinstance(method, PatchVAE):
        same(method.app_mu(features), arrays["eval/app_mu"])
        same(method.app_logvar(features), arrays["eval/app_logvar"])
        same(method.occ_logit(features), arrays["eval/occ_logit"])
    else:
        reduced = method.reduce(features)
        same(method.mu(reduced), arrays["eval/app_mu"])
        same(method.logvar(reduced), arrays["eval/app_logvar"])


@pytest.mark.parametrize("loss", ["plain", "edge"])
def test_transplanted_model_has_the_reference_s_gradients(
    transplant: Transplant, loss: str
) -> None:
    arrays, method = transplant.arrays, transplant.method.train()
    transplant.weigh(loss)
    terms = transplant.terms()
    terms["loss"].backward()
    check_terms(terms, arrays, f"train/loss_{loss}")
    parameters = dict(method.named_parameters())
    expected = arrays[f"train/grad_{loss}_norm_sum_abs"]
    names = [transplant.rename(str(name)) for name in arrays["train/grad_names"]]
    assert set(names) == set(parameters)
    gradients = [parameters[name].grad for name in names]
    actual = [[g.norm().item(), g.sum().item(), g.abs().sum().item()] for g in gradients]
    same(np.array(actual), expected, atol=1e-8 * expected[:, 0].max())


def test_five_steps_of_the_transplanted_model(transplant: Transplant) -> None:
    """The losses of five Adam steps, and where they leave the BatchNorm statistics.

    The vectors call those statistics the ones after one pass. They are the ones after the five
    steps (the array was kept, not copied, while training went on): so every layer here says, for
    PatchVAE with its decoder run twice a step, for the VAE with its decoder run once.
    """
    arrays = transplant.arrays
    transplant.method.train()
    (optimizer,) = transplant.method.optimizers().values()
    losses = []
    for _ in range(5):
        loss = transplant.terms()["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    same(losses, arrays["train/loss_plain_of_5_adam_steps_same_noise"])
    prefix = "train/buffer_after/"
    buffers = arrays.below(prefix)
    assert buffers
    for name in buffers:
        same(transplant.method.get_buffer(transplant.rename(name)), arrays[prefix + name])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_forward_wires_the_parts_together_as_the_reference_does(
    transplant: Transplant, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, method = transplant.arrays, transplant.method.float().train(mode == "train")
    normal = tensor(arrays["noise_normal"]).float()
    monkeypatch.setattr(torch, "randn", lambda *shape, device: normal)
    if isinstance(method, PatchVAE):
        uniform = tensor(arrays["noise_uniform"]).float()
        monkeypatch.setattr(torch, "rand_like", lambda like: uniform)
    else:
        monkeypatch.setattr(torch, "randn_like", lambda like: normal)
    images = transplant.x.float() * method.std + method.mean
    check_terms(
        method(Batch(images, None), "all"), arrays, f"{mode}/loss_plain", rtol=1e-5, atol=1e-5
    )


# Sizes.


@pytest.mark.parametrize(
    ("variant", "size", "total", "modules"),
    [
        ("cifar100", 32, 1_606_800, (683_072, 110_688, 110_688, 18_448, 683_904)),
        ("indoor67", 64, 1_606_800, (683_072, 110_688, 110_688, 18_448, 683_904)),
        ("imagenet", 224, 33_107_456, (11_176_512, 4_719_616, 4_719_616, 294_976, 12_196_736)),
    ],
)
def test_parameters_of_patchvae(
    variant: str, size: int, total: int, modules: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        method = PatchVAE(resolve(PatchVAE, variant, {}, "test"), DataInfo(size, 10))
    assert count(method) == total
    m = method
    parts = (m.encoder, m.app_mu, m.app_logvar, m.occ_logit, m.decoder)
    assert tuple(count(part) for part in parts) == modules


@pytest.mark.parametrize(
    ("variant", "size", "total", "modules"),
    [
        ("cifar100", 32, 1_662_336, (683_072, 8_320, 98_400, 98_400, 774_144)),
        ("places205", 64, 2_547_072, (683_072, 8_320, 393_312, 393_312, 1_069_056)),
        ("imagenet", 224, 32_059_072, (11_176_512, 32_896, 3_212_288, 3_212_288, 14_425_088)),
    ],
)
def test_parameters_of_the_vae(
    variant: str, size: int, total: int, modules: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        method = VAE(resolve(VAE, variant, {}, "test"), DataInfo(size, 10))
    assert count(method) == total
    parts = (method.encoder, method.reduce, method.mu, method.logvar, method.decoder)
    assert tuple(count(part) for part in parts) == modules


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The small set, which is always there.


def test_terms_of_the_loss_without_the_full_set(small: Arrays) -> None:
    check_kl_from_var(small)
    check_kl_bernoulli(small, "1overP")
    check_kl_categorical(small)


@pytest.mark.parametrize("case", ["soft", "hard"])
def test_latent_sample_without_the_full_set(small: Arrays, case: str) -> None:
    check_sample(small, case)


@pytest.mark.parametrize("scale", ["_scale", "_scale2"])
def test_weighted_squared_error_without_the_full_set(small: Arrays, scale: str) -> None:
    x = tensor(small["recon/x"])
    weights = edge_weights(x, block(small, scale))
    corners = (..., slice(None, None, block(small, scale)), slice(None, None, block(small, scale)))
    same(weights[corners], small[f"edge/weights{scale}_one_per_block"])
    # The reference's batch was larger, and its gradient is divided by that.
    batch, rows = int(small["meta/B_H_W_P_L_scale_scale2"][0]), len(small["recon/xhat_rows"])
    output = leaf(small["recon/xhat_rows"][None, None])
    error = squared_error(x[:, :, :rows], output, weights[:, :, :rows]) / batch
    error.backward()
    same(output.grad[0, 0], small[f"recon/weighted_sse{scale}_grad_xhat_rows"])  # type: ignore[index]
