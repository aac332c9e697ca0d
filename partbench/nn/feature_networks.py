"""Frozen networks in whose features sets of images are compared.

- `inception` is the network of 2015 that FID is defined on, by torch-fidelity. It is not
  torchvision's: it has 1008 outputs, and its pooling differs.
- `dinov2` is a transformer trained without labels, on whose class token the Frechet distance
  agrees better with people (Stein et al., NeurIPS 2023).
- `mobilenet` is MobileNetV1 x 0.25, for machines on which Inception is too slow.
- `random` is a narrow VGG with fixed random weights. It needs no file.

Their inputs are resized in one of three ways, after the code that established each. They give
different distances.
"""

import io
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from partbench.errors import BadInput
from partbench.files import data_root
from partbench.nn import vit
from partbench.nn.normalization import IMAGENET_MEAN_STD
from partbench.nn.perceptual import FILES, Perceptual
from partbench.nn.precision import exact, without_tf32
from partbench.nn.weights import open_file, wrong_content

Network = Literal["inception", "dinov2", "mobilenet", "random"]
Resize = Literal["ttur", "pytorch", "clean"]
SIDES: dict[Network, int | None] = {
    "inception": 299,
    "dinov2": 224,
    "mobilenet": 224,
    "random": None,
}
"""Pixels that each network sees; None: the images' own."""
USUAL: dict[Network, Resize] = {"inception": "ttur", "dinov2": "clean", "mobilenet": "clean"}
"""How the literature resizes for each network."""
INCEPTION_FILE = "weights/pt_inception-2015-12-05-6726825d.pth"
DINOV2 = "vit_large_patch14_dinov2"
"""timm's name of the transformer of Stein et al."""
DINOV2_FILE = "weights/dinov2_vitl14_pretrain.pth"
PATCH = 14
MOBILENET_LAYER = 13
"""Its last block, at stride 32."""
RANDOM_LAYER = 7
"""The last activation of the random network, 64 numbers, at stride 4."""

Pixels = NDArray[np.uint8]


class Description(NamedTuple):
    """What a network says of images."""

    features: Tensor
    """[B, D] float32."""
    logits: Tensor | None = None
    """[B, 1008] float32 of Inception, without the bias of the last layer, as the Inception Score
    takes them; None of the others."""


class FeatureNetwork:
    """A frozen network that describes each image by one vector.

    Args:
        name: the network.
        resize: how images are brought to the side that it sees; none: as is usual for it.
        device: to compute on.

    Raises:
        BadInput: the file of weights is missing from the data root, or holds something else.
    """

    def __init__(self, name: Network, resize: Resize | None, device: str) -> None:
        self.name, self.device = name, device
        self.side = SIDES[name]
        self.resize: Resize | Literal[""] = resize or USUAL[name] if self.side else ""
        self._describe = _NETWORKS[name](device)

    def __call__(self, images: Pixels) -> Description:
        """Return the description of images uint8 [B, H, W, 3]."""
        pixels = torch.from_numpy(np.array(images)).to(self.device)
        pixels = pixels.permute(0, 3, 1, 2).float()
        with torch.inference_mode(), exact(pixels), without_tf32():
            if self.side and self.resize:
                pixels = resized(pixels, (self.side, self.side), self.resize)
            # The code that resizes in [0, 1] counts from black to white; the others as in TF1.
            centre = 127.5 if self.resize == "pytorch" else 128.0
            return self._describe(pixels, centre)


def resized(images: Tensor, shape: tuple[int, int], mode: Resize) -> Tensor:
    """Return images at another size, unrounded.

    Args:
        images: [B, 3, H, W] float32 in [0, 255].
        shape: height and width, pixels.
        mode: `ttur`: TensorFlow 1's bilinear, in which pixel x comes from x * in / out, without
            antialiasing (TTUR, torch-fidelity); `pytorch`: bilinear between pixel centres, without
            antialiasing (pytorch-fid); `clean`: Pillow's bicubic, antialiased, cut to [0, 255]
            (clean-fid).

    Returns:
        [B, 3, height, width].
    """
    if mode == "ttur":
        sides = zip(images.shape[2:], shape, strict=True)
        rows, columns = (_tensorflow(before, after).to(images) for before, after in sides)
        return rows @ images @ columns.T
    if mode == "pytorch":
        return F.interpolate(images, shape, mode="bilinear")
    return F.interpolate(images, shape, mode="bicubic", antialias=True).clamp(0, 255)


@cache
def _tensorflow(before: int, after: int) -> Tensor:
    """Return the matrix [after, before] of TensorFlow 1's bilinear resizing of one side."""
    places = torch.arange(after, dtype=torch.float32) * (before / after)
    low = places.long()
    share = places - low
    matrix = torch.zeros(after, before)
    index = torch.arange(after)
    matrix[index, low] = 1 - share
    matrix[index, (low + 1).clamp(max=before - 1)] += share
    return matrix


Describe = Callable[[Tensor, float], Description]
"""Images in [0, 255] at the network's side, and the value that becomes 0 -> their description."""


def _inception(device: str) -> Describe:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path, what = data_root() / INCEPTION_FILE, "the weights of the Inception network of 2015"
    state = open_file(path, what, "run `partbench data fetch inception`, or choose another network")
    # torch-fidelity opens its file in a way that runs what stands in it, so it is given ours.
    copy = io.BytesIO()
    torch.save(state, copy)
    copy.seek(0)
    try:
        extractor: Any = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=copy
        )
    except Exception as error:  # the file can hold anything
        raise wrong_content(path, what, error) from None
    *layers, last = extractor.children()
    network: Any = _fused(nn.Sequential(*layers, nn.Flatten()))
    network = network.to(device, memory_format=torch.channels_last)
    weight = last.weight.to(device)

    def describe(pixels: Tensor, centre: float) -> Description:
        inputs = ((pixels - centre) / centre).contiguous(memory_format=torch.channels_last)
        features = network(inputs)
        return Description(features, features @ weight.T)

    return describe


def _fused(network: nn.Module) -> nn.Module:
    """Fold the batch norms of Inception's blocks into the convolutions before them."""
    block: Any
    for block in network.modules():
        if hasattr(block, "conv") and hasattr(block, "bn"):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return network.requires_grad_(False).eval()


def _dinov2(device: str) -> Describe:
    network = vit.load(DINOV2, DINOV2_FILE).to(device)

    def describe(pixels: Tensor, centre: float) -> Description:
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in IMAGENET_MEAN_STD)
        tokens, _, _ = vit.embed(network, (pixels / 255 - mean) / std, PATCH)
        return Description(network.norm(network.blocks(tokens))[:, 0])

    return describe


def _mobilenet(device: str) -> Describe:
    if not (path := data_root() / FILES["mobilenet"]).is_file():
        raise BadInput(
            f"{path} (the weights of mobilenet) is missing; place it there, or set `network` to "
            "another one, such as `random`"
        )
    return _pooled(Perceptual("mobilenet", (MOBILENET_LAYER,), normalize=True))


def _random(device: str) -> Describe:
    return _pooled(Perceptual("random", (RANDOM_LAYER,), normalize=True))


def _pooled(network: Perceptual) -> Describe:
    """Return the means over the image of a network's last activations."""

    def describe(pixels: Tensor, centre: float) -> Description:
        (last,) = network(pixels / 255)
        return Description(last.mean((2, 3)))

    return describe


_NETWORKS: dict[Network, Callable[[str], Describe]] = {
    "inception": _inception,
    "dinov2": _dinov2,
    "mobilenet": _mobilenet,
    "random": _random,
}
