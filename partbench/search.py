"""How the neighbours of images are found; `partbench.scenes` finds them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from partbench.data.neighbours import NEIGHBOURS
from partbench.nn.tiles import OWN
from partbench.nn.timm_networks import TIMM, check_name
from partbench.settings import Settings, nearest

CODES = 256
"""Values of a byte of a code; as many tiles are needed to learn them."""
ALEXNET_SIDE = 224
"""Pixels; AlexNet's dense layers take the activations of images of this side alone."""
LEAST_PER_CLUSTER = 39
"""Images for each cluster, below which faiss takes k-means for ill-posed."""


class SearchSettings(Settings):
    """How neighbours are found; the defaults are those of the thesis's code."""

    network: str = Field(
        "alexnet",
        description="describes tiles. alexnet: DeepCluster's; mobilenet: MobileNetV1 x 0.25; "
        "random: a small network of fixed random weights, which needs no file; timm:NAME: a "
        "network of timm, whose file `weights` names",
    )
    weights: str | None = Field(
        None, min_length=1, description="file below the data root, of a network of timm"
    )
    side: int = Field(
        ALEXNET_SIDE,
        ge=8,
        multiple_of=2,
        description="of a tile as the network sees it, pixels; alexnet takes no other",
    )
    square: Literal["random", "center"] = Field(
        "random",
        description="which square of an image with `crop: whole` is cut into tiles; random: at a "
        "place drawn once, as in the code, which then squashes the whole image to mix it",
    )
    dimensions: int = Field(256, ge=1, description="principal components that are clustered")
    clusters: int = Field(
        1700,
        ge=1,
        description=f"of k-means; fewer where a split has not {LEAST_PER_CLUSTER} images for each. "
        "The thesis does not state them. The code has 1,700, lowered from 3,000, for an earlier "
        "version of the data",
    )
    iterations: int = Field(20, ge=1, description="of k-means")
    small_clusters: Literal["merge", "repeat"] = Field(
        "merge",
        description=f"clusters of too few images for {NEIGHBOURS} neighbours, at which the code "
        "gives up; merge: they join the nearest cluster; repeat: the neighbours that there are "
        "stand for the others too",
    )
    copies: Literal["allow", "exclude"] = Field(
        "allow",
        description="whether copies of an image (`copies` of coco) may be each other's "
        "neighbours, as in the code",
    )
    duplicates: float = Field(
        1e-3,
        ge=0,
        description="tiles whose squared distance is at most this share of the mean squared "
        "distance of two tiles show the same picture, and are no neighbours: COCO has some images "
        "twice",
    )
    large: int = Field(
        1_000_000,
        ge=CODES,
        description="images of a split from which an inverted file with product quantisation "
        "replaces the clusters; the settings below are its own",
    )
    lists: int = Field(4096, ge=1, description="inverted lists")
    code: int = Field(32, ge=1, description="bytes of a tile's code, at most `dimensions`")
    probes: int = Field(16, ge=1, description="lists that are searched")
    shortlist: int = Field(
        40,
        gt=NEIGHBOURS,
        description="tiles with the nearest codes, whose features themselves are compared",
    )
    learnt: int = Field(
        262_144, ge=CODES, description="tiles from which components, lists and codes are learnt"
    )
    batch_size: int = Field(64, ge=1, description="images that are described at once")
    seed: int = Field(4285, ge=0, description="of squares, k-means and codes; the code's")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        own = self.network in OWN
        if not own and not self.network.startswith(TIMM):
            raise ValueError(
                f"`network` is {self.network!r}; {nearest(self.network, [*OWN, f'{TIMM}NAME'])}"
            )
        if not own:
            check_name(self.network.removeprefix(TIMM))
        if own == (self.weights is not None):
            raise ValueError(
                "`weights` names the file of a network of timm, and of no other; "
                + ("leave it out" if own else f"give it for {self.network}")
            )
        if self.network == "alexnet" and self.side != ALEXNET_SIDE:
            raise ValueError(
                f"alexnet sees tiles of {ALEXNET_SIDE} px, and `side` is {self.side}; leave `side` "
                "out, or set `network` to another"
            )
        tiles = min(self.large, self.learnt)
        if self.lists > tiles:
            raise ValueError(
                f"{self.lists} lists cannot be learnt from {tiles} tiles; lower `lists`, or raise "
                "`large` and `learnt`"
            )
        return self

    @property
    def fetched(self) -> tuple[str, ...]:
        """The trained networks that must be there, names of `partbench data list`."""
        return ("deepcluster_alexnet",) if self.network == "alexnet" else ()
