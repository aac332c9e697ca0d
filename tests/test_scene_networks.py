"""The networks of LORBMS: parameter totals of the thesis, and what its code does in each layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partbench.errors import BadInput
from partbench.nn.alexnet import alexnet_trunk
from partbench.nn.scene_networks import (
    MaskClassifier,
    PatchDiscriminator,
    SceneDecoder,
    SceneEncoder,
    Up,
    instance_norm,
    with_coordinates,
)
from partbench.nn.spectral import SpectralConv2d, advance


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_parameters_are_those_of_the_thesis() -> None:
    with torch.device("meta"):
        encoder, decoder = SceneEncoder(), SceneDecoder()
        discriminator, classifier = PatchDiscriminator(), MaskClassifier()
    assert parameters(encoder) == 2_800_512
    assert parameters(decoder) == 5_300_339
    assert parameters(encoder) + parameters(decoder) == 8_100_851
    assert parameters(discriminator) == 1_188_391
    assert parameters(classifier) == 45_355_044
    networks = (encoder, decoder, discriminator, classifier)
    assert sum(map(parameters, networks)) == 54_644_286


def test_linear_heads_at_96_pixels_are_those_of_the_thesis() -> None:
    with torch.device("meta"):
        trunks = (SceneEncoder(), alexnet_trunk(), PatchDiscriminator().trunk)
        widths = [trunk(torch.zeros(1, 3, 96, 96)).flatten(1).shape[1] for trunk in trunks]
        heads = [parameters(nn.Linear(width, 10)) for width in widths]
    assert widths == [1_728, 4_096, 12_096]
    assert heads == [17_290, 40_970, 120_970]


@pytest.mark.parametrize("size", [64, 96])
def test_the_decoder_undoes_the_size_of_the_encoder(size: int) -> None:
    options = {"code": 12, "first": 6, "growth": 4, "layers": (2, 1, 3, 1, 2)}
    encoder, decoder = SceneEncoder(**options), SceneDecoder(**options)  # type: ignore[arg-type]
    images = torch.rand(2, 3, size, size) * 2 - 1
    code = encoder(images)
    assert code.shape == (2, 12, size // 32, size // 32)
    decoded = decoder(code)
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1


def test_the_encoder_reads_a_stack_that_is_normalised_as_a_whole() -> None:
    """The code normalises the whole stack again in every layer; the result is the same."""
    torch.manual_seed(0)
    encoder = SceneEncoder(code=8, first=6, growth=4, layers=(3, 2)).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    x = encoder.first(with_coordinates(images))
    for block, transition in zip(encoder.blocks, encoder.transitions, strict=True):
        for layer in block:  # type: ignore[attr-defined]
            x = torch.cat([x, layer(F.relu(F.instance_norm(x, eps=1e-9)))], 1)
        x = F.max_pool2d(transition(F.relu(F.instance_norm(x, eps=1e-9))), 2)
    torch.testing.assert_close(encoder(images), encoder.last(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normed", [False, True])
def test_only_what_a_block_adds_goes_on_but_the_last_gives_its_whole_stack(normed: bool) -> None:
    torch.manual_seed(0)
    decoder = SceneDecoder(code=8, first=6, growth=4, layers=(3, 2), normed=normed).double()
    code = torch.randn(2, 8, 2, 2, dtype=torch.float64)
    x = code
    for up, block in zip(decoder.ups, decoder.blocks, strict=True):
        stack = [up(x)]
        for layer in block:  # type: ignore[attr-defined]
            whole = torch.cat(stack, 1)
            whole = F.instance_norm(whole, eps=1e-9) if normed else whole
            stack.append(layer(F.relu(whole)))
        x = torch.cat(stack[1:], 1)
    expected = torch.tanh(decoder.last(torch.cat(stack, 1)))
    torch.testing.assert_close(decoder(code), expected, rtol=1e-9, atol=1e-9)


def test_coordinates_run_from_the_left_and_from_the_top() -> None:
    planes = with_coordinates(torch.zeros(2, 3, 3, 5))[1, 3:]
    assert planes[0, 1].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert planes[1, :, 2].tolist() == [-1, 0, 1]


def test_instance_norm_is_that_of_torch_and_keeps_the_memory_format() -> None:
    x = 3 + 0.1 * torch.randn(2, 5, 7, 6).to(memory_format=torch.channels_last)
    normed = instance_norm(x)
    torch.testing.assert_close(normed, F.instance_norm(x, eps=1e-9), rtol=1e-4, atol=1e-4)
    assert normed.is_contiguous(memory_format=torch.channels_last)
    assert instance_norm(torch.full((1, 1, 2, 2), 0.7)).tolist() == [[[[0, 0], [0, 0]]]]


def test_up_repeats_four_times_and_strides_as_tensorflow_does() -> None:
    """Output (i, j) reads rows 2i to 2i + 2 of the map repeated four times, zeros beyond it."""
    torch.manual_seed(0)
    up = Up(2, 3).double()
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    weight = up.weight / up.power_step().norm()
    expected = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    for i in range(4):
        for j in range(6):
            for di in range(3):
                for dj in range(3):
                    row, column = (2 * i + di) // 4, (2 * j + dj) // 4
                    if row < 2 and column < 3:
                        expected[0, :, i, j] += weight[:, :, di, dj] @ x[0, :, row, column]
    torch.testing.assert_close(up(x), expected)


def largest_gain(conv: SpectralConv2d) -> Tensor:
    return torch.linalg.matrix_norm(conv.weight.flatten(1), 2)


def test_the_power_iteration_finds_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    conv = SpectralConv2d(5, 7, 3)
    layers = nn.Sequential(conv, nn.ReLU())
    first = conv.power_step().norm()
    for _ in range(200):
        advance(layers)
    assert first < 0.999 * largest_gain(conv)
    torch.testing.assert_close(conv.power_step().norm(), largest_gain(conv))
    assert conv.u.norm().item() == pytest.approx(1)


def test_only_advance_moves_the_estimate() -> None:
    conv = SpectralConv2d(2, 3, 3).train()
    before = conv.u.clone()
    conv(torch.rand(1, 2, 5, 5))
    assert torch.equal(conv.u, before)
    assert "u" in conv.state_dict()
    conv.advance()
    assert not torch.equal(conv.u, before)


def test_gradients_flow_through_the_power_step() -> None:
    torch.manual_seed(0)
    conv = SpectralConv2d(2, 3, 3).double()
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64)

    def output(weight: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, x)

    assert torch.autograd.gradcheck(output, conv.weight.detach().requires_grad_())
    # A weight's length leaves the output as it is, so no gradient goes along it.
    output(conv.weight).square().sum().backward()
    assert conv.weight.grad is not None
    along = (conv.weight.grad * conv.weight).sum().abs()
    assert along < 1e-6 * conv.weight.grad.norm() * conv.weight.norm()


@pytest.mark.parametrize(("size", "last_pool"), [(28, (2, 1)), (36, (3, 2)), (60, (3, 2))])
def test_the_classifier_fits_any_size_from_its_least_on(
    size: int, last_pool: tuple[int, int]
) -> None:
    narrow = MaskClassifier(3, size, outputs=8, width=2, hidden=16, last_pool=last_pool)
    assert narrow(torch.rand(2, 9, size, size)).shape == (2, 8)


def test_a_cell_of_the_discriminator_sees_46_pixels() -> None:
    discriminator = PatchDiscriminator(width=2).double()
    for parameter in discriminator.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    images = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    discriminator(images)[0, 4, 4].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 46


@pytest.mark.parametrize(("size", "last_pool"), [(27, (2, 1)), (35, (3, 2))])
def test_images_too_small_for_the_classifier(size: int, last_pool: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=f"images of {size} px are too small"):
        MaskClassifier(2, size, 4, 2, 8, last_pool)
    net = MaskClassifier(2, size + 1, 4, 2, 8, last_pool)
    assert net(torch.rand(2, 6, size + 1, size + 1)).shape == (2, 4)
