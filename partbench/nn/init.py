"""Weight initialisation of the PatchVAE family."""

from torch import nn


def init_patchvae_(module: nn.Module) -> None:
    """Initialise a module in place, as PatchVAE's code does.

    - Convolutions: Kaiming normal over the fan-out, zero bias.
    - Linear layers: normal with SD 0.01, zero bias.
    - Transposed convolutions: torch's default.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
