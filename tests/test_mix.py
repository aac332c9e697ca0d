"""MIX: its networks' shapes, the terms of its loss, the chunks of a mixed code, that it learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods.mix import MIX, Up, zeros_around
from partbench.model import load_model
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SMALL = {
    "chunks": 4,
    "chunk_size": 4,
    "encoder_width": 4,
    "decoder_width": 4,
    "discriminator_width": 4,
    "classifier_width": 2,
    "classifier_hidden": 16,
    "batch_size": 24,
}


def small(**changes: Any) -> Any:
    return methods.resolve(MIX, "paper", SMALL | changes, "test")


def made(size: int = 32, **changes: Any) -> MIX:
    torch.manual_seed(0)
    return MIX(small(**changes), DataInfo(size, 0))


def test_the_networks_at_60_pixels_have_the_shapes_of_the_code() -> None:
    with torch.device("meta"):
        method = MIX(methods.resolve(MIX, "paper", {}, "test"), DataInfo(60, 0))
        x, sides = torch.zeros(2, 3, 60, 60), []
        for down in method.encoder.downs:
            x = down(x)
            sides.append((x.shape[1], x.shape[2]))
        assert sides == [(64, 30), (128, 15), (256, 8), (512, 4), (512, 2)]
        x, sides = method.decoder.first(torch.zeros(2, 512, 1, 1)), []
        sides.append((x.shape[1], x.shape[2]))
        for up in method.decoder.ups:
            x = up(x)
            sides.append((x.shape[1], x.shape[2]))
        assert sides == [(512, 4), (512, 8), (256, 15), (128, 30), (3, 60)]
        assert method.discriminator(torch.zeros(2, 3, 60, 60)).shape == (2, 1)
        assert method.discriminator[-1].in_features == 512 * 8 * 8
        assert method.classifier(torch.zeros(2, 9, 60, 60)).shape == (2, 8)
        assert method.classifier[-5].in_features == 1024


@given(st.integers(2, 64), st.integers(1, 5))
def test_zeros_are_those_of_tensorflow(size: int, kernel: int) -> None:
    """SAME: the output has half of the side, rounded up, and the odd zero comes after."""
    before, after = zeros_around(size, kernel)
    outputs = -(-size // 2)
    assert 0 <= after - before <= 1
    if kernel > 1 or size % 2:
        assert (size + before + after - kernel) // 2 + 1 == outputs
    assert before + after == 0 or (outputs - 1) * 2 + kernel == size + before + after


@pytest.mark.parametrize("size", [7, 8, 15, 30])
def test_a_transposed_convolution_is_the_gradient_of_the_padded_one(size: int) -> None:
    up = Up(2, 3, size).double()
    small_side = -(-size // 2)
    x = torch.randn(1, 2, small_side, small_side, dtype=torch.float64)
    image = torch.zeros(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    before, after = zeros_around(size, 3)
    padded = F.pad(image, (before, after, before, after))
    (F.conv2d(padded, up.weight, stride=2) * x).sum().backward()
    torch.testing.assert_close(up(x), image.grad)


@pytest.mark.parametrize("size", [32, 60, 64, 49, 48, 40, 8])
def test_which_sizes_fit(size: int) -> None:
    if size in (48, 40, 8):
        with pytest.raises(BadInput, match=f"a side of {size} px.*such as 32, 60 or 64"):
            made(size)
        return
    images = torch.rand(4, 3, size, size)
    assert made(size).reconstruct(images).shape == images.shape


def test_the_loss_has_every_term_with_its_weight() -> None:
    method = made(first=0.5).double()
    images = torch.rand(8, 3, 32, 32, dtype=torch.float64)
    a, b = (2 * images - 1).chunk(2)
    mask = torch.tensor([True, False, False, True])
    found = method.generator_loss(a, b, mask)
    code_a, code_b = method.encoder(a), method.encoder(b)
    mixed_code, kept = code_a.clone(), code_a.clone()
    for chunk in (0, 3):  # the second image gives these
        mixed_code[:, 4 * chunk : 4 * chunk + 4] = code_b[:, 4 * chunk : 4 * chunk + 4]
    mixed = method.decoder(mixed_code)
    again = method.encoder(mixed)
    for chunk in (1, 2):  # what is left of the first image
        kept[:, 4 * chunk : 4 * chunk + 4] = again[:, 4 * chunk : 4 * chunk + 4]
    first = (method.decoder(code_a) - a).square().mean()
    second = (method.decoder(code_b) - b).square().mean()
    cycle = (method.decoder(kept) - a).square().mean()
    logits = method.discriminator(mixed)
    verdict = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    masks = method.classifier(torch.cat([a, b, mixed], 1))
    truth = torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64).expand_as(masks)
    error = F.binary_cross_entropy_with_logits(masks, truth)
    expected = 0.5 * first + 10 * second + 10 * cycle + verdict + error
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert found["cycle"].item() == pytest.approx(cycle.item(), rel=1e-6)


def test_the_code_s_weights_are_the_defaults() -> None:
    s = methods.resolve(MIX, "paper", {}, "test")
    assert (s.first, s.second, s.cycle, s.adversarial, s.classification) == (0, 10, 10, 1, 1)


def test_a_mask_is_one_for_the_batch_and_varies() -> None:
    method = made()
    masks = torch.stack([method.draw_mask() for _ in range(200)])
    assert masks.shape == (200, 4)
    assert ((masks.float().mean(0) - 0.5).abs() < 0.15).all()
    images = torch.rand(5, 3, 32, 32)
    torch.manual_seed(0)
    mask = method.draw_mask()
    torch.manual_seed(0)
    generated = method.generate(Batch(images, None))
    codes = method.features(images).unflatten(1, (4, 4))
    for i in range(5):
        chunks = [codes[i - 1, c] if mask[c] else codes[i, c] for c in range(4)]
        expected = method.denormalize(method.decoder(torch.cat(chunks)[None]))[0]
        torch.testing.assert_close(generated[i], expected, atol=1e-5, rtol=1e-5)


def test_all_rates_fall_every_20_000_steps() -> None:
    method = made()
    rates = {name: o.param_groups[0] for name, o in method.optimizers().items()}
    for step in (19_999, 20_000, 20_001):
        method.after_step(step)
    assert {round(group["lr"], 10) for group in rates.values()} == {1.8e-4}


def test_a_batch_without_pairs_for_every_update_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'batch_size' is 9.*multiple of 6"):
        small(batch_size=9)


def test_it_learns_to_reconstruct_also_through_a_mixed_image(tiny: Path, tmp_path: Path) -> None:
    shown = torch.from_numpy(np.array(Prepared(tiny).split("test").images))
    images = shown.permute(0, 3, 1, 2) / 255
    errors = {}
    for epochs in (0, 40):
        settings = methods.resolve(MIX, "demo", {"epochs": epochs, "batch_size": 12}, "test")
        out = tmp_path / str(epochs)
        train(Run("mix", "paper", "toy", 0), settings, CPU, tiny, out)
        _, method = load_model(out / "model.pt", "cpu")
        assert isinstance(method, MIX)
        with torch.inference_mode():
            errors[epochs] = F.mse_loss(method.reconstruct(images), images).item()
    assert errors[40] < 0.8 * errors[0]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    cycles = [line["generator/cycle"] for line in lines]
    assert np.mean(cycles[-10:]) < 0.8 * np.mean(cycles[:10])
