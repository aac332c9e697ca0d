"""The Frechet distance between two sets of features, as a function and batch by batch."""

from typing import Any, Self

from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics import frechet
from partbench.metrics.feature_blocks import check_features, check_finite
from partbench.metrics.frechet import Gathered
from partbench.metrics.intervals import over_seeds_and_samples
from partbench.probes.generation import VERSION
from partbench.rulers.common import Estimate, array, public


@public
def frechet_distance(generated: Any, real: Any, *, interval: bool = True) -> Estimate:
    """Return the Frechet distance between the features of generated and of real images.

    Dowson and Landau 1982; on the features of the Inception network of 2015 it is the FID (Heusel
    et al., NeurIPS 2017). Covariances are over n - 1. Of n images it is too large,
    by about c / n.

    Args:
        generated: [N, D], N at least 2.
        real: [M, D].
        interval: whether to give the interval over images, which takes some times as long.

    Returns:
        The distance, in the square of the features' unit.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than two images.
    """
    generated, real = _features(generated, "generated"), _features(real, "real")
    _check_alike(generated.shape[1], real.shape[1])
    for name, features in (("generated", generated), ("real", real)):
        if len(features) < 2:
            raise BadInput(f"{name}: a covariance needs two images or more, and there is one")
    ends = None
    if interval:
        _, *pair = over_seeds_and_samples(frechet.outcomes(generated, real)[None])
        ends = pair[0], pair[1]
    value = frechet.distance_of_features(generated, real)
    return Estimate(value, ends, "", len(generated), VERSION)


class FrechetDistance:
    """`frechet_distance` batch by batch, without an interval, in constant memory.

    Kept are the mean and the covariance of each set, and a block of samples that are not in them
    yet. The result is that of the whole sets, bit for bit.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._sets: dict[bool, Gathered] = {}

    @public
    def update(self, features: Any, *, real: bool) -> Self:
        """Count features [B, D] of real or of generated images in.

        Raises:
            ValueError: as `frechet_distance`.
        """
        features = array(features, "features")
        if features.ndim == 2 and not len(features):
            return self
        features = _features(features, "features")
        for gathered in self._sets.values():
            _check_alike(features.shape[1], gathered.moments.mean.size)
        self._sets.setdefault(bool(real), Gathered(features.shape[1])).add(features)
        return self

    @public
    def compute(self) -> Estimate:
        """Return the distance of all batches so far.

        Raises:
            ValueError: fewer than two images of either set.
        """
        numbers = [each.n if (each := self._sets.get(real)) else 0 for real in (False, True)]
        if min(numbers) < 2:
            raise BadInput(
                f"a covariance needs two images or more, and there are {numbers[0]} generated and "
                f"{numbers[1]} real ones"
            )
        value = frechet.distance_of_gathered(self._sets[False], self._sets[True])
        return Estimate(value, None, "", numbers[0], VERSION)


def _features(features: Any, name: str) -> NDArray[Any]:
    features = array(features, name)
    check_features(features, name)
    check_finite(features, name)
    return features


def _check_alike(first: int, second: int) -> None:
    if first != second:
        raise BadInput(f"sets of {first} and {second} features cannot be compared")
