"""Terms of the evidence lower bound, shared by PatchVAE, its baselines and DLP.

Every term is a sum over all dimensions, divided by the batch size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_error(target: Tensor, output: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the (weighted) sum of squared errors per image, without a factor 1/2: a scalar.

    Args:
        target: [B, C, H, W], the normalised images.
        output: [B, C, H, W], their reconstructions.
        weights: [B, C, H, W], see `edge_weights`; None weighs all pixels equally.
    """
    error = (target - output).square()
    return (error if weights is None else weights * error).sum() / len(target)


def edge_weights(images: Tensor, block: int) -> Tensor:
    """Return the weights of PatchVAE's L_w, which are larger where the image has edges.

    They are the absolute Laplacian of each channel, summed over blocks and scaled so that a
    channel's weights sum to H * W. In a constant channel the published code divides by zero; here
    all pixels of such a channel weigh the same.

    Args:
        images: [B, C, H, W]; H and W are multiples of `block`.
        block: side of a block in pixels, the encoder's stride.

    Returns:
        [B, C, H, W], without gradient.
    """
    batch, channels, height, width = images.shape
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    planes = F.pad(images.detach(), (1, 1, 1, 1), mode="replicate").flatten(0, 1).unsqueeze(1)
    edges = F.conv2d(planes, kernel[None, None]).abs().view(batch, channels, height, width)
    blocks = F.avg_pool2d(edges, block) * block**2
    total = blocks.sum((2, 3), keepdim=True) * block**2
    share = torch.where(total > 0, blocks / total * (height * width), 1.0)
    return F.interpolate(share, scale_factor=block, mode="nearest")


def kl_from_var(mu: Tensor, var: Tensor) -> Tensor:
    """Return KL(N(mu, var) || N(0, 1)) from means and variances, [B, ...] -> scalar."""
    return -0.5 * (1 + var.log() - mu.square() - var).sum() / len(mu)


def kl_from_logvar(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) from log-variances, [B, ...] -> scalar."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() / len(mu)


def kl_bernoulli(q: Tensor, prior: float) -> Tensor:
    """Return KL(Bernoulli(q) || Bernoulli(prior)), [B, ...] -> scalar.

    The logarithms add 1e-7 to their probabilities.
    """
    eps = 1e-7
    kl = q * ((q + eps) / prior).log() + (1 - q) * ((1 - q + eps) / (1 - prior)).log()
    return kl.sum() / len(q)


def kl_categorical(q: Tensor, prior: float) -> Tensor:
    """Return KL(q || prior), where q [B, P, ...] sums to 1 over P: a scalar.

    The logarithm adds 1e-7 to q.
    """
    return (q * ((q + 1e-7) / prior).log()).sum() / len(q)
