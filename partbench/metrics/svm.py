"""Linear support vector machines, one against the rest, of more features than fit the memory.

For each class, with y_i = 1 for its samples and -1 for the others, this finds the minimiser of

    1/2 ||w||^2  +  C * sum_i loss(1 - y_i (w x_i + b))        (the intercept b is free)

where loss(t) is max(0, t) for the hinge (Cortes and Vapnik, Machine Learning 20, 1995) and
max(0, t)^2 for the squared hinge. This is LIBSVM's linear machine. LIBLINEAR, behind
scikit-learn's `LinearSVC`, penalises the intercept as one more weight; with `intercept_scaling`
much greater than the features the two are the same.

The samples enter by their Gram matrix alone: w = sum_i beta_i x_i, where beta_i = y_i alpha_i is
the solution of the dual. So features are read once, block by block, and what is solved depends on
the number of samples, not on that of the features. LIBSVM, by scikit-learn's `SVC`, solves the
dual of each class. The squared hinge is the hinge without an upper limit on alpha and with
1 / (2 C) added to the diagonal of the Gram matrix (Shawe-Taylor and Cristianini, 2004, chapter 7).

LIBSVM stops by a bound on the gradient. The rule here is the duality gap: the objective at the
solution less the dual's, which bounds the distance to the optimum. LIBSVM runs again with a
tighter bound until the gap is at most `GAP` of the objective.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from scipy.optimize import brentq
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC

from partbench.errors import BadInput
from partbench.metrics.feature_blocks import (
    FloatArray,
    check_cs,
    check_features,
    check_labels,
    column_blocks,
    deviation,
    linear_scores,
)

Loss = Literal["hinge", "squared hinge"]

GAP = 1e-4
"""Duality gap at which a machine is solved, as a share of its objective."""
MOST_SAMPLES = 32_768
"""Whose Gram matrix takes 8 GiB."""
_BOUNDS = (1e-3, 1e-4, 1e-5, 1e-6)  # on LIBSVM's gradient, whose unit is the margin
_MOST_STEPS = 10_000_000  # of LIBSVM, one pair of samples each
_NO_LIMIT = 1e12  # on alpha
_BLOCK = 1 << 24  # float64 elements of a block of columns: 128 MiB, long runs of a row on the disk


@dataclass(frozen=True)
class Gram:
    """The products of centred (and standardised) samples, with the way back.

    Attributes:
        products: [n, n] float64.
        mean, scale: [D] float64; what was subtracted from each feature and what it was then
            divided by (ones without standardisation and for constant features).
        features: [n, D]; the samples as given (not copied).
    """

    products: FloatArray
    mean: FloatArray
    scale: FloatArray
    features: NDArray

    def to_features(self, machines: "Machines") -> tuple[FloatArray, FloatArray]:
        """Express machines of all samples in the features as they were given.

        Returns:
            coef [K, D] and intercept [K], float64; scores are features @ coef.T + intercept.
        """
        coef = np.empty((len(machines.intercept), len(self.mean)))
        for start, block in column_blocks(self.features, _BLOCK):
            stop = start + block.shape[1]
            block -= self.mean[start:stop]
            block /= self.scale[start:stop]
            np.matmul(machines.beta.T, block, out=coef[:, start:stop])
        coef /= self.scale
        return coef, machines.intercept - coef @ self.mean


@dataclass(frozen=True)
class Machines:
    """The solutions of one C, a machine a class.

    Attributes:
        beta: [n, K] float64, y_i alpha_i up to a factor; 0 for samples that are no support
            vectors.
        intercept: [K] float64.
        objective: [K] float64.
        gap: [K] float64; by how much the objective may exceed its minimum, as a share of it.
    """

    beta: FloatArray
    intercept: FloatArray
    objective: FloatArray
    gap: FloatArray

    def scores(self, products: FloatArray) -> FloatArray:
        """Return scores [N, K] of samples whose products with the training samples are [N, n]."""
        return products @ self.beta + self.intercept


@dataclass(frozen=True)
class SvmModels:
    """One set of machines per C, for features as given.

    Attributes:
        classes: [K] the labels, sorted; the order of the scores.
        cs: the inverse penalties.
        coef: [C, K, D] float64.
        intercept: [C, K] float64.
        objective: [C, K] float64, see `Machines`.
        gap: [C, K] float64, see `Machines`.
    """

    classes: NDArray[np.int64]
    cs: tuple[float, ...]
    coef: FloatArray
    intercept: FloatArray
    objective: FloatArray
    gap: FloatArray

    def scores(self, features: NDArray) -> FloatArray:
        """Return signed distances in units of the margin, [C, N, K] float64, for [N, D] features.

        The features are read by blocks of rows.
        """
        n_c, n_k, _ = self.coef.shape
        values = linear_scores(
            features, self.coef.reshape(n_c * n_k, -1), self.intercept.reshape(-1)
        )
        return np.ascontiguousarray(values.reshape(-1, n_c, n_k).transpose(1, 0, 2))


def gram(features: NDArray, standardize: bool = False) -> Gram:
    """Return the Gram matrix of centred samples, summed over blocks of columns in float64.

    Centring moves the free intercept alone, and saves digits where features are far from 0.

    Args:
        features: [n, D] float32 or float64 (integers too), an array or a memory map, read once.
        standardize: divide each feature by its standard deviation (ddof 0); a constant feature is
            only centred.

    Memory: the matrix, n * n float64, and a block of 128 MiB.

    Raises:
        BadInput: not a matrix of numbers, no samples, too many of them, a feature that is not
            finite (the row is named), or no feature that varies.
    """
    check_features(features, "features")
    n, d = features.shape
    if n > MOST_SAMPLES:
        raise BadInput(
            f"features: {n} samples, whose Gram matrix would take {n * n / 2**27:.0f} GiB; a "
            f"support vector machine is fitted to at most {MOST_SAMPLES}: set `limit` for the "
            "training split, or `solver: logistic`"
        )
    mean, scale = np.empty(d), np.ones(d)
    products = np.zeros((n, n), order="F")
    varies = False
    for start, block in column_blocks(features, _BLOCK):
        part = slice(start, start + block.shape[1])
        mean[part] = block.mean(0)
        block -= mean[part]
        spread = deviation(np.einsum("nd,nd->d", block, block) / n, mean[part], n)
        varies |= bool((np.ptp(block, axis=0) > 0).any())
        if standardize:
            scale[part] = spread
            block /= spread
        # The lower triangle, added up in place: half the work, and no second [n, n].
        products = dsyrk(1.0, block.T, beta=1.0, c=products, trans=1, lower=1, overwrite_c=1)
    if not varies:
        raise BadInput(
            f"features: all {d} features are constant over the {n} samples, so there is nothing "
            f"to learn from; check how they were extracted."
        )
    _mirror(products)
    return Gram(products.T, mean, scale, features)


def _mirror(products: FloatArray) -> None:
    """Copy the lower triangle to the upper one, in place."""
    for start in range(0, len(products), 256):
        stop = start + 256
        products[start:stop, stop:] = products[stop:, start:stop].T
        square = products[start:stop, start:stop]
        square[:] = np.tril(square) + np.tril(square, -1).T


def solve(
    products: FloatArray, codes: NDArray[np.int64], n_classes: int, c: float, loss: Loss = "hinge"
) -> Machines:
    """Solve the dual of each class.

    Args:
        products: [n, n] float64, those of `gram`, of all samples or some.
        codes: [n] class indices in 0..n_classes - 1; at least two classes have samples. A class
            without samples scores -1 for all samples.
        n_classes: K.
        c: inverse penalty, positive; LIBSVM's and LIBLINEAR's C.
        loss: of a sample.

    Memory: for the squared hinge a copy of `products`.

    Raises:
        BadInput: a class has not reached the duality gap.
    """
    kernel, limit = np.ascontiguousarray(products), c
    if loss == "squared hinge":
        kernel, limit = products.copy(order="C"), _NO_LIMIT
        kernel.flat[:: len(kernel) + 1] += 1 / (2 * c)
    n = len(codes)
    machines = Machines(np.zeros((n, n_classes)), *(np.zeros(n_classes) for _ in range(3)))
    for k in range(n_classes):
        if not (codes == k).any():
            machines.intercept[k] = -1.0
            continue
        for bound in _BOUNDS:
            _solve_class(machines, k, kernel, products, codes, c, limit, bound, loss)
            if machines.gap[k] <= GAP:
                break
        else:
            raise BadInput(
                f"a support vector machine with C = {c:g} and the {loss} has not converged: its "
                f"duality gap is {machines.gap[k]:.2g} of its objective; standardise the features "
                "or lower C"
            )
    return machines


def _solve_class(
    machines: Machines,
    k: int,
    kernel: FloatArray,
    products: FloatArray,
    codes: NDArray[np.int64],
    c: float,
    limit: float,
    bound: float,
    loss: Loss,
) -> None:
    """Solve one class with one bound on LIBSVM's gradient; write it into `machines`."""
    own = codes == k
    model = SVC(C=limit, kernel="precomputed", tol=bound, max_iter=_MOST_STEPS)
    with config_context(assume_finite=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gap says so
        model.fit(kernel, own)
    beta = np.zeros(len(codes))
    beta[model.support_] = model.dual_coef_[0]
    intercept = float(model.intercept_[0])
    moved = products[:, model.support_] @ model.dual_coef_[0]
    square = float(beta @ moved)
    dual = float(np.abs(beta).sum()) - square / 2
    if loss == "squared hinge":
        dual -= float(beta @ beta) / (4 * c)
    margins = np.where(own, 1, -1) * (moved + intercept)
    stretch = _stretch(margins, square, c, loss)
    objective = stretch**2 * square / 2 + c * float(_losses(stretch * margins, loss).sum())
    machines.beta[:, k], machines.intercept[k] = stretch * beta, stretch * intercept
    machines.objective[k], machines.gap[k] = objective, (objective - dual) / objective


def _losses(margins: FloatArray, loss: Loss) -> FloatArray:
    below = np.maximum(1 - margins, 0)
    return below if loss == "hinge" else below**2


def _stretch(margins: FloatArray, square: float, c: float, loss: Loss) -> float:
    """Return the factor of weights and intercept at which the objective is least.

    LIBSVM leaves samples short of the margin by its bound. If C is great and the margin wide, as
    of separable samples, their losses would be most of the objective.
    """

    def slope(factor: float) -> float:
        below = np.maximum(1 - factor * margins, 0)
        pull = (below > 0) if loss == "hinge" else 2 * below
        return factor * square - c * float(margins @ pull)

    low, high = 0.5, 2.0
    if not slope(low) < 0 < slope(high):
        return 1.0
    return float(brentq(slope, low, high, xtol=1e-13))


def fit_svm(
    features: NDArray,
    labels: NDArray[np.integer],
    cs: Sequence[float],
    loss: Loss = "hinge",
    *,
    standardize: bool = False,
) -> SvmModels:
    """Fit machines, one against the rest, for every C.

    Args:
        features: [n, D] as in `gram`.
        labels: [n] integers, any values, at least two different ones.
        cs: inverse penalties in LIBLINEAR's and LIBSVM's convention.
        loss: of a sample.
        standardize: penalise the weights of standardised features (the result still applies to
            the features as given).

    Raises:
        BadInput: from `gram` and `solve`; labels that are not n integers, a single class, or a C
            that is not positive and finite.
    """
    check_features(features, "features")
    check_labels(labels, len(features), "labels")
    check_cs(cs)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(f"labels: only one class ({classes[0]}); a classifier needs at least two.")
    samples = gram(features, standardize)
    solved = [solve(samples.products, codes, len(classes), c, loss) for c in cs]
    coef, intercept = zip(*map(samples.to_features, solved), strict=True)
    return SvmModels(
        classes,
        tuple(cs),
        np.stack(coef),
        np.stack(intercept),
        np.stack([machines.objective for machines in solved]),
        np.stack([machines.gap for machines in solved]),
    )
