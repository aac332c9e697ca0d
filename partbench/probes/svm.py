"""The linear probe by support vector machines, as action recognition measures features.

Protocol. One machine a class against the rest, with the C of the paper, on features in their own
scale unless they are standardised. Beside it stands the accuracy at the C that held-out training
samples choose; where the data have groups, such as clips of one film, whole groups are held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.accuracy import label_ranks
from partbench.metrics.feature_blocks import linear_scores
from partbench.metrics.held_out import hold_out
from partbench.metrics.svm import Gram, Loss, Machines, gram, solve

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """How the test samples were classified with one way to set C, in F folds.

    Attributes:
        c: [F].
        gap: [F] the largest relative duality gap of a class.
        ranks: [F, N] classes that score above the true one.
        predicted: [F, N] labels.
    """

    c: FloatArray
    gap: FloatArray
    ranks: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def correct(self) -> FloatArray:
        """[N], in [0, 1]: the mean over folds."""
        return np.asarray((self.ranks == 0).mean(0), np.float64)

    def within(self, k: int) -> FloatArray:
        """[N], in [0, 1]: whether the true class is among the first k, the mean over folds."""
        return np.asarray((self.ranks < k).mean(0), np.float64)

    def confusion(self, labels: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
        """Return counts [true class, predicted class], over all folds."""
        counts = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(counts, (np.broadcast_to(labels, self.predicted.shape), self.predicted), 1)
        return counts


@dataclass(frozen=True)
class SvmResult:
    """Outcome of a probe.

    Attributes:
        fixed: at the C that was given.
        chosen: at the C chosen on held-out samples.
        c_on_border: [F] bool; the chosen C is the least or greatest tried.
        held_out_accuracy: [F, len(cs)] in [0, 1].
        n_train: [F] training samples.
    """

    fixed: Outcome
    chosen: Outcome
    c_on_border: NDArray[np.bool_]
    held_out_accuracy: FloatArray
    n_train: NDArray[np.int64]

    def details(self, labels: NDArray[np.integer], names: Sequence[str]) -> dict[str, Any]:
        """Return what is worth keeping beside the accuracies, plain json."""
        kept: dict[str, Any] = {"classes": list(names)}
        for name, outcome in (("fixed", self.fixed), ("held out", self.chosen)):
            counts = outcome.confusion(labels, len(names))
            totals = counts.sum(1)
            shares = np.diagonal(counts) / np.maximum(totals, 1)
            per_class = [100 * s if n else None for s, n in zip(shares, totals, strict=True)]
            kept[f"{name} C"] = {
                "C": outcome.c.tolist(),
                "duality gap": outcome.gap.tolist(),
                "per fold": (100 * (outcome.ranks == 0).mean(1)).tolist(),
                "per class": per_class,
                "confusion": counts.tolist(),
            }
        return kept | {
            "chosen C is on the border": self.c_on_border.tolist(),
            "held-out accuracy": (100 * self.held_out_accuracy).tolist(),
        }


def svm_probe(
    train_features: NDArray,
    train_labels: NDArray[np.integer],
    test_features: NDArray,
    test_labels: NDArray[np.integer],
    folds: Sequence[NDArray[np.integer]] | NDArray[np.integer] | None = None,
    *,
    c: float,
    cs: Sequence[float],
    loss: Loss,
    held_out: float,
    standardize: bool,
    seed: int = 0,
    groups: NDArray[np.integer] | None = None,
) -> SvmResult:
    """Probe frozen features with support vector machines.

    Args:
        train_features: [N, D] float32 or float64, an array or a memory map.
        train_labels: [N] integers.
        test_features: [N_test, D].
        test_labels: [N_test] integers.
        folds: F lists of distinct indices into the training samples; None trains on all of them.
        c: the C of the paper.
        cs: those of which held-out samples choose one.
        loss: of a sample.
        held_out: fraction of each class's training samples on which C is chosen.
        standardize: divide features by their standard deviation over the training samples.
        seed: draws the held-out samples, in every fold alike.
        groups: [N] of the training samples, see `draw_held_out`.

    Memory: as `gram` and `solve` say, for each fold in turn, and F * K * D float64.

    Raises:
        BadInput: from `gram` and `solve`; test samples of a class without training samples; fewer
            than two classes, or no class of which samples can be held out.
    """
    fits = []
    for i, fold in enumerate([None] if folds is None else folds):
        where = "training samples" if fold is None else f"fold {i}"
        rows: Any = slice(None) if fold is None else fold
        own = None if groups is None else groups[rows]
        labels = train_labels[rows]
        check_classes(labels, test_labels, where)
        fits.append(
            fit_machines(
                train_features[rows], labels, own, c, cs, loss, held_out, standardize, seed, where
            )
        )
    # All folds and both ways at once, so that the test features are read once.
    scores = linear_scores(
        test_features,
        np.concatenate([coef for fit in fits for coef, _ in fit.models]),
        np.concatenate([intercept for fit in fits for _, intercept in fit.models]),
    )
    sizes = [len(fit.classes) for fit in fits for _ in fit.models]
    parts = np.split(scores, np.cumsum(sizes)[:-1], axis=1)
    chosen_c = np.array([fit.chosen_c for fit in fits])
    return SvmResult(
        fixed=_outcome(fits, parts[::2], test_labels, np.full(len(fits), c), 0),
        chosen=_outcome(fits, parts[1::2], test_labels, chosen_c, 1),
        c_on_border=(chosen_c == min(cs)) | (chosen_c == max(cs)),
        held_out_accuracy=np.stack([fit.held_out_accuracy for fit in fits]),
        n_train=np.array([fit.n_train for fit in fits]),
    )


@dataclass(frozen=True)
class FittedMachines:
    """The machines of one fold, at the given C and at the chosen one.

    Attributes:
        classes: [K] labels, in the order of the machines.
        models: of each way to set C, coefficients [K, D] and intercepts [K].
        gaps: likewise, the largest relative duality gap of a class.
        chosen_c: on held-out samples.
        held_out_accuracy: [len(cs)] in [0, 1].
        n_train: training samples.
    """

    classes: NDArray[np.int64]
    models: list[tuple[FloatArray, FloatArray]]
    gaps: list[float]
    chosen_c: float
    held_out_accuracy: FloatArray
    n_train: int


def fit_machines(
    features: NDArray,
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | None,
    c: float,
    cs: Sequence[float],
    loss: Loss,
    held_out: float,
    standardize: bool,
    seed: int,
    where: str,
) -> FittedMachines:
    """Choose a C on held-out samples; fit on all with it and with the given one.

    Args and raises: as `svm_probe` says, of one fold; `where` names its samples for messages.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(f"{where}: only the class {classes[0]}; a classifier needs at least two.")
    held = hold_out(codes, held_out, np.random.default_rng(seed), groups, where)
    samples = gram(features, standardize)
    accuracy = _held_out_accuracy(samples, codes, len(classes), held, cs, loss)
    # Of equal accuracies the heaviest penalty.
    best = cs[np.lexsort((np.array(cs), -accuracy))[0]]
    solved: dict[float, Machines] = {}
    for value in (c, best):
        if value not in solved:
            solved[value] = solve(samples.products, codes, len(classes), value, loss)
    models = {value: samples.to_features(machines) for value, machines in solved.items()}
    return FittedMachines(
        classes,
        [models[value] for value in (c, best)],
        [float(solved[value].gap.max()) for value in (c, best)],
        best,
        accuracy,
        len(codes),
    )


def _held_out_accuracy(
    samples: Gram,
    codes: NDArray[np.int64],
    n_classes: int,
    held: NDArray[np.bool_],
    cs: Sequence[float],
    loss: Loss,
) -> FloatArray:
    """Return the accuracy [len(cs)] on the samples that are held out."""
    kept = samples.products[np.ix_(~held, ~held)]
    across = samples.products[np.ix_(held, ~held)]
    scores = [solve(kept, codes[~held], n_classes, c, loss).scores(across) for c in cs]
    ranks = label_ranks(np.stack(scores), codes[held], np.arange(n_classes))
    return np.asarray((ranks == 0).mean(1), np.float64)


def _outcome(
    fits: Sequence[FittedMachines],
    scores: Sequence[FloatArray],
    labels: NDArray[np.integer],
    c: FloatArray,
    way: int,
) -> Outcome:
    pairs = list(zip(scores, fits, strict=True))
    return Outcome(
        c,
        np.array([fit.gaps[way] for fit in fits]),
        np.stack([label_ranks(s, labels, fit.classes) for s, fit in pairs]),
        np.stack([fit.classes[s.argmax(1)] for s, fit in pairs]),
    )


def check_classes(train: NDArray[np.integer], test: NDArray[np.integer], where: str) -> None:
    """Refuse, with `BadInput`, test samples of a class that no machine was trained for."""
    unseen = np.setdiff1d(test, train)
    if len(unseen):
        n = int(np.isin(test, unseen).sum())
        raise BadInput(
            f"{where}: none of the class{'es' if len(unseen) > 1 else ''} "
            f"{', '.join(map(str, unseen[:10]))}{', ...' if len(unseen) > 10 else ''}, of which "
            f"{n} of {len(test)} test samples are; add training samples of them, or leave these "
            "test samples out"
        )
