"""A linear autoencoder: the smallest method that trains."""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.method import DataInfo, Method, MethodSettings


class AutoencoderSettings(MethodSettings):
    """The paper's settings."""

    latent: int = Field(64, ge=1, description="numbers in the code")
    learning_rate: float = Field(1e-3, gt=0, description="Adam")


class Autoencoder(Method):
    """Linear encoder and decoder, squared error."""

    Settings = AutoencoderSettings
    REDUCED = {"demo": {"latent": 16, "epochs": 2, "batch_size": 16}}

    def __init__(self, settings: AutoencoderSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        pixels = 3 * data.size**2
        self.encoder = nn.Linear(pixels, settings.latent)
        self.decoder = nn.Linear(settings.latent, pixels)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the mean squared error."""
        x = self.normalize(batch.images).flatten(1)
        return {"loss": F.mse_loss(self.decoder(self.encoder(x)), x)}

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate)}

    def features(self, images: Tensor) -> Tensor:
        """Return the code, [B, latent]."""
        return self.encoder(self.normalize(images).flatten(1))
