"""The forms of a data set that repeats another one, as a configuration asks for them."""

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
