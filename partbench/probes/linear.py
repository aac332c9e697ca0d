"""Linear probe: what a linear classifier reads from frozen features.

Protocol. Features are standardised with the mean and SD of the training samples. C is chosen on a
held-out part of the training samples by accuracy; then the classifier, multinomial logistic
regression at its exact optimum, is fitted again on all training samples and scored once on the
test samples. With folds, as STL-10's protocol asks for (Coates, Ng and Lee, AISTATS 2011), each
fold is such a probe of its own, and the accuracy is their mean. With `solver: svm`, support vector
machines take the classifier's place: see `partbench.probes.svm`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.metrics.accuracy import label_ranks
from partbench.metrics.feature_blocks import (
    check_features,
    check_finite,
    check_labels,
    linear_scores,
)
from partbench.metrics.held_out import hold_out
from partbench.metrics.logistic import Rotation, log_softmax, rotate, solve
from partbench.metrics.svm import Loss
from partbench.outputs.features import read as read_features
from partbench.probe import Metric, Numbers, Probe, Result, Setting
from partbench.probes.svm import SvmResult, svm_probe
from partbench.settings import Settings

VERSION = 2
"""Version of the definition; numbers of different versions are not comparable. Since 2 logistic
regression, too, holds out whole groups where samples have them."""

_TOP_K = 5
_TOP_K_FROM = 10  # classes; below that, top-5 says little


class LinearSettings(Settings):
    """Settings of the linear probe."""

    # From heavily to barely penalised, for some ten to ten thousand standardised features.
    cs: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
        1e-1,
        1.0,
        10.0,
        100.0,
    )
    # Fraction of each class's training samples on which C is chosen.
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    # Off, C acts on features in their own scale.
    standardize: bool = True
    solver: Literal["logistic", "svm"] = Field(
        "logistic",
        description="svm: support vector machines, one class against the rest, at `c` and at the "
        "C that held-out samples choose",
    )
    loss: Loss = Field("hinge", description="of the machines")
    c: float = Field(100.0, gt=0, description="of the machines; action recognition's custom")

    @model_validator(mode="after")
    def _of_the_solver(self) -> Self:
        if self.solver == "logistic" and (self.loss, self.c) != ("hinge", 100.0):
            raise ValueError("`loss` and `c` are those of `solver: svm`; set it, or leave them out")
        return self


class LinearSetting(Setting):
    """What tells numbers of a metric apart."""

    svm: Loss | None = Field(None, description="none: logistic regression")
    c: float | None = Field(None, description="none: chosen on held-out training samples")


@dataclass(frozen=True)
class LinearResult:
    """Outcome of a linear probe with F folds (one where none are given).

    Attributes:
        accuracy: [F] top-1, in [0, 1].
        top5: [F] top-5, in [0, 1]; None with fewer than 10 classes.
        correct: [F, N_test] bool, whether the top-1 prediction is right.
        cs: the C values tried.
        chosen_c: [F].
        c_on_border: [F] bool; chosen_c is the least or greatest tried, so a wider grid may do
            better.
        held_out_accuracy: [F, len(cs)] in [0, 1].
        n_train: [F] training samples.
        version: of the definition.
    """

    accuracy: NDArray[np.float64]
    top5: NDArray[np.float64] | None
    correct: NDArray[np.bool_]
    cs: tuple[float, ...]
    chosen_c: NDArray[np.float64]
    c_on_border: NDArray[np.bool_]
    held_out_accuracy: NDArray[np.float64]
    n_train: NDArray[np.int64]
    version: int = VERSION

    @property
    def mean(self) -> float:
        """Mean accuracy over folds, in [0, 1]."""
        return float(self.accuracy.mean())

    @property
    def sd(self) -> float | None:
        """Standard deviation of the accuracy over folds (ddof 1); None with one fold."""
        return float(self.accuracy.std(ddof=1)) if len(self.accuracy) > 1 else None


@dataclass(frozen=True)
class _Fit:
    """The classifier of one fold, for features as given."""

    classes: NDArray[np.int64]
    coef: NDArray[np.float64]  # [K, D]
    intercept: NDArray[np.float64]  # [K]
    chosen_c: float
    held_out_accuracy: NDArray[np.float64]  # [len(cs)]


def linear_probe(
    train_features: NDArray,
    train_labels: NDArray[np.integer],
    test_features: NDArray,
    test_labels: NDArray[np.integer],
    folds: Sequence[NDArray[np.integer]] | NDArray[np.integer] | None = None,
    settings: LinearSettings | None = None,
    seed: int = 0,
    groups: NDArray[np.integer] | None = None,
) -> LinearResult:
    """Probe frozen features with a linear classifier.

    Args:
        train_features: [N, D] float32 or float64, an array or a memory map.
        train_labels: [N] integers.
        test_features: [N_test, D].
        test_labels: [N_test] integers. Samples of a class that a fold's training samples lack
            count as wrong.
        folds: F lists of distinct indices into the training samples; None trains on all of them.
        settings: None for the defaults.
        seed: draws the held-out samples, in every fold alike.
        groups: [N] of the training samples, see `draw_held_out`.

    Memory: a fold's samples are copied in their own dtype; beyond that as `rotate` says, and
    N_test * F * K float64 for the scores.

    Raises:
        BadInput: shapes that do not fit, labels that are not integers, features that are not
            finite (the row is named) or all constant, a fold with an index that is repeated or
            out of range, fewer than two classes, or no class with two samples (or groups).
    """
    settings = settings or LinearSettings()
    _check_sets(train_features, train_labels, test_features, test_labels)
    if folds is None:
        fits = [_fit(train_features, train_labels, groups, settings, seed, "training samples")]
        n_train = [len(train_labels)]
    else:
        check_folds(folds, len(train_labels), "folds")
        fits = [
            _fit(
                train_features[fold],
                train_labels[fold],
                None if groups is None else groups[fold],
                settings,
                seed,
                f"fold {i}",
            )
            for i, fold in enumerate(folds)
        ]
        n_train = [len(fold) for fold in folds]

    # All folds at once, so that the test features are read once.
    scores = linear_scores(
        test_features,
        np.concatenate([fit.coef for fit in fits]),
        np.concatenate([fit.intercept for fit in fits]),
    )
    per_fold = np.split(scores, np.cumsum([len(fit.classes) for fit in fits])[:-1], axis=1)
    ranks = np.stack(
        [label_ranks(s, test_labels, f.classes) for s, f in zip(per_fold, fits, strict=True)]
    )
    many_classes = len(np.unique(train_labels)) >= _TOP_K_FROM
    chosen_c = np.array([fit.chosen_c for fit in fits])
    return LinearResult(
        accuracy=(ranks == 0).mean(1),
        top5=(ranks < _TOP_K).mean(1) if many_classes else None,
        correct=ranks == 0,
        cs=settings.cs,
        chosen_c=chosen_c,
        c_on_border=(chosen_c == min(settings.cs)) | (chosen_c == max(settings.cs)),
        held_out_accuracy=np.stack([fit.held_out_accuracy for fit in fits]),
        n_train=np.array(n_train),
    )


def _fit(
    features: NDArray,
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | None,
    settings: LinearSettings,
    seed: int,
    where: str,
) -> _Fit:
    """Choose C on held-out samples, then fit on all.

    Both fits use one rotation: it spans the samples of either, and the penalty does not see it,
    so both are exact. It also means that the mean and SD are those of all samples given here, so
    that a C means the same where it is chosen and where it is used.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(f"{where}: only the class {classes[0]}; a classifier needs at least two.")
    held = hold_out(codes, settings.held_out, np.random.default_rng(seed), groups, where)
    rotation = rotate(features, settings.standardize)
    accuracy, log_loss = _held_out_scores(rotation, codes, len(classes), held, settings)
    best = np.lexsort((np.array(settings.cs), log_loss, -accuracy))[0]
    solution = solve(rotation.z, codes, len(classes), [settings.cs[best]])
    coef, intercept = rotation.to_features(solution)
    return _Fit(classes, coef[0], intercept[0], settings.cs[best], accuracy)


def _held_out_scores(
    rotation: Rotation,
    codes: NDArray[np.int64],
    n_classes: int,
    held: NDArray[np.bool_],
    settings: LinearSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracy and mean log-loss [len(cs)] on the samples that are held out."""
    solution = solve(rotation.z[~held], codes[~held], n_classes, settings.cs)
    scores = rotation.z[held] @ solution.transpose(0, 2, 1)
    accuracy = (label_ranks(scores, codes[held], np.arange(n_classes)) == 0).mean(1)
    own = np.take_along_axis(log_softmax(scores), codes[held][None, :, None], axis=2)
    return accuracy, -own.mean((1, 2))


def _check_sets(
    train_features: NDArray, train_labels: NDArray, test_features: NDArray, test_labels: NDArray
) -> None:
    _check_set(train_features, train_labels, "training")
    _check_set(test_features, test_labels, "test")
    if train_features.shape[1] != test_features.shape[1]:
        raise BadInput(
            f"training features have {train_features.shape[1]} values per sample, test features "
            f"{test_features.shape[1]}; extract both with the same model."
        )


def _check_set(features: NDArray, labels: NDArray, name: str) -> None:
    check_features(features, f"{name} features")
    check_labels(labels, len(features), f"{name} labels")
    check_finite(features, f"{name} features")


def check_folds(
    folds: Sequence[NDArray[np.integer]] | NDArray[np.integer], n: int, where: str
) -> None:
    """Refuse, with `BadInput`, folds that are not lists of distinct indices in 0..n - 1."""
    if len(folds) == 0:
        raise BadInput(f"{where}: empty; leave folds out to train on all samples.")
    for i, fold in enumerate(folds):
        if fold.ndim != 1 or fold.dtype.kind not in "iu" or len(fold) == 0:
            raise BadInput(
                f"{where}: fold {i} is {fold.dtype} of shape {list(fold.shape)}; expected a list "
                f"of integer indices into the {n} training samples."
            )
        wrong = fold[(fold < 0) | (fold >= n)]
        if len(wrong):
            raise BadInput(
                f"{where}: fold {i} holds the index {wrong[0]}, but the {n} training samples are "
                f"numbered 0 to {n - 1}."
            )
        if len(np.unique(fold)) < len(fold):
            raise BadInput(f"{where}: fold {i} holds an index twice; list each sample once.")


def svm_of(
    train_features: NDArray,
    train_labels: NDArray[np.integer],
    test_features: NDArray,
    test_labels: NDArray[np.integer],
    folds: Sequence[NDArray[np.integer]] | NDArray[np.integer] | None,
    settings: LinearSettings,
    seed: int,
    groups: NDArray[np.integer] | None = None,
) -> SvmResult:
    """Probe frozen features with support vector machines: `svm_probe` with the probe's settings.

    Args and raises: as `linear_probe` and `svm_probe` say.
    """
    _check_sets(train_features, train_labels, test_features, test_labels)
    if folds is not None:
        check_folds(folds, len(train_labels), "folds")
    return svm_probe(
        train_features,
        train_labels,
        test_features,
        test_labels,
        folds,
        c=settings.c,
        cs=settings.cs,
        loss=settings.loss,
        held_out=settings.held_out,
        standardize=settings.standardize,
        seed=seed,
        groups=groups,
    )


def _svm_numbers(
    result: SvmResult, settings: LinearSettings, labels: NDArray[np.int64], names: Sequence[str]
) -> Result:
    """Return the numbers at the C of the paper and at the chosen one."""
    numbers = Numbers("%", "higher")
    for outcome, c in ((result.fixed, settings.c), (result.chosen, None)):
        setting = LinearSetting(svm=settings.loss, c=c)
        numbers.add("top1", setting, outcome.correct, scale=100)
        if len(names) >= _TOP_K_FROM:
            numbers.add("top5", setting, outcome.within(_TOP_K), scale=100)
    return numbers.result({"C": list(settings.cs), **result.details(labels, names)})


class Linear(Probe):
    """The linear probe of a run's features; with folds where the data set has them."""

    Settings = LinearSettings
    Setting = LinearSetting
    # A Fisher vector has a norm of its own, so its features keep their scale.
    PAPER: ClassVar = {data: {"solver": "svm", "standardize": False} for data in ("ucf101", "cub")}
    references = ("alain2017probes", "coates2011stl")
    version = VERSION
    needs = ("features",)

    @classmethod
    def random(cls, metric: str) -> bool:
        """Return true: the seed draws the held-out samples that choose C."""
        return True

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("labels",),)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the features in `source`; see `Probe.run`."""
        prepared = Prepared(data)
        train, test = prepared.split("train"), prepared.split("test")
        train_features = read_features(source, "train", len(train))
        labels = np.array(test.annotation("labels"))
        given = (
            train_features,
            np.array(train.annotation("labels")),
            read_features(source, "test", len(test)),
            labels,
            np.array(train.annotation("folds")) if train.has("folds") else None,
            settings,
            seed,
            np.array(train.annotation("groups")) if train.has("groups") else None,
        )
        if settings.solver == "svm":
            names = prepared.meta["class_names"]
            return _svm_numbers(svm_of(*given), settings, labels, names)
        result = linear_probe(*given)
        n = len(test)
        metrics = [
            Metric(
                "top1",
                LinearSetting(),
                100 * result.mean,
                "%",
                "higher",
                n,
                samples="correct",
                scale=100,
            )
        ]
        if result.top5 is not None:
            top5 = 100 * float(result.top5.mean())
            metrics.append(Metric("top5", LinearSetting(), top5, "%", "higher", n))
        details = {
            "features": train_features.shape[1],
            "per fold": (100 * result.accuracy).tolist(),
            "sd over folds": None if result.sd is None else 100 * result.sd,
            "C": list(result.cs),
            "chosen C": result.chosen_c.tolist(),
            "chosen C is on the border": result.c_on_border.tolist(),
            "held-out accuracy": (100 * result.held_out_accuracy).tolist(),
        }
        return Result(metrics, pd.DataFrame({"correct": result.correct.mean(0)}), details)
