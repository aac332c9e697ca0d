"""How a run's features are clustered; `partbench.pseudo_labels` does it."""

from pydantic import Field

from partbench.outputs.trunks import ENCODER
from partbench.settings import Settings


class ClusterSettings(Settings):
    """How features are clustered; the defaults are those of the thesis's code."""

    clusters: int = Field(2000, ge=2, description="of k-means")
    part: str = Field(ENCODER, description="of the run's method: which of its networks is read")
    dimensions: int = Field(256, ge=1, description="principal components that are clustered")
    iterations: int = Field(20, ge=1, description="of k-means")
    seed: int = Field(31, ge=0, description="of k-means; the code's")
