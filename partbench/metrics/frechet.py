"""The Frechet distance between features of two sets of images, and its value for infinitely many.

The features of each set are taken for a sample of a normal distribution. The distance is

    |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr sqrt(S_1 S_2)

with covariances over n - 1 (Dowson and Landau 1982; Heusel et al., NeurIPS 2017, who call it FID on
the features of the Inception network of 2015). No matrix root is needed: with S_i = F_i^T F_i, the
last trace is the sum of the singular values of F_1 F_2^T. Fewer samples than features are such a
factor themselves, so all is then computed in their span.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from partbench.errors import BadInput

Array = NDArray[np.float64]
ROWS = 4096
"""Samples that are brought to float64 at once."""
ACCURACY = 1e-9
"""Error that rounding may bring into the trace of the root, relative to the traces of both
covariances, before it is computed in a slower way."""
POINTS = 15
"""Sizes at which the extrapolation measures, as in Chong and Forsyth's code."""
ORDERS = 4
"""Random orders of the images whose distances are averaged; that code has one, which is noisier."""
POINTS_OF_HALF = 2
"""Sizes for each half behind the interval: those between tell little more, and each takes time."""
LEAST = 5000
"""The smallest of these sizes, as in that code; of fewer than twice as many images, the half."""
FEWEST = 8
"""Images that the extrapolation needs of each set."""
Z = 1.959963984540054
"""Of a 95 % interval."""


class Statistics(NamedTuple):
    """Mean and covariance of features: all that the distance needs of a set."""

    n: int
    """Samples; 0 where it is not known."""
    mean: Array
    """[D]."""
    covariance: Array
    """[D, D], over n - 1."""


class Moments:
    """Mean and scatter of features, gathered batch by batch in float64.

    Those of parts of a set, gathered by several processes, are merged to those of the set (Chan,
    Golub and LeVeque 1979).

    Args:
        dimensions: D, the number of features.
    """

    def __init__(self, dimensions: int) -> None:
        self.n = 0
        self.mean: Array = np.zeros(dimensions)
        self.scatter: Array = np.zeros((dimensions, dimensions))
        """[D, D], the sum of outer products of deviations from the mean."""

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Self:
        """Return the moments of features [N, D], of which few are in float64 at once."""
        moments = cls(features.shape[1])
        for start in range(0, len(features), ROWS):
            moments.add(features[start : start + ROWS])
        return moments

    def add(self, features: ArrayLike) -> None:
        """Count features [B, D], B at least 1, in."""
        batch = np.asarray(features, np.float64)
        mean = batch.mean(0)
        deviations = batch - mean
        self._join(len(batch), mean, deviations.T @ deviations)

    def merge(self, other: Self) -> None:
        """Count the samples of another set in."""
        if other.n:
            self._join(other.n, other.mean, other.scatter)

    def _join(self, n: int, mean: Array, scatter: Array) -> None:
        total = self.n + n
        shift = mean - self.mean
        self.scatter += scatter + np.outer(shift, shift) * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total

    def statistics(self) -> Statistics:
        """Return mean and covariance.

        Raises:
            BadInput: there are fewer than two samples.
        """
        if self.n < 2:
            raise BadInput(f"a covariance needs two images or more, and there are {self.n}")
        return Statistics(self.n, self.mean, self.scatter / (self.n - 1))


def distance(first: Statistics, second: Statistics) -> float:
    """Return the Frechet distance of two sets by their statistics; at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of L^T S_2 L, a symmetric
    matrix, with S_1 = L L^T. Where S_1 is singular, or eigenvalues are so small that rounding shows
    in their roots, it is the sum of singular values of factors, which have all their digits.
    """
    shift = first.mean - second.mean
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    root = _trace_of_root(first.covariance, second.covariance, ACCURACY * traces)
    if root is None:
        factors = _root(first.covariance), _root(second.covariance)
        root = float(_singular_values(*factors).sum())
    return max(0.0, float(shift @ shift) + traces - 2 * root)


def _trace_of_root(covariance: Array, other: Array, error: float) -> float | None:
    """Return tr sqrt(S_1 S_2) by eigenvalues; None if it may be off by more than `error`."""
    try:
        lower = linalg.cholesky(covariance, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    product, _ = linalg.lapack.dsygst(other, lower, itype=2, lower=1)
    values = linalg.eigvalsh(
        product, lower=True, overwrite_a=True, check_finite=False, driver="evd"
    )
    if values[-1] <= 0:
        return None
    rounding = np.finfo(np.float64).eps * values[-1]
    roots = np.sqrt(np.maximum(values, rounding))
    # An eigenvalue is off by the rounding of the largest, its root by half of that over the root.
    return float(roots.sum()) if (rounding / (2 * roots)).sum() <= error else None


def distance_of_features(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the Frechet distance of features [N, D] and [M, D], N and M at least 2.

    If a set has no more samples than features, it is computed in the samples' span.
    """
    if min(len(first), len(second)) > first.shape[1]:
        return distance(Moments.of(first).statistics(), Moments.of(second).statistics())
    return _distance_of_factors(_factor(first), _factor(second))


class Gathered:
    """Features of a set, gathered batch by batch as `Moments.of` gathers them, in its blocks.

    Kept are the moments of whole blocks, the samples after them, and, while there are no more
    samples than features, all samples.

    Args:
        dimensions: D, the number of features.
    """

    def __init__(self, dimensions: int) -> None:
        self.moments = Moments(dimensions)
        self.n = 0
        self._few: list[NDArray[np.floating]] = []
        self._rest: list[NDArray[np.floating]] = []

    def add(self, features: NDArray[np.floating]) -> None:
        """Count features [B, D] in."""
        self.n += len(features)
        self._few = [*self._few, np.array(features)] if self.few else []
        self._rest.append(np.array(features))
        if self.n - self.moments.n >= ROWS:
            rows = np.concatenate(self._rest)
            whole = len(rows) // ROWS * ROWS
            for start in range(0, whole, ROWS):
                self.moments.add(rows[start : start + ROWS])
            self._rest = [rows[whole:].copy()]

    @property
    def few(self) -> bool:
        """Whether there are no more samples than features."""
        return self.n <= self.moments.mean.size

    def statistics(self) -> Statistics:
        """Return mean and covariance; see `Moments.statistics`."""
        moments = Moments(self.moments.mean.size)
        moments.n, moments.mean = self.moments.n, self.moments.mean
        moments.scatter = self.moments.scatter.copy()
        if sum(map(len, self._rest)):
            moments.add(np.concatenate(self._rest))
        return moments.statistics()

    def factor(self) -> tuple[Array, Array]:
        """Return what `_factor` returns of all samples."""
        if self.few:
            return _factor(np.concatenate(self._few))
        statistics = self.statistics()
        return statistics.mean, _root(statistics.covariance)


def distance_of_gathered(first: Gathered, second: Gathered) -> float:
    """Return `distance_of_features` of two sets, at least 2 samples each, bit for bit."""
    if first.few or second.few:
        return _distance_of_factors(first.factor(), second.factor())
    return distance(first.statistics(), second.statistics())


def outcomes(generated: NDArray[np.floating], real: NDArray[np.floating]) -> Array:
    """Return outcomes by real image whose mean is the Frechet distance.

    The distance is no mean over images. The outcome of real image i is the distance, plus what
    image i adds to it to first order (the influence function), plus what the generated images i,
    i + M, i + 2M and so on add. Their variance over M is that of the distance to first order, so
    intervals for means hold for it. It says nothing of the bias of few images.

    Args:
        generated: features [N, D].
        real: features [M, D].

    Returns:
        [M].
    """
    own, towards_real = _influences(generated, real)
    theirs, towards_generated = _influences(real, generated)
    shift = own.mean(0) - theirs.mean(0)
    of_generated = _added(own, 2 * shift, towards_real)
    of_real = _added(theirs, -2 * shift, towards_generated)
    m, n = len(real), len(generated)
    shares = np.bincount(np.arange(n) % m, of_generated, minlength=m) * (m / n)
    return distance_of_features(generated, real) + of_real + shares


class Extrapolation(NamedTuple):
    """The Frechet distance for infinitely many images."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    sizes: tuple[int, ...]
    """Numbers of generated images at which the distance was measured."""
    distances: tuple[float, ...]
    """The distances there."""


def infinity(
    generated: NDArray[np.floating], real: NDArray[np.floating], draws: int, seed: int
) -> Extrapolation:
    """Return the distance for infinitely many generated images, with a 95 % interval.

    The distance of n images is too large by about c / n. A line through the distances of random
    subsets of several sizes against 1 / n ends, at 0, in the value without this bias (Chong and
    Forsyth, CVPR 2020, "FID infinity"). The real images stay the same, as theirs do, so their own
    bias stays.

    The interval is our addition: the same with random halves of both sets, drawn without
    replacement. The variance over halves is that over whole sets (the delete-half jackknife, Shao
    and Wu 1989). Simulated with 100 to 1000 images of 5 to 64 numbers, it is 1.25 to 1.75 times as
    wide as the spread of the value asks for, the most where the bias is largest. A bootstrap draws
    images twice and would add a bias of its own.

    Args:
        generated: features [N, D], N at least `FEWEST`.
        real: features [M, D], M at least `FEWEST`.
        draws: halves, at least 2.
        seed: of all draws.

    Raises:
        BadInput: there are too few images.
    """
    if min(len(generated), len(real)) < FEWEST:
        raise BadInput(
            f"the extrapolation to infinitely many images needs {FEWEST} or more of each set, and "
            f"there are {len(generated)} and {len(real)}; give more"
        )
    rng = np.random.default_rng(seed)
    value, sizes, distances = _extrapolated(generated, real, POINTS, rng)
    halves = []
    for _ in range(draws):
        some, others = (
            part[rng.permutation(len(part))[: len(part) // 2]] for part in (generated, real)
        )
        halves.append(_extrapolated(some, others, POINTS_OF_HALF, rng)[0])
    half = Z * float(np.std(halves, ddof=1))
    return Extrapolation(
        value, value - half, value + half, tuple(sizes.tolist()), tuple(distances.tolist())
    )


def _extrapolated(
    generated: NDArray[np.floating],
    real: NDArray[np.floating],
    points: int,
    rng: np.random.Generator,
) -> tuple[float, NDArray[np.int64], Array]:
    """Return the value of the line at 1 / n = 0, the sizes n, and the distances there."""
    n = len(generated)
    sizes = np.unique(np.linspace(min(LEAST, n // 2), n, points).astype(np.int64))
    orders = [_by_size(generated[rng.permutation(n)], real, sizes[:-1]) for _ in range(ORDERS)]
    distances = np.append(np.mean(orders, 0), distance_of_features(generated, real))
    return float(np.polyfit(1 / sizes, distances, 1)[1]), sizes, distances


def _by_size(
    generated: NDArray[np.floating], real: NDArray[np.floating], sizes: NDArray[np.int64]
) -> Array:
    """Return the distances of the first n generated images for each of some sizes n, ascending."""
    dimensions = generated.shape[1]
    if min(sizes[0], len(real)) <= dimensions:
        whole = _factor(real)
        return np.array([_distance_of_factors(_factor(generated[:n]), whole) for n in sizes])
    statistics, moments = Moments.of(real).statistics(), Moments(dimensions)
    distances = []
    for start, stop in zip([0, *sizes[:-1]], sizes, strict=True):
        moments.merge(Moments.of(generated[start:stop]))
        distances.append(distance(moments.statistics(), statistics))
    return np.array(distances)


def _distance_of_factors(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    """Return the distance of two sets, each given as `_factor` returns it."""
    (mean, factor), (other_mean, other) = first, second
    shift = mean - other_mean
    traces = np.square(factor).sum() + np.square(other).sum()
    return max(0.0, float(shift @ shift + traces - 2 * _singular_values(factor, other).sum()))


def _factor(features: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return the mean [D] of features and F [min(N, D), D] with F^T F their covariance."""
    n, dimensions = features.shape
    if n > dimensions:
        statistics = Moments.of(features).statistics()
        return statistics.mean, _root(statistics.covariance)
    values = np.asarray(features, np.float64)
    mean = values.mean(0)
    return mean, (values - mean) / np.sqrt(n - 1)


def _root(covariance: Array) -> Array:
    """Return F [r, D] with F^T F = S, r its rank, by a symmetric eigendecomposition."""
    values, vectors = linalg.eigh(covariance, check_finite=False, driver="evd")
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return np.sqrt(values[kept])[:, None] * vectors.T[kept]


def _singular_values(factor: Array, other: Array) -> Array:
    values: Array = linalg.svd(factor @ other.T, compute_uv=False, check_finite=False)
    return values


def _influences(
    features: NDArray[np.floating], others: NDArray[np.floating]
) -> tuple[Array, Array]:
    """Return features in float64 and T, the matrix that moves their normal to the others'.

    T is symmetric, and the derivative of -2 tr sqrt(S S') by S is -T. In directions in which the
    features do not vary it is 0.
    """
    _, root = _factor(features)
    if len(features) <= features.shape[1]:
        _, values, vectors = linalg.svd(root, full_matrices=False, check_finite=False)
        kept = values > values[0] * max(root.shape) * np.finfo(np.float64).eps
        root = values[kept, None] * vectors[kept]
    _, other = _factor(others)
    left, _, right = linalg.svd(root @ other.T, full_matrices=False, check_finite=False)
    inverse = root / np.square(root).sum(1, keepdims=True)
    transport = inverse.T @ (left @ (right @ other))
    return np.asarray(features, np.float64), transport


def _added(features: Array, slope: Array, transport: Array) -> Array:
    """Return what each of features [N, D] adds to the distance, to first order; mean 0."""
    deviations = features - features.mean(0)
    curvature = np.square(deviations).sum(1) - ((deviations @ transport) * deviations).sum(1)
    added = deviations @ slope + curvature
    return added - added.mean()
