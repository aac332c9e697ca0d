"""The released weights of Deep Latent Particles: names and order of the authors' modules.

Names and shapes are those of the state that the authors' code at commit a3d9cff writes. It counts
points as (row, column), so the numbers in which layers read or write points change places.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from partbench.nn.particle_types import ParticleSettings
from partbench.nn.released import COUNTER, Authors, Release

WEIGHTS = {
    "k30": Release("dlp_celeba", "weights/dlp/dlp_celeba_gauss_pointnetpp_feat.pth"),
    "traffic": Release("dlp_traffic", "weights/dlp/dlp_traffic_gauss_pointnetpp.pth"),
    "clevrer": Release("dlp_clevrer", "weights/dlp/dlp_clevrer_gauss_pointnetpp.pth"),
}
"""Variant of our method -> the authors' weights of it."""
AFFINE = ("weight", "bias")
NORM = (*AFFINE, "running_mean", "running_var", COUNTER)
GLIMPSE_CHANNELS, GLIMPSE_MAPS = (16, 16, 32), 32
"""Channels of the object model's glimpse encoder, and of the maps that its decoder begins with."""


def authors(s: ParticleSettings, side: int, cells: int, cut: int) -> Authors:
    """Return how the authors' file holds a model's weights.

    Args:
        s: the settings.
        side: side of the window that the encoder sees, pixels.
        cells: side of its heat maps, cells.
        cut: side of a glimpse, pixels (object model) or cells.
    """

    def turn(name: str, value: Tensor) -> Tensor:
        """Return a weight with x and y in each other's place."""
        value = value.clone()
        if name.startswith("place.4."):  # the mean and the log-variance of each particle
            return value.view(-1, 2, 2, *value.shape[1:]).flip(2).reshape(value.shape)
        if name == "appearance.0.weight" and not s.objects:
            value[:, -2:] = value[:, -2:].flip(1)
        if name == "messages.0.first.weight":
            value[:, :2] = value[:, :2].flip(1)
        if name.startswith("messages.") and name.endswith(".first.weight"):
            value[:, -2:] = value[:, -2:].flip(1)
        return value

    return Authors(
        dict(_names(s, side, cells, cut)),
        absent=("epoch",),
        repeated={"object_dec.decode.": "object_dec.main."},
        turn=turn,
    )


def _names(s: ParticleSettings, side: int, cells: int, cut: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of our name and the authors' name."""
    doublings = cells.bit_length() - 4
    yield from _encoder("encoder", "enc", s.channels, side)
    yield from _mlp("place", "to_normal_stats")
    yield from _mlp("background", "object_enc")
    yield from _mlp("appearance", "object_enc_sep.fc")
    yield from _encoder("proposer", "prior.enc", s.prior_channels, s.patch)
    for i in range(4):
        for ours, theirs, kinds in (
            ("first", 0, AFFINE),
            ("rest.0", 1, NORM),
            ("rest.2", 3, AFFINE),
            ("rest.3", 4, NORM),
        ):
            yield from _pairs(f"messages.{i}.{ours}", f"pointnet.conv{i + 1}.mlp.{theirs}", kinds)
    yield from _pairs("scatter.0", "pointnet.fc.0", AFFINE)
    labels = [f"depth_up_{i}" for i in range(doublings)]
    yield from _blocks("enlarge", "pointnet.cnn", (s.k,) * (doublings + 1), labels, 2)
    last = (s.k + 1) * (s.channels[0] // (s.k + 1) + 1)
    widths = ((2 if s.objects else 3) * s.k, *reversed(s.channels[1:]), last)
    yield from _decoder("decoder", "dec", "dec.final_conv", widths, 3, 4)
    if s.objects:
        yield from _mlp("transparency", "aux_enc")
        yield from _encoder("glimpse_encoder", "object_enc_sep.cnn", GLIMPSE_CHANNELS, cut)
        for layer in ("0", "2"):
            yield from _pairs(f"glimpse_decoder_in.{layer}", f"object_dec.fc.{layer}", AFFINE)
        widths = (GLIMPSE_MAPS, *[64] * (cut.bit_length() - 4), 32)
        yield from _decoder(
            "glimpse_decoder", "object_dec", "object_dec.main.final_conv", widths, 4, 8
        )


def _pairs(ours: str, theirs: str, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((f"{ours}.{kind}", f"{theirs}.{kind}") for kind in kinds)


def _mlp(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for layer in (0, 2, 4):
        yield from _pairs(f"{ours}.{layer}", f"{theirs}.{layer}", AFFINE)


def _blocks(
    ours: str, theirs: str, widths: Sequence[int], labels: Sequence[str], step: int
) -> Iterator[tuple[str, str]]:
    """Yield the names of convolutions with batch norm; every `step`-th of our modules is one."""
    for i, ((before, after), label) in enumerate(zip(pairwise(widths), labels, strict=True)):
        block = f"{theirs}.{label}.main"
        yield f"{ours}.{i * step}.0.weight", f"{block}.conv_{before}_to_{after}.weight"
        yield from _pairs(f"{ours}.{i * step}.1", f"{block}.bathcnorm_{after}", NORM)


def _encoder(
    ours: str, theirs: str, channels: Sequence[int], side: int
) -> Iterator[tuple[str, str]]:
    """Yield the names of an encoder; the authors name blocks by side before and channels after."""
    widths, labels = [3, channels[0], channels[0]], ["in_block_1", "in_block_2"]
    for i, after in enumerate(channels[1:]):
        widths += [after, after]
        labels += [f"conv_in_{side >> i}_0", f"conv_in_{after}_1"]
    yield from _blocks(ours, f"{theirs}.main", widths, labels, 1)
    yield from _pairs(f"{ours}.{len(labels)}", f"{theirs}.keymap", AFFINE)


def _decoder(
    ours: str, theirs: str, last: str, widths: Sequence[int], out: int, start: int
) -> Iterator[tuple[str, str]]:
    """Yield the names of a decoder, whose blocks the authors count from the side `start`."""
    labels = ["depth_up", *(f"conv_to_{start << i}" for i in range(1, len(widths) - 1))]
    yield from _blocks(ours, f"{theirs}.main", widths, labels, 2)
    final = f"{last}.main.conv_{widths[-1]}_to_{out}"
    yield from _pairs(f"{ours}.{2 * len(labels) - 1}", final, AFFINE)
