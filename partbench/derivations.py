"""The forms of a data set that repeats another one, as a configuration asks for them."""

from typing import Literal

from pydantic import Field

from partbench.clustering import ClusterSettings
from partbench.names import Name
from partbench.run import Run
from partbench.search import SearchSettings
from partbench.settings import Settings


class PredictedForeground(Settings):
    """A data set that repeats another one with the foreground that a run predicts."""

    of: Name = Field(description="the other data set, a key of `data` with a reader")
    by: str = Field(description="the run: method/variant/train/seed")
    found_in: Name | None = Field(
        None,
        description="the same images before they were cut, a key of `data` with a reader: there "
        "the foreground is predicted, and cut as the images were; none: it is predicted on `of`",
    )

    @property
    def run(self) -> Run:
        """The run that predicts the foreground."""
        return Run.parse(self.by, "by")


class SceneNeighbours(Settings):
    """A data set that repeats another one with the neighbours of its images."""

    of: Name = Field(description="the other data set, a key of `data` with a reader")
    neighbours: SearchSettings = Field(description="how they are found")


class PseudoLabels(ClusterSettings):
    """A data set that repeats another one with the clusters of a run's features."""

    of: Name = Field(description="the other data set, a key of `data` with a reader")
    by: str = Field(description="the run: method/variant/train/seed")

    @property
    def run(self) -> Run:
        """The run whose features are clustered."""
        return Run.parse(self.by, "by")

    @property
    def clustering(self) -> ClusterSettings:
        """How they are clustered."""
        return ClusterSettings(**self.model_dump(exclude={"of", "by"}))


class FlowSettings(Settings):
    """How optical flow is estimated and drawn."""

    network: Literal["raft_large", "raft_small", "tvl1"] = Field(
        "raft_large",
        description="what estimates it: RAFT in one of two sizes, whose weights are fetched, or "
        "TV-L1, which needs none and takes long on large frames",
    )
    bound: float = Field(
        20.0,
        gt=0,
        description="motion that is drawn as the fastest, pixels of the video from a frame to the "
        "next; two-stream networks' custom",
    )

    @property
    def fetched(self) -> tuple[str, ...]:
        """The weights that partbench fetches, names of `partbench data list`."""
        return () if self.network == "tvl1" else (self.network,)


class OpticalFlow(Settings):
    """A data set that repeats another one with pictures of optical flow in place of its frames."""

    of: Name = Field(description="the other data set of clips, a key of `data` with a reader")
    flow: FlowSettings = Field(description="how it is estimated and drawn")


class SecondStream(Settings):
    """A data set that repeats another one with a run's features of the same clips, seen otherwise.

    A probe joins them with the features of what it measures.
    """

    of: Name = Field(description="the other data set, a key of `data` with a reader")
    by: str = Field(description="the run: method/variant/train/seed")
    stream: Name = Field(description="the data set of the same clips that the run describes")

    @property
    def run(self) -> Run:
        """The run that describes the clips."""
        return Run.parse(self.by, "by")
