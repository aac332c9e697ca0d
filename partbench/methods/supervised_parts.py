"""Ceiling control: the annotated parts, segmented by an hourglass that is trained on them."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from partbench.data.batch import Batch
from partbench.data.reader import UNSURE
from partbench.errors import BadInput
from partbench.method import DataInfo, Method, MethodSettings
from partbench.metrics.ceilings import greedy_grouping
from partbench.nn.hourglass import Hourglass, block
from partbench.nn.shared_batch import total
from partbench.outputs.part_maps import PartMaps, strongest
from partbench.training_protocols import PROTOCOLS

IGNORED = -1


class SupervisedPartsSettings(MethodSettings):
    """A small network at half the resolution, and Adam."""

    k: int = Field(
        4, ge=1, le=254, description="number of parts, into which the true labels are merged"
    )
    width: int = Field(32, ge=1, description="channels")
    depth: int = Field(4, ge=1, description="halvings inside the hourglass")
    epochs: int = Field(100, ge=0)
    batch_size: int = Field(16, ge=1, description="images per step, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="Adam, constant")


class SupervisedParts(Method):
    """K parts and the background, trained with the cross-entropy of each pixel.

    The K parts are the data set's labels, merged two at a time so that their NMI with the labels
    stays as large as possible. These are the parts of the oracle that the report compares every
    number with; the control shows how well a network of this size learns them.
    """

    Settings = SupervisedPartsSettings
    VARIANTS = {
        "deepfashion": PROTOCOLS["deepfashion"],
        "pascal": PROTOCOLS["pascal"],
        "k8": {"k": 8},
        "k16": {"k": 16},
        "untrained": {"epochs": 0},
    }
    REDUCED = {
        "demo": {"width": 16, "epochs": 6, "batch_size": 32, "learning_rate": 5e-3},
        "subset": {"width": 16, "epochs": 20, "learning_rate": 3e-3},
    }
    role = "ceiling"
    references = ("newell2016hourglass",)
    several_devices = True
    learns_from = "parts"

    def __init__(self, settings: SupervisedPartsSettings, data: DataInfo) -> None:
        super().__init__(settings, data)
        width = settings.width
        self.network = nn.Sequential(
            block(3, width, stride=2),
            Hourglass(width, settings.depth),
            nn.Conv2d(width, settings.k + 1, 1),
        )
        self.register_buffer("target_of", torch.full((UNSURE + 1,), IGNORED))

    target_of: Tensor
    """[256] int64, the target of each true label: 0 is the background, 1 to K are the parts."""

    def fit(self, passes: Callable[[], Iterator[Batch]]) -> None:
        """Merge the true labels into K groups, given the number of training pixels of each.

        Raises:
            BadInput: no training image has a part.
        """
        counts = torch.zeros(UNSURE + 1, dtype=torch.int64, device=self.target_of.device)
        for batch in passes():
            assert batch.parts is not None  # the training loop checks it
            counts += batch.parts.flatten().long().bincount(minlength=UNSURE + 1)
        inside = counts[1:UNSURE]
        if not inside.any():
            raise BadInput("supervised_parts: no training image has a labelled part")
        groups = torch.from_numpy(greedy_grouping(inside.cpu().numpy(), self.settings.k))
        self.target_of[0] = 0
        self.target_of[1:UNSURE] = torch.where(groups < 0, IGNORED, groups + 1)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return the cross-entropy, averaged over the pixels whose label is known."""
        assert batch.parts is not None  # the training loop checks it
        logits = self._logits(batch.images)
        targets = self.target_of[batch.parts.long()]
        error = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return {"loss": total(error) / total((targets != IGNORED).sum())}

    def _logits(self, images: Tensor) -> Tensor:
        """Return the logits of background and parts, [B, K + 1, S, S] float32."""
        logits = self.network(self.normalize(images)).float()
        return F.interpolate(logits, images.shape[2:], mode="bilinear")

    def optimizers(self) -> dict[str, Optimizer]:
        """Return one Adam for all parameters."""
        return {"all": Adam(self.parameters(), self.settings.learning_rate)}

    def part_maps(self, images: Tensor) -> PartMaps:
        """Return the predicted parts and the predicted foreground."""
        logits = self._logits(images)
        parts = logits[:, 1:]
        return PartMaps(logits.softmax(1)[:, 1:], strongest(parts), strongest(logits) > 0)
