"""Least squares in one pass: what a linear map to landmarks needs of its examples, batch by batch.

Normal equations would square the condition number. The triangular factor of a QR decomposition is
as small and does not: that of all examples is the factor of the examples so far on top of the new
ones.
"""

import numpy as np

from partbench.metrics.landmarks import BoolArray, FloatArray, LinearMap


class Factors:
    """Triangular factors of the examples of each of L landmarks; memory does not grow with them.

    Args:
        inputs: D.
        landmarks: L.
        intercept: see `landmarks.fit`.
    """

    def __init__(self, inputs: int, landmarks: int, intercept: bool) -> None:
        self.intercept = intercept
        self.n = np.zeros(landmarks, np.int64)
        """[L], examples of each landmark."""
        self._first: FloatArray | None = None
        """[D + 2 L], the first example, from which all are counted with an intercept: constant
        columns are then exact zeros."""
        columns = int(intercept) + inputs + 2
        self._factor: FloatArray = np.zeros((landmarks, 0, columns))

    def add(self, inputs: FloatArray, landmarks: FloatArray, use: BoolArray) -> None:
        """Count examples in.

        Args:
            inputs: [B, D].
            landmarks: [B, L, 2].
            use: [B, L], which of them each landmark is fitted on.
        """
        examples, n_landmarks = use.shape
        if not examples:
            return
        flat = np.concatenate([inputs, landmarks.reshape(examples, -1)], 1)
        if self.intercept:
            if self._first is None:
                # A hidden landmark may be anywhere.
                shown = np.concatenate([np.ones(inputs.shape[1]), use[0].repeat(2)])
                self._first = np.where(shown, flat[0], 0)
            flat = flat - self._first
        d = inputs.shape[1]
        y = flat[:, d:].reshape(examples, n_landmarks, 2).transpose(1, 0, 2)
        x = np.broadcast_to(flat[:, :d], (n_landmarks, examples, d))
        one = np.ones((n_landmarks, examples, int(self.intercept)))
        rows = np.where(use.T[..., None], np.concatenate([one, x, y], 2), 0)
        together = np.concatenate([self._factor, rows], 1)
        self._factor = np.asarray(np.linalg.qr(together, mode="r"), np.float64)
        self.n += use.sum(0)

    def solve(self) -> LinearMap:
        """Return the map that `landmarks.fit` finds from the same examples, up to rounding."""
        n_landmarks, _, columns = self._factor.shape
        start, d = int(self.intercept), columns - 2 - int(self.intercept)
        coef, offset = np.empty((d, n_landmarks, 2)), np.zeros((n_landmarks, 2))
        for landmark, factor in enumerate(self._factor):
            # Below the row of ones, the factor is that of what is centred.
            x, y = factor[start:, start:-2], factor[start:, -2:]
            rcond = max(self.n[landmark], d) * np.finfo(np.float64).eps
            coef[:, landmark] = np.linalg.lstsq(x, y, rcond=rcond)[0]
            if self.intercept:
                assert self._first is not None
                means = factor[0, 1:] / factor[0, 0]
                first = self._first[:d], self._first[d + 2 * landmark : d + 2 * landmark + 2]
                mean_x, mean_y = means[:d] + first[0], means[d:] + first[1]
                offset[landmark] = mean_y - mean_x @ coef[:, landmark]
        return LinearMap(coef, offset)
