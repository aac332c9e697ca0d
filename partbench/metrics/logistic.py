"""Multinomial logistic regression with an L2 penalty, exact, for many penalties at once.

For every C in a list this finds the minimiser of scikit-learn's `LogisticRegression` objective

    C * sum_i -log softmax(W x_i + b)[y_i]  +  1/2 ||W||_F^2        (the intercept b is free)

and spends its time where features are many and samples few. Three ideas do that:

1. The optimal rows of W lie in the span of the samples, and the penalty does not change under
   rotation. So the problem is solved in the r <= min(n - 1, D) coordinates Z in which the
   (centred) samples have an orthogonal basis, found by one eigendecomposition of the smaller of
   X X^T and X^T X, whatever the number of penalties.
2. All penalties are solved side by side: one product Z @ A serves every C.
3. In these coordinates Boehning's bound on the Hessian (Ann. Inst. Stat. Math. 44, 1992),
   C/2 (I - 11^T/K) (x) Z^T Z + I, is diagonal. With its constant 1/2 replaced by the curvature of
   the current iterate it preconditions a truncated Newton method (Nocedal and Wright, Numerical
   Optimization, 2nd ed., algorithm 7.1).

The Hessian is nowhere below the identity on W, hence ||W - W*|| <= ||gradient||: the stopping rule
||gradient|| <= tolerance * ||W|| bounds the relative error of the coefficients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.feature_blocks import (
    FloatArray,
    check_cs,
    check_features,
    check_labels,
    column_blocks,
    deviation,
    linear_scores,
    row_blocks,
)

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Rotation:
    """Samples in the coordinates of their principal axes, with the way back.

    Attributes:
        z: [n, r + 1] float64; the centred (and standardised) samples, and a last column of ones
            that stands for the intercept.
        mean, scale: [D] float64; what was subtracted from each feature and what it was then
            divided by (ones without standardisation and for constant features).
        features: [n, D]; the samples as given (not copied).
        power: [r] float64; squared lengths of the columns of z.
        axes: [D, r] float64; the principal axes, or None where the samples themselves express
            them (n < D).
    """

    z: FloatArray
    mean: FloatArray
    scale: FloatArray
    features: NDArray
    power: FloatArray
    axes: FloatArray | None

    def to_features(self, solution: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Express solutions in the features as they were given, neither centred nor scaled.

        Args:
            solution: [C, K, r + 1] float64 as `solve` returns it.

        Returns:
            coef [C, K, D] and intercept [C, K], float64; scores are features @ coef.T + intercept.
        """
        n_c, n_k, _ = solution.shape
        columns = solution[..., :-1].reshape(n_c * n_k, -1).T
        if self.axes is None:
            dual = self.z[:, :-1] @ (columns / self.power[:, None])
            weights = np.empty((len(self.mean), n_c * n_k))
            for start, block in column_blocks(self.features):
                stop = start + block.shape[1]
                block -= self.mean[start:stop]
                block /= self.scale[start:stop]
                weights[start:stop] = block.T @ dual
        else:
            weights = self.axes @ columns
        weights /= self.scale[:, None]
        coef = np.ascontiguousarray(weights.T).reshape(n_c, n_k, -1)
        return coef, solution[..., -1] - coef @ self.mean


def rotate(features: NDArray, standardize: bool = False) -> Rotation:
    """Rotate samples to their principal axes.

    Args:
        features: [n, D] float32 or float64 (integers too), an array or a memory map; it is read
            in blocks, twice or three times.
        standardize: divide each feature by its standard deviation (ddof 0); a constant feature is
            only centred.

    Memory: n * (r + 1) float64 for the result, and while it is computed about four square
    float64 matrices of size min(n, D); where n >= D also D * r for the axes.

    Precision: singular values are those of a Gram matrix, so directions weaker than about 1e-7 of
    the strongest are lost. Features whose scales differ more than that need `standardize`.

    Raises:
        BadInput: not a matrix of numbers, no samples, a feature that is not finite (the row is
            named), or no feature that varies.
    """
    check_features(features, "features")
    n, d = features.shape
    mean, scale, gram = (_wide_gram if n < d else _tall_gram)(features, standardize)
    power, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    kept = power > max(n, d) * _EPS * power[-1]
    if power[-1] <= 0 or not kept.any():
        raise BadInput(
            f"features: all {d} features are constant over the {n} samples, so there is nothing "
            f"to learn from; check how they were extracted."
        )
    power, vectors = power[kept], vectors[:, kept]
    z = np.ones((n, len(power) + 1))
    if n < d:
        np.multiply(vectors, np.sqrt(power), out=z[:, :-1])
        return Rotation(z, mean, scale, features, power, axes=None)
    for start, block in row_blocks(features):
        block -= mean
        block /= scale
        z[start : start + len(block), :-1] = block @ vectors
    return Rotation(z, mean, scale, features, power, axes=vectors)


def solve(
    z: FloatArray,
    codes: NDArray[np.int64],
    n_classes: int,
    cs: Sequence[float],
    tolerance: float = 1e-6,
    max_steps: int = 100,
) -> FloatArray:
    """Minimise the objective for every C, in the coordinates of `Rotation.z`.

    Two classes follow scikit-learn's binomial objective, which penalises the one vector
    w = W[1] - W[0] by 1/2 ||w||^2: the same as this objective at C / 2.

    Args:
        z: [n, r + 1] float64, the last column ones; rows of `Rotation.z`, all or some.
        codes: [n] class indices in 0..n_classes - 1.
        n_classes: K >= 2.
        cs: inverse penalties, positive.
        tolerance: bound on the relative error of the coefficients of each C (their Euclidean
            norm).
        max_steps: Newton steps.

    Memory: about ten arrays of max(n, r) * K * len(cs) float64.

    Returns:
        [C, K, r + 1] float64: coefficients, with the intercept last. They sum to zero over
        classes.

    Raises:
        BadInput: some C did not reach the tolerance in max_steps.
    """
    width = z.shape[1]
    inverse_penalty = np.asarray(cs, dtype=np.float64) / (2 if n_classes == 2 else 1)
    target = np.eye(n_classes)[codes][:, None, :]
    penalised = np.ones((width, 1, 1))
    penalised[-1] = 0
    mean_square = np.einsum("nr,nr->r", z, z) / len(z)
    rounding = 1e-14 * inverse_penalty * np.sqrt(len(z) * mean_square.sum())

    # Arrays are [coordinate or sample, C, class]; `active` are the Cs that have not converged.
    solution = np.zeros((width, len(cs), n_classes))
    active = np.arange(len(cs))
    scores = np.zeros((len(z), len(cs), n_classes))
    probability, loss = _softmax_loss(scores, target)
    first_norm = np.zeros(len(cs))
    for step in range(max_steps + 1):
        c = inverse_penalty[active]
        point = solution[:, active]
        gradient = _apply(z.T, (probability - target) * c[:, None]) + penalised * point
        curvature = 1 - np.einsum("nck,nck->nc", probability, probability)
        mean_curvature = np.maximum(curvature.sum(0) / (n_classes - 1), 1e-10)
        diagonal = penalised + (mean_square[:, None] * (c * mean_curvature))[..., None]
        gradient_norm = _norm(gradient, diagonal)
        allowed = np.maximum(tolerance * _norm(point[:-1]), rounding[active])
        if step == 0:
            first_norm = gradient_norm
        going = gradient_norm > allowed
        if not going.any():
            coefficients = solution - solution.mean(2, keepdims=True)
            return np.ascontiguousarray(coefficients.transpose(1, 2, 0))
        active, c, point = active[going], c[going], point[:, going]
        gradient, diagonal = gradient[:, going], diagonal[:, going]
        scores, probability, loss = scores[:, going], probability[:, going], loss[:, going]
        # Looser far from the optimum, and never tighter than the end needs.
        ratio = gradient_norm[going] / first_norm[active]
        forcing = np.clip(np.sqrt(ratio), 0.01, 0.3)
        direction, change = _newton_direction(
            z, penalised, probability, c, gradient, diagonal, forcing
        )
        size, scores, probability, loss = _line_search(
            target, c, point, gradient, scores, loss, direction, change
        )
        solution[:, active] += size[:, None] * direction
    names = ", ".join(f"{c:g}" for c in np.asarray(cs)[active])
    raise BadInput(
        f"logistic regression with C = {names} has not converged after {max_steps} Newton steps: "
        f"standardise the features or leave out the largest C."
    )


@dataclass(frozen=True)
class LogisticModels:
    """One fitted model per C.

    Attributes:
        classes: [K] the labels, sorted; the order of the scores.
        cs: the inverse penalties.
        coef: [C, K, D] float64, for features as given. Rows sum to zero over classes; with two
            classes scikit-learn's single vector is `coef[:, 1] - coef[:, 0]`.
        intercept: [C, K] float64.
    """

    classes: NDArray[np.int64]
    cs: tuple[float, ...]
    coef: FloatArray
    intercept: FloatArray

    def scores(self, features: NDArray) -> FloatArray:
        """Return log-odds up to a constant per sample, [C, N, K] float64, for [N, D] features."""
        n_c, n_k, _ = self.coef.shape
        values = linear_scores(
            features, self.coef.reshape(n_c * n_k, -1), self.intercept.reshape(-1)
        )
        return np.ascontiguousarray(values.reshape(-1, n_c, n_k).transpose(1, 0, 2))


def fit_logistic(
    features: NDArray,
    labels: NDArray[np.integer],
    cs: Sequence[float],
    *,
    standardize: bool = False,
    tolerance: float = 1e-6,
    max_steps: int = 100,
) -> LogisticModels:
    """Fit multinomial logistic regression for every C.

    Args:
        features: [n, D] as in `rotate`.
        labels: [n] integers, any values, at least two different ones.
        cs: inverse penalties in scikit-learn's convention (the loss is summed over samples).
        standardize: penalise the coefficients of standardised features (the result still
            applies to the features as given).
        tolerance, max_steps: as in `solve`.

    Memory: as `rotate` and `solve` say, and the result, C * K * D float64.

    Raises:
        BadInput: from `rotate` and `solve`; labels that are not n integers, a single class, or
            a C that is not positive and finite.
    """
    check_features(features, "features")
    check_labels(labels, len(features), "labels")
    check_cs(cs)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(f"labels: only one class ({classes[0]}); a classifier needs at least two.")
    rotation = rotate(features, standardize)
    solution = solve(rotation.z, codes, len(classes), cs, tolerance, max_steps)
    return LogisticModels(classes, tuple(cs), *rotation.to_features(solution))


def log_softmax(scores: FloatArray) -> FloatArray:
    """Return log-probabilities of scores over the last axis, same shape, float64."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _wide_gram(features: NDArray, standardize: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean [D], scale [D] and the Gram matrix [n, n] of the centred samples."""
    n, d = features.shape
    mean, scale, gram = np.empty(d), np.ones(d), np.zeros((n, n))
    for start, block in column_blocks(features):
        part = slice(start, start + block.shape[1])
        mean[part] = block.mean(0)
        block -= mean[part]
        if standardize:
            variance = np.einsum("nd,nd->d", block, block) / n
            scale[part] = deviation(variance, mean[part], n)
            block /= scale[part]
        gram += block @ block.T
    return mean, scale, gram


def _tall_gram(features: NDArray, standardize: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean [D], scale [D] and the scatter matrix [D, D] of the centred samples."""
    n, d = features.shape
    mean, scale, gram = np.zeros(d), np.ones(d), np.zeros((d, d))
    for _, block in row_blocks(features):
        mean += block.sum(0) / n
    for _, block in row_blocks(features):
        block -= mean
        gram += block.T @ block
    if standardize:
        scale = deviation(np.diagonal(gram) / n, mean, n)
        gram /= scale
        gram /= scale[:, None]
    return mean, scale, gram


def _apply(matrix: FloatArray, stack: FloatArray) -> FloatArray:
    """Return matrix [a, b] @ stack [b, C, K] as [a, C, K], in one product."""
    return (matrix @ stack.reshape(len(stack), -1)).reshape(-1, *stack.shape[1:])


def _dot(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the inner products [C] of stacks [a, C, K]."""
    return np.einsum("ack,ack->c", left, right)


def _norm(stack: FloatArray, diagonal: FloatArray | None = None) -> FloatArray:
    """Return norms [C] of [a, C, K]; with `diagonal`, the last row in its inverse metric.

    That last row is the gradient of the intercept, which no penalty bounds from below: divided
    by its own curvature it has the unit of the other rows.
    """
    square = _dot(stack, stack)
    if diagonal is not None:
        square += (stack[-1] ** 2 * (1 / diagonal[-1] - 1)).sum(-1)
    return np.sqrt(square)


def _softmax_loss(scores: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return probabilities [n, C, K] and log-losses [n, C] for one-hot `target` [n, 1, K]."""
    log_probability = log_softmax(scores)
    return np.exp(log_probability), -(log_probability * target).sum(-1)


def _newton_direction(
    z: FloatArray,
    penalised: FloatArray,
    probability: FloatArray,
    c: FloatArray,
    gradient: FloatArray,
    diagonal: FloatArray,
    forcing: FloatArray,
    max_products: int = 500,
) -> tuple[FloatArray, FloatArray]:
    """Solve Hessian @ direction = -gradient by preconditioned conjugate gradients, for each C.

    Args:
        diagonal: [r + 1, C, 1], the preconditioner; the same for all classes, so that directions
            keep summing to zero over classes, where the intercept's Hessian is singular.
        forcing: [C], the relative residual at which to stop.

    Returns:
        direction [r + 1, C, K] and `z @ direction` [n, C, K].
    """
    results = np.empty_like(gradient), np.empty_like(probability)
    weight = probability * c[:, None]
    direction, change = np.zeros_like(gradient), np.zeros_like(probability)
    residual = -gradient
    search = residual / diagonal
    size = _dot(residual, search)
    enough = forcing**2 * size
    active = np.arange(len(c))
    for _ in range(max_products):
        moved = _apply(z, search)
        bent = weight * (moved - np.einsum("nck,nck->nc", probability, moved)[..., None])
        product = _apply(z.T, bent) + penalised * search
        length = (size / _dot(search, product))[:, None]
        direction += length * search
        change += length * moved
        residual -= length * product
        scaled = residual / diagonal
        new_size = _dot(residual, scaled)
        going = new_size > enough
        if not going.all():
            # The Cs that have ended leave the stack, so that the products get smaller.
            results[0][:, active[~going]] = direction[:, ~going]
            results[1][:, active[~going]] = change[:, ~going]
            active, enough = active[going], enough[going]
            size, new_size = size[going], new_size[going]
            direction, change = direction[:, going], change[:, going]
            residual, scaled, search = residual[:, going], scaled[:, going], search[:, going]
            weight, probability = weight[:, going], probability[:, going]
            diagonal = diagonal[:, going]
            if not len(active):
                break
        search *= (new_size / size)[:, None]
        search += scaled
        size = new_size
    results[0][:, active], results[1][:, active] = direction, change
    return results


def _line_search(
    target: FloatArray,
    c: FloatArray,
    point: FloatArray,
    gradient: FloatArray,
    scores: FloatArray,
    loss: FloatArray,
    direction: FloatArray,
    change: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Halve each C's step until the objective falls enough (Armijo), up to rounding.

    Returns:
        step sizes [C], and at the new point scores, probabilities and losses.
    """
    weights, turn = point[:-1], direction[:-1]
    square, cross, turn_square = _dot(weights, weights), _dot(weights, turn), _dot(turn, turn)
    objective = c * loss.sum(0) + square / 2
    # A loss is a difference of scores, so it carries their rounding errors.
    noise = 4 * _EPS * (objective + c * np.abs(scores).max(2).sum(0))
    slope = _dot(gradient, direction)
    size = np.ones(len(c))
    for _ in range(40):
        new_scores = scores + size[:, None] * change
        probability, new_loss = _softmax_loss(new_scores, target)
        penalty = (square + 2 * size * cross + size**2 * turn_square) / 2
        limit = objective + 1e-4 * size * slope + noise
        fallen = c * new_loss.sum(0) + penalty <= limit
        if fallen.all():
            break
        size = np.where(fallen, size, size / 2)
    return size, new_scores, probability, new_loss
