"""A linear classifier on features, as a function and batch by batch."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.feature_blocks import check_features, check_finite, check_labels
from partbench.probes.linear import VERSION, LinearSettings, linear_probe, svm_of
from partbench.rulers.common import Estimate, array, public
from partbench.score.linear import accuracy_of


@public
def linear_accuracy(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    folds: Sequence[Any] | None = None,
    train_groups: Any = None,
    test_groups: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Estimate:
    """Return the top-1 accuracy of a linear classifier on frozen features.

    Logistic regression, or a support vector machine, as the probe `linear` has it: C is chosen on
    held-out training samples.

    Args:
        train_features: [N, D].
        train_labels: [N] integers.
        test_features: [M, D].
        test_labels: [M]; those of a class without a training sample count as wrong.
        folds: lists of distinct indices of training samples; the accuracy is the mean over them.
        train_groups: [N] integers; samples of one are held out together, by `solver="svm"`.
        test_groups: [M] integers; the interval is then over groups.
        seed: draws the held-out samples.
        settings: of the probe, such as `cs=[0.01, 0.1]`, `standardize=False`, `solver="svm"`.

    Returns:
        The accuracy in %, with Wilson's interval over test samples, or Student's over groups.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, fewer than two classes.
    """
    chosen = LinearSettings.parse(settings, "linear_accuracy")
    train = _samples(train_features, train_labels, "train_")
    test = _samples(test_features, test_labels, "test_")
    listed = None if folds is None else [array(fold, "folds") for fold in folds]
    groups = None if train_groups is None else array(train_groups, "train_groups")
    if groups is not None:
        check_labels(groups, len(train[1]), "train_groups")
    if chosen.solver == "svm":
        correct = svm_of(*train, *test, listed, chosen, seed, groups).fixed.correct
    elif groups is not None:
        raise BadInput("`train_groups` is for solver='svm'; leave it out")
    else:
        correct = linear_probe(*train, *test, listed, chosen, seed).correct.mean(0)
    groups = None if test_groups is None else array(test_groups, "test_groups")
    if groups is not None:
        check_labels(groups, len(correct), "test_groups")
    share, low, high = accuracy_of(correct, groups)
    return Estimate(100 * share, (100 * low, 100 * high), "%", len(correct), VERSION)


class LinearAccuracy:
    """`linear_accuracy` batch by batch, for a validation loop.

    First or meanwhile `fit` takes training samples, `update` takes test samples. All are kept, in
    their own dtype: a logistic regression has no statistics that would do instead of them.

    Args:
        seed: see `linear_accuracy`.
        settings: likewise.
    """

    @public
    def __init__(self, *, seed: int = 0, **settings: Any) -> None:
        LinearSettings.parse(settings, "LinearAccuracy")
        self._seed, self._settings = seed, settings
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._train: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._test: list[tuple[NDArray[Any], NDArray[Any]]] = []

    @public
    def fit(self, features: Any, labels: Any) -> Self:
        """Count training samples in: features [B, D], labels [B].

        Raises:
            ValueError: as `linear_accuracy`.
        """
        _keep(self._train, self._test, features, labels)
        return self

    @public
    def update(self, features: Any, labels: Any) -> Self:
        """Count test samples in: features [B, D], labels [B].

        Raises:
            ValueError: as `linear_accuracy`.
        """
        _keep(self._test, self._train, features, labels)
        return self

    @public
    def compute(self) -> Estimate:
        """Return the accuracy of all batches so far; see `linear_accuracy`.

        Raises:
            ValueError: also without training or test samples.
        """
        if not self._train or not self._test:
            raise BadInput("there are no samples; give some to `fit`, and some to `update`")
        train, test = (
            tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))
            for batches in (self._train, self._test)
        )
        return linear_accuracy(*train, *test, seed=self._seed, **self._settings)


def _keep(
    batches: list[tuple[NDArray[Any], NDArray[Any]]],
    others: list[tuple[NDArray[Any], NDArray[Any]]],
    features: Any,
    labels: Any,
) -> None:
    features, labels = array(features, "features"), array(labels, "labels")
    if features.ndim == 2 and not len(features) and labels.shape == (0,):
        return
    features, labels = _samples(features, labels, "")
    for known, _ in (*batches[:1], *others[:1]):
        if known.shape[1] != features.shape[1]:
            raise BadInput(
                f"features have {features.shape[1]} values a sample, those before {known.shape[1]}"
            )
    batches.append((np.array(features), np.array(labels)))


def _samples(features: Any, labels: Any, of: str) -> tuple[NDArray[Any], NDArray[Any]]:
    features, labels = array(features, f"{of}features"), array(labels, f"{of}labels")
    check_features(features, f"{of}features")
    check_labels(labels, len(features), f"{of}labels")
    check_finite(features, f"{of}features")
    return features, labels
